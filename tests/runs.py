"""Running a transformation over given gradients, and measuring how far it strays."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax


@contextlib.contextmanager
def double_precision():
    """64-bit JAX inside; before 0.8 the switch lived under `jax.experimental`."""
    if hasattr(jax, "enable_x64"):
        switch = jax.enable_x64(True)
    else:
        from jax.experimental import enable_x64

        switch = enable_x64()
    with switch:
        yield


def real(count):
    """A step count to compute with, since strict promotion divides no integers."""
    return count if isinstance(count, int) else count.astype(float)


def as_tree(tree, dtype):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def trajectory(transformation, init, gradients, dtype, **extra):
    """Parameters after every step, in float64 numpy, leaves (steps, ...).

    `gradients` and the trees in `extra` carry the steps along the first axis.
    """
    transformation = optax.with_extra_args_support(transformation)
    params = as_tree(init, dtype)

    def step(carry, signals):
        params, state = carry
        gradient, extra = signals
        updates, state = transformation.update(gradient, state, params, **extra)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    @jax.jit
    def run(params, gradients, extra):
        carry = params, transformation.init(params)
        return jax.lax.scan(step, carry, (gradients, extra))[1]

    path = run(params, as_tree(gradients, dtype), as_tree(extra, dtype))
    return jax.tree.map(lambda x: np.asarray(x, np.float64), path)


def outputs(transformation, params, gradients, **extra):
    """What comes out of `update` at each step, step by step, as numpy trees."""
    transformation = optax.with_extra_args_support(transformation)
    state = transformation.init(params)
    # Compiled once for all runs of one transformation over trees of one kind.
    update = jax.jit(transformation.update)
    out = []
    for t in range(len(jax.tree.leaves(gradients)[0])):
        gradient, rest = jax.tree.map(lambda x, t=t: x[t], (gradients, extra))
        updates, state = update(gradient, state, params, **rest)
        out.append(jax.tree.map(np.asarray, updates))
    return jax.tree.map(lambda *steps: np.stack(steps), *out)


def travel(init, path):
    """How far the parameters ever were from where they began."""
    return np.max(np.abs(path - init), initial=0.0)


def error(init, ours, theirs):
    """Largest deviation over leaves and steps, in units of the leaf's travel."""

    def of_leaf(init, ours, theirs):
        off = np.max(np.abs(ours - theirs), initial=0.0)
        assert np.isfinite(off), "not a number"
        # A leaf that should not move must not move at all.
        return 0.0 if off == 0 else off / travel(init, theirs)

    with np.errstate(divide="ignore"):
        errors = jax.tree.map(of_leaf, init, ours, theirs)
    return float(max(jax.tree.leaves(errors)))
