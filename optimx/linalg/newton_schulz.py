"""The polar factor of a matrix by Newton-Schulz iterations: products, nothing else."""

import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optimx import _checks, _tree
from optimx.typing import Scalar

Triple = tuple[float, float, float]
Coefficients = Triple | Sequence[Triple]

QUINTIC: Triple = (3.4445, -4.7750, 2.0315)
"""Jordan's quintic, steep at zero. Five steps bring singular values above 0.0015 into
[0.68, 1.21]; further ones settle in [0.68, 1.14] and never at 1."""

_SAFETY = 1.01
POLAR_EXPRESS: tuple[Triple, ...] = (
    *(
        # What rounding adds must not leave the interval that the next step expects.
        (a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5)
        for a, b, c in (
            (8.28721201814563, -23.595886519098837, 17.300387312530933),
            (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
            (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
            (3.3184196573706015, -2.488488024314874, 0.51004894012372),
            (2.300652019954817, -1.6689039845749493, 0.4188073119525673),
            (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
            (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
        )
    ),
    (1.875, -1.25, 0.375),
)
"""One triple per step, each made for what the steps before it leave over."""

# Blocks of a symmetric product: smaller ones are multiplied at less than full speed,
# and with more of them a program takes longer to compile than it gains.
_SMALLEST_BLOCK = 192
_MOST_BLOCKS = 3
# How large amplified rounding on a Gram matrix may be when a step uses it. At 0.1 noise
# below zero drives singular values out of where the polynomials contract: bfloat16
# overflows, and twelve steps in float32 leave singular values of 8.
_LARGEST_NOISE = 2e-3


def polar(
    x: jax.Array,
    *,
    steps: int = 5,
    coefficients: Coefficients = QUINTIC,
    eps: Scalar = 0.0,
    dtype: Any = None,
) -> jax.Array:
    r"""An approximate polar factor: the singular values of a matrix brought near 1.

    .. math:: X_0 = X / (\lVert X \rVert_F + \epsilon), \qquad
        X_{k+1} = a_k X_k + (b_k X_k X_k^H + c_k (X_k X_k^H)^2)\, X_k

    For :math:`X = U \Sigma V^H` this is :math:`U\, p(\Sigma)\, V^H`, with p the
    composition of the odd polynomials :math:`a x + b x^3 + c x^5`.

    The iteration runs on the small side, whichever it is, without a transposed copy.
    For oblong matrices it runs on :math:`R = X_0 X_0^H` alone: every :math:`X_k` is a
    polynomial in R times :math:`X_0`, which is multiplied once, at the end. That form
    squares the singular values, so it restarts from :math:`X_k` before amplified
    rounding matters: after five steps of the quintic in float32, and in half precision
    after each, where it saves nothing. The form that takes fewer operations for the
    shape is chosen. In float32 it may stray from the plain one where a matrix is
    ill-conditioned: by its small singular values, within the band of the polynomials.

    On CPU matrices are worked off one by one, half precision is computed in float32,
    and products that are symmetric by construction are computed without their
    mirrored half. On other devices a batch is one product. Products in float32 are
    never rounded to fewer bits.

    Args:
      x: real or complex, (..., m, n).
      steps: the number of iterations, at least 1.
      coefficients: a triple (a, b, c), or one triple per step, of which the last is
        repeated: :data:`QUINTIC`, :data:`POLAR_EXPRESS`, or your own.
      eps: added to the norm, at least 0, in the units of ``x``.
      dtype: a floating-point dtype of the products, such as bfloat16; by default that
        of ``x``.

    Returns:
      An array with the shape and dtype of ``x``. A matrix of zeros stays zero.

    Raises:
      ValueError: where ``x`` is no matrix, ``steps`` is below 1, or the coefficients
        are not triples.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optimx.linalg.newton_schulz import POLAR_EXPRESS, polar
      >>> x = jnp.array([[3.0, 0.0, 0.0], [0.0, -4.0, 0.0]])
      >>> print(polar(x, coefficients=POLAR_EXPRESS, steps=8).round(3) + 0.0)
      [[ 1.  0.  0.]
       [ 0. -1.  0.]]

    References:
      Jordan et al., *Muon*, 2024, https://kellerjordan.github.io/posts/muon/ (the
      quintic); Amsel et al., *The Polar Express*, 2025,
      https://arxiv.org/abs/2505.16932, algorithm 1 and its appendix on rectangular
      matrices.
    """
    triples = coefficient_list("polar", coefficients, steps)
    if x.ndim < 2:
        raise ValueError(f"polar: x must have at least two axes, got shape {x.shape}.")
    if x.size == 0:
        return x
    asked = x.dtype if dtype is None else _as_complex(jnp.dtype(dtype), x.dtype)
    wide = _tree.wide_dtype(asked)

    def factor(x, working, blocked):
        unit = _normalized(x.astype(_tree.wide_dtype(x.dtype)), eps).astype(working)
        return _iterate(unit, triples=triples, blocked=blocked).astype(x.dtype)

    def one_by_one(x):
        matrices = x.reshape(-1, *x.shape[-2:])
        if len(matrices) == 1:
            return factor(matrices[0], wide, blocked=True).reshape(x.shape)

        def replace(index, matrices):
            own = jax.lax.dynamic_index_in_dim(matrices, index, keepdims=False)
            own = factor(own, wide, blocked=True)
            return jax.lax.dynamic_update_index_in_dim(matrices, own, index, 0)

        # In place: a second stack would cost as much memory again, and time.
        count = len(matrices)
        return jax.lax.fori_loop(0, count, replace, matrices).reshape(x.shape)

    def at_once(x):
        return factor(x, asked, blocked=False)

    return jax.lax.platform_dependent(x, cpu=one_by_one, default=at_once)


def coefficient_list(
    where: str, coefficients: Coefficients, steps: int
) -> tuple[Triple, ...]:
    """One triple of coefficients for each step, the last repeated where they end.

    Raises:
      ValueError: where ``steps`` is below 1 or something is not a triple of numbers.
    """
    _checks.whole(where, "steps", steps)
    many = isinstance(coefficients, Iterable)
    given: tuple[Any, ...] = tuple(coefficients) if many else (coefficients,)
    if given and all(isinstance(entry, (int, float)) for entry in given):
        given = (given,)
    triples = []
    for entry in given:
        numbers: tuple[Any, ...] = tuple(entry) if isinstance(entry, Sequence) else ()
        fits = len(numbers) == 3 and all(
            isinstance(number, (int, float)) and math.isfinite(number)
            for number in numbers
        )
        if not fits:
            raise ValueError(
                f"{where}: coefficients must be a triple (a, b, c) of numbers or a "
                f"sequence of such triples, got {coefficients!r}."
            )
        triples.append((float(numbers[0]), float(numbers[1]), float(numbers[2])))
    if not triples:
        raise ValueError(f"{where}: coefficients must hold a triple, got none.")
    missing = max(steps - len(triples), 0)
    return tuple(triples[:steps] + triples[-1:] * missing)


def _as_complex(dtype: Any, of: Any) -> Any:
    """The dtype asked for, unless ``of`` is complex: then that, which has no half."""
    return of if jnp.issubdtype(of, jnp.complexfloating) else dtype


def _normalized(x: jax.Array, eps: Scalar) -> jax.Array:
    """Each matrix over its Frobenius norm (and eps), whatever the norm's size."""
    peak = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True)
    # Twice a root, since neither the reciprocal of a huge number nor the product of
    # peak and norm stays inside float32.
    root = jnp.where(peak < jnp.finfo(peak.dtype).tiny, 0, jax.lax.rsqrt(peak))
    x = x * root.astype(x.dtype) * root.astype(x.dtype)
    norm = jnp.sqrt(jnp.sum(_tree.square(x), axis=(-2, -1), keepdims=True))
    below = norm + _tree.like(eps, x) * root * root
    return x / jnp.where(below == 0, 1, below).astype(x.dtype)


def _iterate(x: jax.Array, *, triples: tuple[Triple, ...], blocked: bool) -> jax.Array:
    side = -2 if x.shape[-2] <= x.shape[-1] else -1
    small, large = sorted(x.shape[-2:])
    parts = min(max(small // _SMALLEST_BLOCK, 1), _MOST_BLOCKS) if blocked else 1
    groups = _groups(triples, float(jnp.finfo(x.dtype).eps) / 2)
    half = (parts + 1) / (2 * parts)
    if _gram_cost(groups, small, large, half) < _plain_cost(
        len(triples), small, large, half
    ):
        for group in groups:
            x = _gram_steps(x, side, group, parts)
        return x

    for triple in triples:
        x = _plain_step(x, side, triple, parts)
    return x


def _groups(
    triples: tuple[Triple, ...], rounding: float
) -> tuple[tuple[Triple, ...], ...]:
    """Steps between restarts: each step on R multiplies the noise near 0 by a^2."""
    groups: list[list[Triple]] = []
    noise = math.inf
    for triple in triples:
        if noise > _LARGEST_NOISE:
            groups.append([])
            noise = rounding
        groups[-1].append(triple)
        noise *= triple[0] ** 2
    return tuple(map(tuple, groups))


def _plain_cost(steps: int, small: int, large: int, half: float) -> float:
    """Multiplications of the plain form; ``half`` is the share of a symmetric one."""
    return steps * (small**2 * large * (1 + half) + small**3 * half)


def _gram_cost(groups: tuple, small: int, large: int, half: float) -> float:
    products = sum(4 * len(group) - 3 for group in groups)
    oblong = len(groups) * small**2 * large * (1 + half)
    return oblong + products * small**3 * half


def _plain_step(x: jax.Array, side: int, triple: Triple, parts: int) -> jax.Array:
    a, b, c = triple
    gram = _Hermitian.gram(x, side, parts)
    inner = gram.combine(b, c, gram @ gram)
    return a * x + inner.times(x, side)


def _gram_steps(
    x: jax.Array, side: int, triples: tuple[Triple, ...], parts: int
) -> jax.Array:
    """Several steps on R = X X^H; P is what they multiply X by."""
    gram = _Hermitian.gram(x, side, parts)
    product = None
    for index, (a, b, c) in enumerate(triples):
        # Q - a I, with Q the polynomial of this step: X <- Q X and R <- Q R Q.
        inner = gram.combine(b, c, gram @ gram)
        if product is None:
            moved = inner.plus_identity(a)
        else:
            moved = product.combine(a, 1.0, product @ inner)
        if index + 1 < len(triples):
            once = gram.combine(a, 1.0, inner @ gram)
            gram = once.combine(a, 1.0, inner @ once)
        product = moved
    assert product is not None
    return product.times(x, side)


class _Hermitian:
    """A Hermitian matrix as the blocks of its upper half.

    All that the iterations multiply are polynomials of one Hermitian matrix: they
    commute, so their products are Hermitian again, and the lower half is never
    computed, nor copied from the upper.
    """

    def __init__(self, blocks: dict[tuple[int, int], jax.Array], parts: int):
        self.blocks = blocks
        self.parts = parts

    @classmethod
    def gram(cls, x: jax.Array, side: int, parts: int) -> "_Hermitian":
        """X X^H for side -2, and X^T conj(X) for -1 (so that X times it is right)."""
        size = x.shape[side]
        edges = [size * part // parts for part in range(parts + 1)]
        along = x.ndim + side
        slabs = [
            jax.lax.slice_in_dim(x, start, stop, axis=along)
            for start, stop in itertools.pairwise(edges)
        ]
        other = -1 if side == -2 else -2
        return cls(
            {
                (i, j): _dot(slabs[i], other, _conjugate(slabs[j]), other)
                for i in range(parts)
                for j in range(i, parts)
            },
            parts,
        )

    def __matmul__(self, other: "_Hermitian") -> "_Hermitian":
        def entry(i, j):
            terms = [
                _dot(*self._left(i, k), *other._right(k, j)) for k in range(self.parts)
            ]
            return functools.reduce(jnp.add, terms)

        return _Hermitian({ij: entry(*ij) for ij in self.blocks}, self.parts)

    def _left(self, i: int, k: int) -> tuple[jax.Array, int]:
        """Block (i, k) and the axis to sum over: below the diagonal, its mirror's."""
        if i <= k:
            return self.blocks[i, k], -1
        return _conjugate(self.blocks[k, i]), -2

    def _right(self, k: int, j: int) -> tuple[jax.Array, int]:
        if k <= j:
            return self.blocks[k, j], -2
        return _conjugate(self.blocks[j, k]), -1

    def combine(self, weight: float, weight2: float, other: "_Hermitian"):
        return _Hermitian(
            {
                ij: weight * block + weight2 * other.blocks[ij]
                for ij, block in self.blocks.items()
            },
            self.parts,
        )

    def plus_identity(self, weight: float) -> "_Hermitian":
        def add(ij, block):
            if ij[0] != ij[1]:
                return block
            eye = weight * jnp.eye(block.shape[-1], dtype=block.dtype)
            return block + jnp.broadcast_to(eye, block.shape)

        return _Hermitian({ij: add(ij, b) for ij, b in self.blocks.items()}, self.parts)

    def times(self, x: jax.Array, side: int) -> jax.Array:
        """The matrix times X, from the left (side -2) or the right (-1)."""
        whole = self._whole()
        if side == -2:
            return _dot(whole, -1, x, -2)
        # X conj(X^H X) would be another matrix: from the right stands the conjugate.
        return _dot(x, -1, _conjugate(whole), -2)

    def _whole(self) -> jax.Array:
        if self.parts == 1:
            return self.blocks[0, 0]
        rows = []
        for i in range(self.parts):
            row = [
                self.blocks[i, j]
                if i <= j
                else jnp.swapaxes(_conjugate(self.blocks[j, i]), -1, -2)
                for j in range(self.parts)
            ]
            rows.append(jnp.concatenate(row, axis=-1))
        return jnp.concatenate(rows, axis=-2)


def _conjugate(x: jax.Array) -> jax.Array:
    return jnp.conj(x) if jnp.iscomplexobj(x) else x


def _dot(a: jax.Array, of_a: int, b: jax.Array, of_b: int) -> jax.Array:
    """Batched products over one of the last two axes of each, at full precision."""
    batch = tuple(range(a.ndim - 2))
    return jax.lax.dot_general(
        a,
        b,
        (((a.ndim + of_a,), (b.ndim + of_b,)), (batch, batch)),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=a.dtype,
    )
