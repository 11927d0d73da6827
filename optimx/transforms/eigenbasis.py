"""SOAP's idea: a diagonal rule in the slowly turning eigenbasis of the gradient."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimx import _checks, _probe, _tree
from optimx.linalg import condition, eigenbasis, moments, round_robin
from optimx.stacks import in_stacks
from optimx.typing import Count, PyTree, Scalar


class InEigenbasisState(NamedTuple):
    """State of :func:`in_eigenbasis`, in stacks (:func:`in_stacks`).

    Attributes:
      count: the number of updates seen, int32.
      left: moving averages of G G^H, (matrices, rows, rows); an
        :class:`optax.MaskedNode` for a side that is not turned.
      right: the same of G^H G for the columns.
      left_basis: eigenvectors of ``left`` as columns, the identity at first.
      right_basis: eigenvectors of ``right``.
      inner: the state of the inner transformation, every matrix with its own: in the
        place of each array a tree of them with the stack's axis in front, for counters
        too.
      turn: the step of a cycle of ``update_every`` at which each matrix has its bases
        refreshed, int32, (matrices,).
      skipped: how many signals were left out because they or their products were not
        finite, int32, (matrices,).
    """

    count: Count
    left: PyTree
    right: PyTree
    left_basis: PyTree
    right_basis: PyTree
    inner: PyTree
    turn: PyTree
    skipped: PyTree


def in_eigenbasis(
    inner: optax.GradientTransformation,
    *,
    decay: Scalar,
    update_every: int = 10,
    max_dim: int = 10_000,
    max_aspect: float = 4,
    spread: bool = True,
    mesh_axis: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Runs a diagonal transformation in the eigenbasis of the gradient.

    .. math::
        L_t &= \beta L_{t-1} + (1-\beta) S_t S_t^H, \qquad
        R_t = \beta R_{t-1} + (1-\beta) S_t^H S_t \\
        U &\leftarrow Q_L \; \text{inner}(Q_L^H U Q_R \mid Q_L^H S_t Q_R)\; Q_R^H

    with :math:`Q_L, Q_R` the eigenvectors of earlier :math:`L, R`. SOAP is
    ``in_eigenbasis(scale_by_rms(b2), decay=b2)``: Adam's second moment, of rotated
    gradients. A preconditioner: the signal S is ``observed`` where ``update`` is given
    it, and the incoming update itself where not. The last two axes of a leaf are its
    matrix; leading axes are a batch.

    Every ``update_every`` steps, after the update, a basis makes one step of
    orthogonal iteration, :math:`Q \leftarrow \text{qr}(L Q)`, its columns first sorted
    by their eigenvalues; the state of ``inner`` is sorted with them. The first basis is
    an eigendecomposition. Until a matrix has it, its updates are zero: in the authors'
    code the first step, here by default the steps before its first turn, at most
    ``update_every``. For the matrices take turns: each step refreshes its share of the
    stack, so that steps have about as much to do.

    What a memory has gathered by then must not meet a second moment of one gradient,
    whose root can be next to nothing. So with its first basis ``inner`` is shown what
    the factors know of the gradients so far, or the gradient at hand where that is
    larger:

    .. math::
        \max\left( \sqrt{\frac{\lambda_i \mu_j}{\sum_k \lambda_k}},
        \left| Q_L^H S_t Q_R \right|_{ij} \right)

    with :math:`\lambda, \mu` the eigenvalues of :math:`L, R` over
    :math:`1 - \beta^t`: Adafactor in the eigenbasis, which is Shampoo. Of a side that
    is not turned every direction counts alike.

    A signal that is not finite changes neither factors nor bases nor the state of
    ``inner``; the state counts it, and :func:`optimx.monitor.read` finds the count.

    Args:
      inner: a transformation that treats every number by itself and, where it has
        statistics, takes ``observed`` and heeds no signs: :func:`scale_by_rms`, for
        example.
      decay: the rate :math:`\beta` of the factors' averages, in [0, 1).
      update_every: steps between two refreshes of a basis, at least 1.
      max_dim: a side longer than this is not turned, at least 1.
      max_aspect: a side that is at least this many times the other is not turned,
        above 1; infinity turns both sides of every matrix.
      spread: whether matrices take turns; otherwise all are refreshed at the first
        step of every ``update_every``, as in the paper.
      mesh_axis: mesh axis or axes to split stacks over (:func:`in_stacks`).

    Returns:
      A transformation whose updates keep their shapes and dtypes. Factors and bases
      are float32 at least.

    Raises:
      TypeError: where ``inner`` is not a transformation.
      ValueError: where a number is out of range; at ``init`` where a leaf is no
        matrix.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> soap = optimx.precondition(
      ...     optimx.ema(0.95),
      ...     by=optimx.in_eigenbasis(optimx.scale_by_rms(0.95), decay=0.95))
      >>> params = {'kernel': jnp.ones((4, 6))}
      >>> state = soap.init(params)
      >>> print(state.by.right_basis['kernel'].shape)
      (1, 6, 6)

    References:
      Vyas et al., *SOAP: Improving and Stabilizing Shampoo using Adam*, 2024,
      https://arxiv.org/abs/2409.11321, algorithm 3.
    """
    where = "in_eigenbasis"
    _checks.transformation(where, "inner", inner)
    _checks.decay(where, "decay", decay)
    _checks.whole(where, "update_every", update_every)
    _checks.whole(where, "max_dim", max_dim)
    if not max_aspect > 1:
        raise ValueError(
            f"{where}: max_aspect must be a number > 1, got {max_aspect!r}."
        )
    inner = optax.with_extra_args_support(inner)
    one_number = jax.ShapeDtypeStruct((), jnp.float32)
    inner_structure = jax.tree.structure(jax.eval_shape(inner.init, one_number))

    def turned(x):
        """Whether the rows and whether the columns have a basis."""
        rows, columns = x.shape[-2:]

        def side(own, other):
            return own <= max_dim and own < max_aspect * other

        return side(rows, columns), side(columns, rows)

    def init(params):
        _checks.inexact_leaves(where, params)

        def of_stack(x):
            wide = jnp.zeros_like(x, dtype=_tree.accumulator(x))
            out = []
            for is_turned, size in zip(turned(x), x.shape[-2:], strict=True):
                if not is_turned:
                    out += [optax.MaskedNode(), optax.MaskedNode()]
                    continue
                factor = jnp.zeros((len(x), size, size), wide.dtype)
                eye = jnp.eye(size, dtype=wide.dtype)
                out += [factor, factor + eye[None]]
            own = jax.tree.leaves(jax.vmap(inner.init)(wide))
            return *out, jnp.zeros(len(x), jnp.int32), *own

        left, left_basis, right, right_basis, skipped, *own = _tree.map_to(
            5 + inner_structure.num_leaves, of_stack, params
        )
        stacks, structure = jax.tree.flatten(params)
        costs = [(len(x), _cost(x, turned(x))) for x in stacks]
        turn = round_robin.turns(costs, update_every, spread=spread)
        turn = structure.unflatten([jnp.asarray(own) for own in turn])
        count = jnp.zeros([], jnp.int32)
        return InEigenbasisState(
            count,
            left,
            right,
            left_basis,
            right_basis,
            inner_structure.unflatten(own),
            turn,
            skipped,
        )

    def update(updates, state, params=None, *, observed=None, **extra_args):
        del params
        signal = updates if observed is None else observed
        count = _tree.increment(state.count)

        def step(u, signal, left, right, left_basis, right_basis, turn, skipped, *own):
            own = inner_structure.unflatten(own)
            stack = _Stack(
                signal, left, right, left_basis, right_basis, own, turn, skipped
            )
            u, stack = _step(u, stack, state.count)
            _, left, right, left_basis, right_basis, own, turn, skipped = stack
            own = jax.tree.leaves(own)
            return u, left, right, left_basis, right_basis, skipped, *own

        updates, left, right, left_basis, right_basis, skipped, *own = _tree.map_to(
            6 + inner_structure.num_leaves,
            step,
            updates,
            signal,
            state.left,
            state.right,
            state.left_basis,
            state.right_basis,
            state.turn,
            state.skipped,
            *inner_structure.flatten_up_to(state.inner),
        )
        return updates, InEigenbasisState(
            count,
            left,
            right,
            left_basis,
            right_basis,
            inner_structure.unflatten(own),
            state.turn,
            skipped,
        )

    def _step(u, stack, before):
        """One stack's update, then its factors and the bases whose turn it is."""
        bases = [q for q in (stack.left_basis, stack.right_basis) if not _absent(q)]
        held = bases[0] if bases else u
        wide = _tree.arithmetic(u, held)
        s = stack.signal.astype(_tree.arithmetic(stack.signal, held))
        b = _tree.like(decay, s)
        sides = (stack.left, moments.of_rows), (stack.right, moments.of_columns)
        means = [
            old if _absent(old) else b * old + (1 - b) * moment(s).astype(old.dtype)
            for old, moment in sides
        ]
        fine = moments.finite(s)
        for mean in means:
            fine = fine if _absent(mean) else fine & moments.finite(mean)

        left, right = stack.left_basis, stack.right_basis
        rotated = _rotate(u.astype(wide), left, right)
        seen = _rotate(jnp.where(fine[:, None, None], s, 0), left, right)

        def one(u, own, s) -> Any:
            return inner.update(u, own, observed=s)

        out, own = jax.vmap(one)(rotated, stack.inner, seen)
        out = _rotate_back(out.astype(wide), left, right)
        # Before its first turn a matrix has no basis to work in.
        ready = before > stack.turn
        if _absent(stack.left) and _absent(stack.right):
            ready = jnp.ones_like(ready)

        def choose(which, new, old):
            return jax.tree.map(
                lambda n, o: jnp.where(which.reshape(-1, *[1] * (n.ndim - 1)), n, o),
                new,
                old,
            )

        out = choose(ready, out, jnp.zeros_like(out))
        stack = stack._replace(
            signal=jnp.where(fine[:, None, None], s, 0),
            inner=choose(ready & fine, own, stack.inner),
            left=choose(fine, means[0], stack.left),
            right=choose(fine, means[1], stack.right),
            skipped=stack.skipped + (~fine).astype(stack.skipped.dtype),
        )
        return out.astype(u.dtype), _turn_bases(stack, before)

    def _turn_bases(stack, before):
        now = stack.turn == before % update_every
        # Of the two sweeps one has no iterations: first turns are unlike the rest.
        first = before < update_every

        def begin(factors, signal, weight, bases, own):
            new = map(eigenbasis.eigenbasis, factors)
            bases = [q.astype(old.dtype) for q, old in zip(new, bases, strict=True)]
            by_side = zip(sides, factors, bases, strict=True)
            known = _known(signal, {i: (f, q) for i, f, q in by_side}, weight)
            _, own = inner.update(jnp.zeros_like(signal), own, observed=known)
            return bases, own

        def turn(factors, bases, own):
            turned = []
            for side, factor, basis in zip(sides, factors, bases, strict=True):
                basis, order = eigenbasis.refresh(factor, basis)
                own = _sorted(own, order, side, stack.signal.shape[1:])
                turned.append(basis)
            return turned, own

        sides = [i for i, f in ((-2, stack.left), (-1, stack.right)) if not _absent(f)]
        factors = [f for f in (stack.left, stack.right) if not _absent(f)]
        bases = [q for q in (stack.left_basis, stack.right_basis) if not _absent(q)]
        if not factors:
            return stack
        seen = jnp.maximum(before + 1 - stack.skipped, 1)
        weight = _tree.debias(decay, seen, factors[0].dtype)
        bases, own = round_robin.sweep(
            begin,
            (factors, stack.signal, weight),
            (bases, stack.inner),
            now & first,
        )
        bases, own = round_robin.sweep(turn, (factors,), (bases, own), now & ~first)
        found = dict(zip(sides, bases, strict=True))
        return stack._replace(
            left_basis=found.get(-2, stack.left_basis),
            right_basis=found.get(-1, stack.right_basis),
            inner=own,
        )

    stacked = in_stacks(
        optax.GradientTransformationExtraArgs(init, update), mesh_axis=mesh_axis
    )
    return _probe.after(stacked, _tell_conditions)


