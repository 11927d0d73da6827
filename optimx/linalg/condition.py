"""How far apart the eigenvalues of a preconditioner's factors lie, as logarithms."""

import jax
import jax.numpy as jnp

_TURNS = 16  # Of the power iteration; the last few per cent do not matter.


def of_root(factor: jax.Array, root: jax.Array, exponent: int) -> jax.Array:
    """The decimal logarithm of the condition of what an inverse root is the root of.

    The largest eigenvector of the factor is what the root shortens most, and products
    with the root find what it lengthens most: no decomposition is needed. What the
    ridge added counts, so that the condition is finite.

    Args:
      factor: positive semidefinite, (..., n, n), or the diagonals of such, (..., n).
      root: its inverse root, of the same shape.
      exponent: p of the root ``factor ** (-1 / p)``.

    Returns:
      Logarithms, (...); estimates from below but for diagonals.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optimx.linalg import condition
      >>> factor = jnp.diag(jnp.array([100.0, 1.0]))[None, None]
      >>> root = jnp.diag(jnp.array([0.1, 1.0]))[None, None]
      >>> print(condition.of_root(factor, root, 2).round(2))
      [[2.]]
    """
    if root.ndim < 4:
        low, high = jnp.min(root, axis=-1), jnp.max(root, axis=-1)
    else:
        low = _length(_times(root, _top(factor)))
        high = _length(_times(root, _top(root)))
    tiny = jnp.finfo(low.dtype).tiny
    low, high = jnp.maximum(low, tiny), jnp.maximum(high, tiny)
    return exponent * (jnp.log10(high) - jnp.log10(low))


def in_basis(factor: jax.Array, basis: jax.Array) -> jax.Array:
    """The decimal logarithm of the condition of a factor, read in its eigenbasis.

    Args:
      factor: positive semidefinite, (..., n, n).
      basis: columns near its eigenvectors, of the same shape.

    Returns:
      Logarithms, (...), at most those of the reciprocal of the machine's precision.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optimx.linalg import condition
      >>> factor = jnp.diag(jnp.array([100.0, 1.0]))
      >>> print(condition.in_basis(factor, jnp.eye(2)).round(2))
      2.0
    """
    turned = jnp.matmul(factor, basis, precision=jax.lax.Precision.HIGHEST)
    values = jnp.sum(jnp.real(jnp.conj(basis) * turned), axis=-2)
    high = jnp.max(values, axis=-1)
    high = jnp.maximum(high, jnp.finfo(values.dtype).tiny)
    share = jnp.min(values, axis=-1) / high
    return -jnp.log10(jnp.maximum(share, jnp.finfo(values.dtype).eps))


def _top(matrix: jax.Array) -> jax.Array:
    """About the eigenvector of the largest eigenvalue, of length 1."""
    size = matrix.shape[-1]
    # No direction that is special to anybody.
    start = 1 + jnp.sin(jnp.arange(1, size + 1, dtype=jnp.float32)) / 2
    first = jnp.einsum("...ij,j->...i", matrix, start.astype(matrix.dtype))

    def turn(_, v):
        return _unit(_times(matrix, v))

    return jax.lax.fori_loop(0, _TURNS, turn, _unit(first))


def _unit(v: jax.Array) -> jax.Array:
    length = jnp.maximum(_length(v), jnp.finfo(v.dtype).tiny)
    return v / length[..., None].astype(v.dtype)


def _length(v: jax.Array) -> jax.Array:
    peak = jnp.max(jnp.abs(v), axis=-1)
    safe = jnp.where(peak > 0, peak, 1)
    return peak * jnp.sqrt(jnp.sum(jnp.abs(v / safe[..., None]) ** 2, axis=-1))


def _times(matrix: jax.Array, v: jax.Array) -> jax.Array:
    highest = jax.lax.Precision.HIGHEST
    return jnp.einsum("...ij,...j->...i", matrix, v, precision=highest)
