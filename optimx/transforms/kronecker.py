"""Shampoo's preconditioner: a factor for the rows and one for the columns."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimx import _checks, _probe, _tree
from optimx.linalg import condition, moments, round_robin
from optimx.linalg.roots import inverse_root, or_previous
from optimx.stacks import in_stacks
from optimx.typing import Count, PyTree, Scalar


class ScaleByKroneckerState(NamedTuple):
    """State of :func:`scale_by_kronecker`, in stacks (:func:`in_stacks`).

    Attributes:
      count: the number of updates seen, int32.
      left: moving averages of G G^H, (matrices, blocks, rows, rows), or of its
        diagonal, (matrices, blocks, rows), where there are more rows than ``max_dim``.
      right: the same of G^H G for the columns.
      left_root: inverse roots of ``left``, the identity before the first refresh.
      right_root: inverse roots of ``right``.
      turn: the step of a cycle of ``update_every`` at which each block has its roots
        refreshed, int32, (matrices, blocks).
      skipped: how many signals were left out because they or their products were not
        finite, int32, (matrices, blocks).
      kept: how many refreshes kept the last root because the new one failed its check,
        int32, (matrices, blocks).
    """

    count: Count
    left: PyTree
    right: PyTree
    left_root: PyTree
    right_root: PyTree
    turn: PyTree
    skipped: PyTree
    kept: PyTree


def scale_by_kronecker(
    decay: Scalar,
    *,
    update_every: int = 10,
    exponent: int = 4,
    eps: Scalar = 1e-6,
    block_size: int | None = 1024,
    max_dim: int = 8192,
    spread: bool = True,
    root: Callable = inverse_root,
    tolerance: Scalar = 1e-3,
    mesh_axis: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Shampoo: multiplies a matrix by inverse roots of its two second moments.

    .. math::
        L_t &= \beta L_{t-1} + (1-\beta) S_t S_t^H, \qquad
        R_t = \beta R_{t-1} + (1-\beta) S_t^H S_t \\
        U &\leftarrow (\hat L + \epsilon \lambda_{\max} I)^{-1/p}\; U\;
            (\hat R + \epsilon \lambda_{\max} I)^{-1/p}, \qquad
        \hat L = L_t / (1-\beta^t)

    A preconditioner: the signal S is ``observed`` where ``update`` is given it, and
    the incoming update itself where not. Use it inside :func:`graft`, which gives the
    result the norm of another rule. The last two axes of a leaf are its matrix;
    leading axes are a batch. Large matrices are cut into blocks with factors of
    their own.

    Roots are refreshed every ``update_every`` steps, with the signal of that step
    folded in. By default the matrices take turns: each step refreshes its share of the
    stack, so that steps have about as much to do. Before its first turn, within the
    first ``update_every`` steps, a matrix has the identity for a root.

    A signal that is not finite changes no factor, and a root that fails its check
    leaves the last one in place; the state counts both, and
    :func:`optimx.monitor.read` finds the counts.

    Args:
      decay: the rate :math:`\beta` of the factors' averages, in [0, 1).
      update_every: steps between two refreshes of a root, at least 1.
      exponent: p, at least 1; 4 as in the paper, 2 for whitening each side alone.
      eps: the ridge, relative to the largest eigenvalue; finite, above 0.
      block_size: largest side of a block, at least 1; None cuts nothing.
      max_dim: a side longer than this (only without blocks, or with larger ones) has a
        diagonal factor.
      spread: whether matrices take turns; otherwise all roots are refreshed at the
        first step of every ``update_every``, as in the paper.
      root: a function of (matrix, p, eps=) that gives an inverse root and its residual:
        :func:`optimx.linalg.roots.inverse_root` (by eigenvalues) or
        :func:`optimx.linalg.roots.inverse_root_newton` (products only).
      tolerance: the largest residual of a root that is used; finite, above 0.
      mesh_axis: mesh axis or axes to split stacks over (:func:`in_stacks`).

    Returns:
      A transformation whose updates keep their shapes and dtypes. Factors and roots
      are float32 at least.

    Raises:
      ValueError: where a number is out of range; at ``init`` where a leaf is no
        matrix.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> tx = optimx.scale_by_kronecker(0.9, eps=1e-12, spread=False)
      >>> gradient = jnp.array([[3.0, 0.0], [0.0, -0.1]])
      >>> print(tx.update(gradient, tx.init(gradient))[0].round(3) + 0.0)
      [[ 1.  0.]
       [ 0. -1.]]

    References:
      Gupta et al., *Shampoo: Preconditioned Stochastic Tensor Optimization*, 2018,
      https://arxiv.org/abs/1802.09568, algorithm 1; Anil et al., *Scalable Second
      Order Optimization for Deep Learning*, 2020, https://arxiv.org/abs/2002.09018
      (moving averages, blocks, grafting).
    """
    where = "scale_by_kronecker"
    _checks.decay(where, "decay", decay)
    _checks.whole(where, "update_every", update_every)
    _checks.whole(where, "exponent", exponent)
    _checks.finite_positive(where, "eps", eps)
    if block_size is not None:
        _checks.whole(where, "block_size", block_size)
    _checks.whole(where, "max_dim", max_dim)
    _checks.finite_positive(where, "tolerance", tolerance)

    def init(params):
        _checks.inexact_leaves(where, params)

        def of_stack(x):
            blocks = _cut(x.astype(_tree.accumulator(x)), block_size)
            factors = _factors(jnp.zeros_like(blocks), max_dim)
            zero = jnp.zeros(len(blocks), jnp.int32)
            parts = (*factors, *map(_unit, factors), zero, zero)
            return [_by_matrix(part, len(x)) for part in parts]

        left, right, left_root, right_root, skipped, kept = _tree.map_to(
            6, of_stack, params
        )
        costs = [
            (x.shape[0] * x.shape[1], _cost(x) + _cost(y))
            for x, y in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
        ]
        counts, structure = jax.tree.flatten(kept)
        turn = [
            jnp.asarray(turn).reshape(count.shape)
            for turn, count in zip(
                round_robin.turns(costs, update_every, spread=spread),
                counts,
                strict=True,
            )
        ]
        return ScaleByKroneckerState(
            jnp.zeros([], jnp.int32),
            left,
            right,
            left_root,
            right_root,
            structure.unflatten(turn),
            skipped,
            kept,
        )

    def fold(signal, left, right, skipped):
        n = len(signal)
        left, right, skipped = map(_by_block, (left, right, skipped))
        blocks = _cut(signal.astype(_tree.arithmetic(signal, left)), block_size)
        new = _factors(blocks, max_dim)
        # A sum is finite where its terms are, unless it overflows.
        b = _tree.like(decay, left)
        means = [
            b * old + (1 - b) * f.astype(old.dtype)
            for old, f in zip((left, right), new, strict=True)
        ]
        fine = jnp.logical_and(*map(moments.finite, means))
        kept = [
            jnp.where(_beside(fine, old), mean, old)
            for old, mean in zip((left, right), means, strict=True)
        ]
        skipped = skipped + (~fine).astype(skipped.dtype)
        return [_by_matrix(part, n) for part in (*kept, skipped)]

    def refreshed(count, left, right, left_root, right_root, turn, kept):
        """The roots of one stack, after those whose turn it is had theirs."""
        n = len(left)
        factors = [_by_block(left), _by_block(right)]
        roots = [_by_block(left_root), _by_block(right_root)]
        turn, kept = _by_block(turn), _by_block(kept)
        weight = _tree.debias(decay, count, left.dtype)
        full = [i for i, f in enumerate(factors) if f.ndim == 3]
        for i, f in enumerate(factors):
            if i not in full:
                roots[i] = _diagonal_root(f / weight, exponent, eps)

        def body(factors, roots, failed):
            new = []
            for factor, old in zip(factors, roots, strict=True):
                x, residual = root(factor / weight, exponent, eps=eps)
                x, wrong = or_previous(x, residual, old, tolerance=tolerance)
                new.append(x.astype(old.dtype))
                failed = failed + wrong.astype(failed.dtype)
            return new, failed

        new, kept = round_robin.sweep(
            body,
            ([factors[i] for i in full],),
            ([roots[i] for i in full], kept),
            turn == (count - 1) % update_every,
        )
        for i, x in zip(full, new, strict=True):
            roots[i] = x
        return [_by_matrix(part, n) for part in (*roots, kept)]

    def update(updates, state, params=None, *, observed=None, **extra_args):
        del params, extra_args
        signal = updates if observed is None else observed
        count = _tree.increment(state.count)
        left, right, skipped = _tree.map_to(
            3, fold, signal, state.left, state.right, state.skipped
        )
        left_root, right_root, kept = _tree.map_to(
            3,
            functools.partial(refreshed, count),
            left,
            right,
            state.left_root,
            state.right_root,
            state.turn,
            state.kept,
        )

        def scale(u, left_root, right_root):
            blocks = _cut(u.astype(_tree.arithmetic(u, left_root)), block_size)
            blocks = _times(_by_block(left_root), blocks, -2)
            blocks = _times(_by_block(right_root), blocks, -1)
            return _joined(blocks, u.shape, block_size).astype(u.dtype)

        updates = jax.tree.map(scale, updates, left_root, right_root)
        return updates, ScaleByKroneckerState(
            count, left, right, left_root, right_root, state.turn, skipped, kept
        )

    stacked = in_stacks(
        optax.GradientTransformationExtraArgs(init, update), mesh_axis=mesh_axis
    )
    return _probe.after(stacked, functools.partial(_tell_conditions, exponent))


