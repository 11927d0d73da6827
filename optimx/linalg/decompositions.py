"""Decompositions that vectorized programs may share a CPU's threads with."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def eigh(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    r"""Eigenvalues, ascending, and eigenvectors of a Hermitian matrix.

    .. math::
        A = Q \operatorname{diag}(\lambda) Q^H

    :func:`jax.numpy.linalg.eigh`, but that a CPU decomposes one matrix after another,
    under ``vmap``, too. For a batch jaxlib calls LAPACK from all threads of the device
    and waits for them on one of them: where other parts of the program wait alike, no
    thread is left, and the program stands still for ever. Other devices take the
    batch as it is.

    Args:
      matrix: Hermitian, shape ``(..., d, d)``, float32, float64 or their complex kinds.

    Returns:
      ``(values, vectors)`` of shapes ``(..., d)``, real, and ``(..., d, d)``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optimx.linalg import decompositions
      >>> values, _ = decompositions.eigh(jnp.diag(jnp.array([3.0, 1.0])))
      >>> print(values)
      [1. 3.]

    References:
      Anderson et al., *LAPACK Users' Guide*, 1999, ``syevd`` and ``heevd``.
    """

    def decompose(a):
        values, vectors = jnp.linalg.eigh(a)
        return values, vectors

    return _one_by_one_on_cpu(decompose, matrix)


def orthonormal(matrix: jax.Array) -> jax.Array:
    r"""The orthonormal factor of a matrix, Q of :math:`A = Q R`.

    :func:`jax.numpy.linalg.qr`, on a CPU one matrix after another (:func:`eigh`).

    Args:
      matrix: shape ``(..., d, d)``, float32, float64 or their complex kinds.

    Returns:
      Q, of the same shape: orthonormal columns.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optimx.linalg import decompositions
      >>> q = decompositions.orthonormal(jnp.array([[2.0, 1.0], [0.0, 1.0]]))
      >>> print(abs(q))
      [[1. 0.]
       [0. 1.]]

    References:
      Anderson et al., *LAPACK Users' Guide*, 1999, ``geqrf`` and ``orgqr``.
    """
    return _one_by_one_on_cpu(lambda a: jnp.linalg.qr(a)[0], matrix)


def _one_by_one_on_cpu(decompose: Callable, matrix: jax.Array):
    """``decompose`` of every matrix; on a CPU in a loop over them."""
    apart = jax.custom_batching.sequential_vmap(decompose)
    for _ in range(matrix.ndim - 2):
        apart = jax.vmap(apart)
    return jax.lax.platform_dependent(matrix, cpu=apart, default=decompose)