def _tell_conditions(state: InEigenbasisState) -> None:
    """Of all factors that have a basis and have seen a signal."""
    turns, structure = jax.tree.flatten(state.turn)
    sides = (state.left, state.left_basis), (state.right, state.right_basis)
    for side in sides:
        factors, bases = map(structure.flatten_up_to, side)
        for factor, basis, turn in zip(factors, bases, turns, strict=True):
            if not _absent(factor):
                seen = jnp.max(jnp.abs(factor), axis=(1, 2)) > 0
                logarithms = condition.in_basis(factor, basis)
                _probe.tell_conditions(logarithms, seen & (state.count > turn))


class _Stack(NamedTuple):
    """What the state holds of one stack, and the signal it observes."""

    signal: Any
    left: Any
    right: Any
    left_basis: Any
    right_basis: Any
    inner: Any
    turn: Any
    skipped: Any


def _cost(x: jax.Array, turned: tuple[bool, bool]) -> float:
    """What refreshing one matrix costs, in multiplications but for a factor."""
    sides = zip(x.shape[-2:], turned, strict=True)
    return float(sum(size**3 for size, is_turned in sides if is_turned))


def _absent(x: Any) -> bool:
    """Whether a side has neither factor nor basis."""
    return isinstance(x, optax.MaskedNode)


