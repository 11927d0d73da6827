"""The diagonal preconditioner: Adam's denominator."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimx import _checks, _tree
from optimx.typing import Count, Scalar


class ScaleByRmsState(NamedTuple):
    """State of :func:`scale_by_rms`.

    Attributes:
      count: the number of updates seen, int32.
      second_moment: moving average of the signal's squared modulus; real, zero
        before the first update, never debiased.
    """

    count: Count
    second_moment: optax.Updates


def scale_by_rms(
    decay: Scalar,
    *,
    eps: Scalar = 1e-8,
    debias: bool = True,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Divides by the root of a moving average of squares.

    .. math:: v_t = \beta v_{t-1} + (1-\beta)\,|s_t|^2, \qquad
        u \leftarrow u \,/\, \bigl(\sqrt{v_t/(1-\beta^t)} + \epsilon\bigr)

    A preconditioner: the signal s is ``observed`` where ``update`` is given it, and
    the incoming update itself where not. So it is at once a stage and the ``by=``
    of :func:`precondition`.

    Args:
      decay: the rate :math:`\beta` of the average, in [0, 1).
      eps: added to the root, after the bias correction; at least 0.
      debias: whether the average is divided by :math:`1-\beta^t`.
      accumulator_dtype: the dtype of the average. By default float32, or the
        parameter's own (real) dtype where that is wider. Sums are taken in it where it
        is wider than float32.

    Returns:
      A transformation whose updates keep their shapes and dtypes. Its state is a
      :class:`ScaleByRmsState`: one number per parameter.

    Raises:
      ValueError: where ``decay`` is outside [0, 1) or ``eps`` negative; at ``init``
        where a parameter is not floating-point or complex.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> rms = optimx.scale_by_rms(0.99, eps=0.0)
      >>> gradient = jnp.array([3.0, -0.1])
      >>> rms.update(gradient, rms.init(gradient))[0]
      Array([ 1., -1.], dtype=float32)

    References:
      Kingma and Ba, *Adam*, 2014, https://arxiv.org/abs/1412.6980, algorithm 1.
    """
    _checks.decay("scale_by_rms", "decay", decay)
    _checks.non_negative("scale_by_rms", "eps", eps)

    def init(params):
        _checks.inexact_leaves("scale_by_rms", params)

        def zeros(p):
            dtype = _tree.accumulator(p, accumulator_dtype)
            return _tree.zeros(p, _tree.real_dtype(dtype))

        return ScaleByRmsState(jnp.zeros([], jnp.int32), jax.tree.map(zeros, params))

    def update(updates, state, params=None, *, observed=None, **extra_args):
        del params, extra_args
        signal = updates if observed is None else observed
        count = _tree.increment(state.count)

        def accumulate(s, v):
            square = _tree.square(s.astype(_tree.arithmetic(s, v)))
            v = v.astype(square.dtype)
            b = _tree.like(decay, v)
            return b * v + (1 - b) * square

        def divide(u, v):
            if debias:
                v = v / _tree.debias(decay, count, v.dtype)
            root = jnp.sqrt(v) + _tree.like(eps, v)
            wide = u.astype(_tree.arithmetic(u, root))
            return (wide / root.astype(_tree.real_dtype(wide.dtype))).astype(u.dtype)

        wide = jax.tree.map(accumulate, signal, state.second_moment)
        updates = jax.tree.map(divide, updates, wide)
        second_moment = jax.tree.map(
            lambda v, old: v.astype(old.dtype), wide, state.second_moment
        )
        return updates, ScaleByRmsState(count, second_moment)

    return optax.GradientTransformationExtraArgs(init, update)