def _tell_conditions(exponent: int, state: ScaleByKroneckerState) -> None:
    """Of all blocks that had their first turn and have seen a signal."""
    turns = jax.tree.leaves(state.turn)
    sides = (state.left, state.left_root), (state.right, state.right_root)
    for side in sides:
        factors, roots = map(jax.tree.leaves, side)
        for factor, root, turn in zip(factors, roots, turns, strict=True):
            seen = jnp.max(jnp.abs(factor), axis=tuple(range(2, factor.ndim))) > 0
            logarithms = condition.of_root(factor, root, exponent)
            _probe.tell_conditions(logarithms, seen & (state.count > turn))


def _cost(factor: jax.Array) -> float:
    """What a root costs, in multiplications but for a factor; a diagonal's nothing."""
    return float(factor.shape[-1]) ** 3 if factor.ndim == 4 else 0.0


def _by_block(x: jax.Array) -> jax.Array:
    """(matrices, blocks, ...) to (matrices times blocks, ...)."""
    return x.reshape(-1, *x.shape[2:])


def _by_matrix(x: jax.Array, matrices: int) -> jax.Array:
    return x.reshape(matrices, -1, *x.shape[1:])


def _sides(side: int, block_size: int | None) -> tuple[int, int]:
    """How many blocks a side is cut into, and how long each is."""
    count = 1 if block_size is None else -(-side // block_size)
    return count, -(-side // count)


def _cut(x: jax.Array, block_size: int | None) -> jax.Array:
    """(n, rows, columns) to (blocks, rows, columns), filled up with zeros."""
    (above, rows), (beside, columns) = (_sides(s, block_size) for s in x.shape[-2:])
    if above == beside == 1:
        return x
    fill = (above * rows - x.shape[-2], beside * columns - x.shape[-1])
    x = jnp.pad(x, ((0, 0), (0, fill[0]), (0, fill[1])))
    x = x.reshape(-1, above, rows, beside, columns)
    return jnp.swapaxes(x, 2, 3).reshape(-1, rows, columns)


def _joined(blocks: jax.Array, shape: tuple, block_size: int | None) -> jax.Array:
    (above, rows), (beside, columns) = (_sides(s, block_size) for s in shape[-2:])
    if above == beside == 1:
        return blocks
    x = blocks.reshape(-1, above, beside, rows, columns)
    x = jnp.swapaxes(x, 2, 3).reshape(-1, above * rows, beside * columns)
    return x[:, : shape[-2], : shape[-1]]


def _factors(x: jax.Array, max_dim: int) -> tuple[jax.Array, jax.Array]:
    """The moments of rows and of columns, or the diagonals of those."""
    rows, columns = x.shape[-2:]
    square = _tree.square(x)
    left = moments.of_rows(x) if rows <= max_dim else jnp.sum(square, axis=-1)
    right = moments.of_columns(x) if columns <= max_dim else jnp.sum(square, axis=-2)
    return left, right


def _unit(factor: jax.Array) -> jax.Array:
    """The identity, or its diagonal, with the shape of a factor."""
    if factor.ndim < 3:
        return jnp.ones_like(factor)
    eye = jnp.eye(factor.shape[-1], dtype=factor.dtype)
    return jnp.zeros_like(factor) + eye[None]


def _diagonal_root(diagonal: jax.Array, exponent: int, eps: Scalar) -> jax.Array:
    peak = jnp.max(diagonal, axis=-1, keepdims=True)
    ridge = jnp.where(peak > 0, _tree.like(eps, diagonal) * peak, 1)
    return (diagonal + ridge) ** (-1.0 / exponent)


def _times(root: jax.Array, blocks: jax.Array, side: int) -> jax.Array:
    """A root times the rows (side -2), or the columns times a root (-1)."""
    is_complex = jnp.iscomplexobj(root)
    root = root.astype(blocks.dtype if is_complex else _tree.real_dtype(blocks.dtype))
    if root.ndim < 3:
        return blocks * jnp.expand_dims(root, -1 if side == -2 else -2)
    order = "bij,bjk->bik" if side == -2 else "bkj,bji->bki"
    pair = (root, blocks) if side == -2 else (blocks, root)
    return jnp.einsum(order, *pair, precision=jax.lax.Precision.HIGHEST)


def _beside(of_item: jax.Array, x: jax.Array) -> jax.Array:
    return of_item.reshape(-1, *[1] * (x.ndim - 1))