def _known(
    signal: jax.Array,
    sides: Mapping[int, tuple[jax.Array, jax.Array]],
    weight: jax.Array,
) -> jax.Array:
    """How large a signal is expected to be in a basis, or is, where that is more.

    Args:
      signal: of one matrix.
      sides: a factor and its eigenvectors, by the axis that they turn.
      weight: of all signals in the factors.
    """
    expected = jax.lax.rsqrt(weight)
    total = jnp.zeros_like(weight)
    for axis, (factor, basis) in sides.items():
        turned = jnp.matmul(factor, basis, precision=jax.lax.Precision.HIGHEST)
        energy = jnp.maximum(jnp.sum((basis.conj() * turned).real, axis=0), 0)
        # Of rows and of columns the sum is the same, that of the whole matrix.
        total = jnp.sum(energy)
        share = jnp.sqrt(energy / jnp.where(total > 0, total, 1))
        expected = expected * jnp.expand_dims(share, -3 - axis)
    expected = expected * jnp.sqrt(total)
    for axis in {-2, -1} - sides.keys():
        expected = expected / math.sqrt(signal.shape[axis])
    left, right = (
        sides[axis][1][None] if axis in sides else optax.MaskedNode()
        for axis in (-2, -1)
    )
    (found,) = jnp.abs(_rotate(signal[None], left, right))
    return jnp.maximum(expected.astype(found.dtype), found).astype(signal.dtype)


