"""The factored preconditioner: a second moment kept as rows and columns."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimx import _checks, _tree
from optimx.typing import Scalar


class ScaleByFactoredRmsState(NamedTuple):
    """State of :func:`scale_by_factored_rms`.

    Attributes:
      row: moving average of the squares' mean over the last axis, shape
        ``p.shape[:-1]``; for leaves of rank below 2, where nothing can be averaged,
        the full second moment.
      column: the same for the second last axis, shape
        ``p.shape[:-2] + p.shape[-1:]``; for leaves of rank below 2 an unused zero.
    """

    row: optax.Updates
    column: optax.Updates


def scale_by_factored_rms(
    decay: Scalar, *, eps: Scalar = 1e-30
) -> optax.GradientTransformationExtraArgs:
    r"""Divides by the root of a second moment that is factored over two axes.

    With :math:`S = |s_t|^2 + \epsilon` for leaves of rank at least 2, over the last
    two axes,

    .. math::
        r_t &= \beta r_{t-1} + (1-\beta)\,\operatorname{mean}_{-1} S, \qquad
        k_t = \beta k_{t-1} + (1-\beta)\,\operatorname{mean}_{-2} S \\
        u &\leftarrow u \,\sqrt{\operatorname{mean} r_t}\,
            \big/ \bigl(\sqrt{r_t} \otimes \sqrt{k_t}\bigr)

    and :math:`v_t = \beta v_{t-1} + (1-\beta) S`, :math:`u \leftarrow u/\sqrt{v_t}`
    for the others. Leading axes are batch axes. There is no bias correction: the
    first steps are longer by :math:`(1-\beta^t)^{-1/2}`, which CAME bounds by
    clipping and warm-up.

    A preconditioner: the signal s is ``observed`` where ``update`` is given it, and
    the incoming update itself where not. Statistics are float32 at least (1e-30
    underflows below it) and kept finite, so that a huge gradient leaves no NaN.

    Args:
      decay: the rate :math:`\beta` of the averages, in [0, 1).
      eps: added to the squares; above 0.

    Returns:
      A transformation whose updates keep their shapes and dtypes. Its state is a
      :class:`ScaleByFactoredRmsState`: rows + columns numbers for a matrix of rows
      times columns.

    Raises:
      ValueError: where ``decay`` is outside [0, 1) or ``eps`` not above 0; at
        ``init`` where a parameter is not floating-point or complex.

    Examples:
      >>> import jax, jax.numpy as jnp, optimx
      >>> factored = optimx.scale_by_factored_rms(0.999)
      >>> state = factored.init(jnp.zeros((6, 4)))
      >>> print(state.row.shape, state.column.shape)
      (6,) (4,)

    References:
      Shazeer and Stern, *Adafactor*, 2018, https://arxiv.org/abs/1804.04235,
      algorithm 2; axes as in the code of Luo et al., *CAME*, 2023,
      https://arxiv.org/abs/2307.02047.
    """
    where = "scale_by_factored_rms"
    _checks.decay(where, "decay", decay)
    _checks.positive(where, "eps", eps)

    def zeros(p):
        return _tree.zeros(p, _tree.real_dtype(_tree.accumulator(p)))

    def row_of(square):
        return _tree.mean(square, -1) if square.ndim >= 2 else square

    def column_of(square):
        if square.ndim >= 2:
            return _tree.mean(square, -2)
        return jnp.zeros([], square.dtype)

    def init(params):
        _checks.inexact_leaves(where, params)
        squares = jax.tree.map(zeros, _tree.materialized(params))
        return ScaleByFactoredRmsState(
            jax.tree.map(row_of, squares), jax.tree.map(column_of, squares)
        )

    def average(old, new):
        b = _tree.like(decay, old)
        # Finite, and small enough for a finite mean: an infinite row would turn
        # into NaN where it is divided by the mean of the rows.
        limit = jnp.finfo(old.dtype).max / max(old.size, 1)
        return jnp.minimum(b * old + (1 - b) * new.astype(old.dtype), limit)

    def update(updates, state, params=None, *, observed=None, **extra_args):
        del params, extra_args
        signal = updates if observed is None else observed

        def step(u, s, row, column):
            square = _tree.square(s.astype(_tree.arithmetic(s, row)))
            wide = u.astype(_tree.arithmetic(u, row))
            real = _tree.real_dtype(wide.dtype)
            row = average(row, row_of(square) + _tree.like(eps, square))
            if u.ndim < 2:
                scale = jax.lax.rsqrt(row).astype(real)
                return (wide * scale).astype(u.dtype), row, column
            column = average(column, column_of(square) + _tree.like(eps, square))
            # Roots before products: row / mean(row) underflows for a row of zero
            # gradients beside a large one.
            total = jnp.sqrt(_tree.mean(row, -1))[..., None]
            left = (jax.lax.rsqrt(row) * total)[..., None].astype(real)
            right = jax.lax.rsqrt(column)[..., None, :].astype(real)
            return (wide * left * right).astype(u.dtype), row, column

        updates, row, column = _tree.map_to(
            3, step, updates, signal, state.row, state.column
        )
        return updates, ScaleByFactoredRmsState(row, column)

    return optax.GradientTransformationExtraArgs(init, update)
