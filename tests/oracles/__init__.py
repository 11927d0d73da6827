"""The papers' algorithms in numpy, written as the papers print them.

One file per paper; each optimizer is a function of one parameter tensor and the
sequence of its gradients that returns the tensor after every step. Nothing here
imports jax, Optax or optimx. The step number `t` counts from 1; a learning rate
that is a function is called with `t - 1`, every other schedule with `t`.
"""


def at(value, t):
    """The value of a hyperparameter at step `t`, whether or not it is a schedule."""
    return value(t) if callable(value) else value