def _sorted(tree: PyTree, order: jax.Array, axis: int, shape: tuple) -> PyTree:
    """What the inner transformation knows of a direction goes where that goes."""
    return jax.tree.map(
        lambda x: jnp.take(x, order, axis=axis) if x.shape == shape else x, tree
    )


def _rotate(x: jax.Array, left: Any, right: Any) -> jax.Array:
    """Q_L^H X Q_R, a side without a basis left as it is."""
    highest = jax.lax.Precision.HIGHEST
    if not _absent(left):
        adjoint = jnp.conj(left) if jnp.iscomplexobj(left) else left
        x = jnp.einsum("bji,bjk->bik", adjoint.astype(x.dtype), x, precision=highest)
    if not _absent(right):
        x = jnp.einsum("bij,bjk->bik", x, right.astype(x.dtype), precision=highest)
    return x


def _rotate_back(x: jax.Array, left: Any, right: Any) -> jax.Array:
    """Q_L X Q_R^H."""
    highest = jax.lax.Precision.HIGHEST
    if not _absent(left):
        x = jnp.einsum("bij,bjk->bik", left.astype(x.dtype), x, precision=highest)
    if not _absent(right):
        adjoint = jnp.conj(right) if jnp.iscomplexobj(right) else right
        x = jnp.einsum("bij,bkj->bik", x, adjoint.astype(x.dtype), precision=highest)
    return x
