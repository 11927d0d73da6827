"""Moving averages of the incoming updates."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimx import _checks, _probe, _tree
from optimx.typing import Count, Scalar, ScalarOrSchedule


class EmaState(NamedTuple):
    """State of :func:`ema`.

    Attributes:
      count: the number of updates seen, int32.
      average: the moving average, zero before the first update; never debiased.
    """

    count: Count
    average: optax.Updates


def ema(
    decay: ScalarOrSchedule,
    *,
    debias: bool = True,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Exponential moving average.

    .. math:: m_t = \beta_t m_{t-1} + (1 - \beta_t) u_t, \qquad
        \hat m_t = m_t / (1 - \beta^t)

    Args:
      decay: the rate :math:`\beta` in [0, 1), or a schedule that is evaluated at
        t = 1, 2, ... The number 0 is the identity and keeps no state.
      debias: whether :math:`\hat m_t` comes out rather than :math:`m_t`. A
        scheduled decay has no such correction.
      accumulator_dtype: the dtype of the average. By default float32, or the
        parameter's own dtype where that is wider. Sums are taken in it where it is
        wider than float32.

    Returns:
      A transformation whose updates keep their shapes and dtypes. Its state is an
      :class:`EmaState`: one number per parameter.

    Raises:
      ValueError: where ``decay`` is outside [0, 1), or is a schedule while
        ``debias`` is asked for; at ``init`` where a parameter is not floating-point
        or complex.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> average = optimx.ema(0.5, debias=False)
      >>> state = average.init(jnp.zeros(1))
      >>> for gradient in (4.0, 0.0):
      ...   smooth, state = average.update(jnp.array([gradient]), state)
      ...   print(smooth)
      [2.]
      [1.]

    References:
      Kingma and Ba, *Adam*, 2014, https://arxiv.org/abs/1412.6980, algorithm 1.
    """
    _checks.decay("ema", "decay", decay, schedule=True)
    if debias and callable(decay):
        raise ValueError(
            "ema: debias=True needs a constant decay, got a schedule; pass "
            "debias=False."
        )
    if _checks.is_zero(decay):
        return optax.with_extra_args_support(optax.identity())

    def init(params):
        _checks.inexact_leaves("ema", params)
        average = jax.tree.map(
            lambda p: _tree.zeros(p, _tree.accumulator(p, accumulator_dtype)), params
        )
        return EmaState(jnp.zeros([], jnp.int32), average)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        count = _tree.increment(state.count)
        beta = _tree.at(decay, count)
        if _probe.active():
            _probe.tell("age", age(beta, count), 1)

        def accumulate(u, m):
            wide = _tree.arithmetic(u, m)
            b = _tree.like(beta, m.astype(wide))
            return b * m.astype(wide) + (1 - b) * u.astype(wide)

        def read(u, m):
            if debias:
                m = m / _tree.debias(beta, count, m.dtype)
            return m.astype(u.dtype)

        wide = jax.tree.map(accumulate, updates, state.average)
        average = jax.tree.map(lambda m, old: m.astype(old.dtype), wide, state.average)
        return jax.tree.map(read, updates, wide), EmaState(count, average)

    return optax.GradientTransformationExtraArgs(init, update)


def age(decay: Scalar, count: jax.Array) -> jax.Array:
    r"""The mean age, in updates, of what an average holds after ``count`` updates.

    .. math:: \frac{\sum_{k<t} k \beta^k}{\sum_{k<t} \beta^k} =
        \frac{\beta}{1-\beta} - \frac{t \beta^t}{1-\beta^t}

    The newest gradient has the age 0. Of a scheduled decay it is the age at the
    present decay.
    """
    b = jnp.asarray(decay).astype(jnp.float32)
    t = count.astype(jnp.float32)
    seen = _tree.debias(b, count, jnp.float32)
    # While the average is young these are two near numbers; a series is none.
    series = (t - 1) / 2 + (t * t - 1) / 12 * jnp.log(b)
    closed = b / (1 - b) - t * (1 - seen) / seen
    return jnp.where(t * (1 - b) < 0.1, series, closed)
