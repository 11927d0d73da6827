"""Eigenbases of positive semidefinite matrices, found whole or followed slowly."""

import jax
import jax.numpy as jnp

from optimx.linalg import decompositions


def eigenbasis(matrix: jax.Array) -> jax.Array:
    r"""The eigenvectors of a Hermitian matrix, the largest eigenvalue's first.

    .. math::
        A = Q \operatorname{diag}(\lambda) Q^H, \qquad
        \lambda_1 \ge \dots \ge \lambda_d

    Args:
      matrix: Hermitian, shape ``(..., d, d)``, float32, float64 or their complex
        kinds, any scale.

    Returns:
      Q, shape ``(..., d, d)``: orthonormal, eigenvectors as columns, each up to a
      sign (or a phase). A matrix with an entry that is not finite has the identity.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optimx.linalg import eigenbasis
      >>> basis = eigenbasis.eigenbasis(jnp.diag(jnp.array([1.0, 3.0, 2.0])))
      >>> print(abs(basis))
      [[0. 0. 1.]
       [1. 0. 0.]
       [0. 1. 0.]]

    References:
      Vyas et al., *SOAP: Improving and Stabilizing Shampoo using Adam*, 2024,
      https://arxiv.org/abs/2409.11321.
    """
    scaled, peak = _scaled(matrix)
    finite = peak < jnp.inf
    eye = jnp.broadcast_to(jnp.eye(matrix.shape[-1], dtype=matrix.dtype), matrix.shape)
    _, basis = decompositions.eigh(jnp.where(finite, scaled, eye))
    return jnp.where(finite, jnp.flip(basis, axis=-1), eye)


def refresh(matrix: jax.Array, basis: jax.Array) -> tuple[jax.Array, jax.Array]:
    r"""One step of orthogonal iteration from a basis that is nearly right.

    .. math::
        \hat\lambda = \operatorname{diag}(Q^H A Q), \qquad
        \pi = \operatorname{argsort}_{\downarrow} \hat\lambda, \qquad
        Q' R = A\, Q_{:, \pi}

    Sorting first matters: QR gives each column what those before it have left
    over, so that directions may only take each other's place by a new order. Column
    j of the result continues column :math:`\pi_j` of ``basis``, and what is kept
    per direction must be reordered alike.

    Args:
      matrix: Hermitian positive semidefinite, shape ``(..., d, d)``, float32,
        float64 or their complex kinds, any scale.
      basis: orthonormal columns, in the shape and dtype of ``matrix``.

    Returns:
      ``(basis, order)``: the new basis, orthonormal, each column up to a sign (or a
      phase), and :math:`\pi`, integers of shape ``(..., d)``. Equal estimates keep
      their order. Where ``matrix`` is zero or has an entry that is not finite, the
      basis given and ``0, ..., d - 1``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optimx.linalg import eigenbasis
      >>> matrix = jnp.diag(jnp.array([1.0, 3.0, 2.0]))
      >>> basis, order = eigenbasis.refresh(matrix, jnp.eye(3))
      >>> print(order)
      [1 2 0]
      >>> print(abs(basis))
      [[0. 0. 1.]
       [1. 0. 0.]
       [0. 1. 0.]]

    References:
      Vyas et al., *SOAP: Improving and Stabilizing Shampoo using Adam*, 2024,
      https://arxiv.org/abs/2409.11321, algorithm 4.
    """
    scaled, peak = _scaled(matrix)
    usable = (peak > 0) & (peak < jnp.inf)
    # Something to decompose also where nothing will come of it.
    scaled = jnp.where(usable, scaled, basis)
    turned = jnp.matmul(scaled, basis, precision=jax.lax.Precision.HIGHEST)
    values = jnp.sum((basis.conj() * turned).real, axis=-2)
    order = jnp.argsort(values, axis=-1, stable=True, descending=True)
    turned = jnp.take_along_axis(turned, order[..., None, :], axis=-1)
    same = jnp.broadcast_to(jnp.arange(order.shape[-1], dtype=order.dtype), order.shape)
    return (
        jnp.where(usable, decompositions.orthonormal(turned), basis),
        jnp.where(usable[..., 0], order, same),
    )


def _scaled(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The matrix with a largest entry of 1, and what that entry was."""
    peak = jnp.max(jnp.abs(matrix), axis=(-2, -1), keepdims=True, initial=0)
    # Below the smallest normal number devices disagree about what is zero.
    peak = jnp.where(peak < jnp.finfo(peak.dtype).tiny, 0, peak)
    # Twice a root, since neither the reciprocal of a huge number nor the complex
    # quotient by one stays inside float32.
    root = jnp.where(peak == 0, 0, jax.lax.rsqrt(peak)).astype(matrix.dtype)
    return matrix * root * root, peak
