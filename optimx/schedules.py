"""Schedules for memories and learning rates.

A schedule is a function from a step count to a scalar. Those for ``b3``, ``alpha``
and ``gamma`` are evaluated at t = 1, 2, ..., those for learning rates from 0, as
Optax does.
"""

import math

import jax
import jax.numpy as jnp
import optax

from optimx import _checks
from optimx.typing import Scalar


def _progress(count: jax.typing.ArrayLike, steps: int) -> jax.Array:
    """The share of ``steps`` that is done: from 0 to 1, then 1."""
    return jnp.clip(jnp.asarray(count, float) / steps, 0.0, 1.0)


def half_life_warmup(start: float, end: float, steps: int) -> optax.Schedule:
    r"""Raises a decay rate so that its half-life grows linearly: AdEMAMix's b3.

    .. math:: \beta(t) = f^{-1}\bigl((1 - \tau) f(\text{start}) + \tau
        f(\text{end})\bigr), \qquad \tau = \min(t/\text{steps}, 1)

    with :math:`f(\beta) = \log\tfrac12 / \log\beta - 1`, the number of steps, less
    one, after which a gradient weighs half. A linear ramp of the rate itself would
    spend nearly all of its steps at short memories.

    Args:
      start: the rate at t = 0, in [0, 1); AdEMAMix takes its ``b1``.
      end: the rate from t = ``steps`` on, in (0, 1).
      steps: the length of the ramp in updates, at least 1; AdEMAMix takes the
        length of the run.

    Returns:
      A schedule, for ``b3=``.

    Raises:
      ValueError: where a rate is out of range or ``steps`` below 1.

    Examples:
      >>> import optimx
      >>> b3 = optimx.half_life_warmup(0.9, 0.9999, 1000)
      >>> print(round(float(b3(500)), 4), round(float(b3(2000)), 4))
      0.9998 0.9999

    References:
      Pagliardini et al., *The AdEMAMix Optimizer*, 2024,
      https://arxiv.org/abs/2409.03137, appendix A.1.
    """
    _checks.decay("half_life_warmup", "start", start)
    _checks.decay("half_life_warmup", "end", end)
    _checks.positive("half_life_warmup", "end", end)
    _checks.steps("half_life_warmup", "steps", steps)

    def half_life(decay):
        return math.log(0.5) / math.log(decay) if decay > 0 else 0.0

    first, last = half_life(start), half_life(end)

    def schedule(count):
        progress = _progress(count, steps)
        return 0.5 ** (1 / ((1 - progress) * first + progress * last))

    return schedule


def linear_warmup(end: float, steps: int) -> optax.Schedule:
    r"""Rises from 0 to ``end`` over ``steps`` updates: AdEMAMix's alpha.

    .. math:: w(t) = \text{end} \cdot \min(t / \text{steps}, 1)

    Args:
      end: the value from t = ``steps`` on, a finite number.
      steps: the length of the ramp in updates, at least 1.

    Returns:
      A schedule, for ``alpha=`` or ``gamma=``.

    Raises:
      ValueError: where ``end`` is not finite or ``steps`` below 1.

    Examples:
      >>> import optimx
      >>> alpha = optimx.linear_warmup(8.0, 1000)
      >>> print(alpha(250), alpha(5000))
      2.0 8.0

    References:
      Pagliardini et al., *The AdEMAMix Optimizer*, 2024,
      https://arxiv.org/abs/2409.03137, section 3.
    """
    _checks.finite("linear_warmup", "end", end)
    _checks.steps("linear_warmup", "steps", steps)
    return lambda count: end * _progress(count, steps)


def warmup_stable_decay(
    peak: Scalar, *, steps: int, warmup: int, decay: int, end: Scalar = 0.0
) -> optax.Schedule:
    """Rises linearly, stays, and falls linearly: a learning rate for open-ended runs.

    Args:
      peak: the value between the ramps, at least 0.
      steps: the length of the run in updates, at least 1.
      warmup: updates of the rise from 0, at least 0.
      decay: updates of the final fall to ``end``, at least 0; together with
        ``warmup`` at most ``steps``.
      end: the value from ``steps`` on, at least 0.

    Returns:
      A schedule, for ``learning_rate=`` (Optax counts from 0).

    Raises:
      ValueError: where a number is out of range or the ramps do not fit.

    Examples:
      >>> import optimx
      >>> rate = optimx.warmup_stable_decay(1.0, steps=100, warmup=10, decay=20)
      >>> print([float(rate(count)) for count in (0, 5, 10, 80, 90, 100)])
      [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]

    References:
      Hu et al., *MiniCPM*, 2024, https://arxiv.org/abs/2404.06395, section 4.
    """
    where = "warmup_stable_decay"
    _checks.non_negative(where, "peak", peak)
    _checks.non_negative(where, "end", end)
    _checks.steps(where, "steps", steps)
    _checks.steps(where, "warmup", warmup, least=0)
    _checks.steps(where, "decay", decay, least=0)
    if warmup + decay > steps:
        raise ValueError(
            f"{where}: warmup + decay must be at most steps, got {warmup} + {decay} "
            f"> {steps}."
        )

    def schedule(count):
        rise = _progress(count, warmup) if warmup else 1.0
        fall = _progress(count - (steps - decay), decay) if decay else 0.0
        return rise * peak + fall * (end - peak)

    return schedule


def horizon(steps: int, fraction: float = 0.2) -> float:
    r"""The slow decay that suits a run of ``steps`` updates.

    .. math:: b_3 = 1 - \frac{1}{\text{fraction} \cdot \text{steps}}

    An average with this rate remembers about ``fraction`` of the run. AdEMAMix's
    published 0.9999 is meant for runs of 100,000 updates and more, and makes short
    ones diverge.

    Args:
      steps: the length of the run in updates, at least 1.
      fraction: the share of the run to remember, above 0.

    Returns:
      A decay rate in [0, 1); 0 where the memory is shorter than one update.

    Raises:
      ValueError: where ``steps`` is below 1 or ``fraction`` not above 0.

    Examples:
      >>> import optimx
      >>> print(optimx.horizon(5000))
      0.999
    """
    _checks.steps("horizon", "steps", steps)
    _checks.positive("horizon", "fraction", fraction)
    return max(0.0, 1 - 1 / (fraction * steps))
