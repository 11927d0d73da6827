"""The weight that an optimizer's step gives to each gradient of the past."""

import jax
import jax.numpy as jnp
import numpy as np

from optimx.training.optimizer import OFF, Rule, transformation

# Of rules whose step is a sum of past gradients over a denominator.
LINEAR = ("adamw", "ademamix", "mars_adamw", "mars_adamw_lean", "mars_ademamix")
_IMPULSE = 2.0**-20


def weights_by_age(rule: Rule, steps: int) -> np.ndarray:
    """Weights at step ``steps`` of the gradients of ages 0, 1, ..., steps - 1.

    The optimizer itself is asked: it is fed gradients whose element s is an impulse at
    step s and 0 else, so that after the last step element s of its update is the
    weight of the gradient of step s. With an eps of 1 and an impulse of 2^-20 the
    denominator is 1 to float32's precision. The learning rate is 1, without decay.

    Args:
      rule: one of ``LINEAR``.
      steps: fed; ramps are those of the rule.
    """
    numbers = dict(rule.hyperparameters) | {"eps": 1.0, "weight_decay": 0.0}
    asked = Rule(rule.name, 1.0, numbers)
    tx = transformation(asked, 1.0)
    zeros = jnp.zeros(steps)

    def feed(state, s):
        gradient = _IMPULSE * jax.nn.one_hot(s, steps)
        updates, state = tx.update(gradient, state, zeros)
        return state, updates

    _, updates = jax.lax.scan(feed, tx.init(zeros), jnp.arange(steps))
    return -np.asarray(updates[-1], np.float64)[::-1] / _IMPULSE


def ramps(rule: Rule) -> dict[str, object]:
    """What of a rule changes along a run, for the record."""
    keys = ("b1", "b3", "alpha", "gamma", "b3_warmup", "alpha_warmup")
    known = rule.hyperparameters
    return {key: known[key] for key in keys if known.get(key, OFF) != OFF}
