"""Inverse p-th roots of positive semidefinite matrices, each with its own check."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from optimx import _checks, _tree
from optimx.linalg import decompositions
from optimx.typing import Scalar


def inverse_root(
    matrix: jax.Array, p: int, *, eps: Scalar
) -> tuple[jax.Array, jax.Array]:
    r"""The inverse p-th root of a positive semidefinite matrix, by ``eigh``.

    .. math::
        A = Q \Lambda Q^H, \qquad
        R = Q\, (\Lambda_+ + \epsilon\, \lambda_{\max} I)^{-1/p}\, Q^H

    where :math:`\Lambda_+` has zeros for negative eigenvalues.

    Args:
      matrix: Hermitian positive semidefinite, shape ``(..., d, d)``, float32,
        float64 or their complex kinds, any scale.
      p: which root; a Python int of at least 1.
      eps: what is added to the eigenvalues, relative to the largest; at least 0,
        and above it for a singular matrix.

    Returns:
      ``(root, residual)`` of shapes ``(..., d, d)`` and ``(...)``. The residual is
      :math:`\max|Q \Lambda_+ Q^H - A| / \max|A|`: some units of rounding, unless
      ``eigh`` failed or the matrix was not positive semidefinite. A zero matrix has
      the identity for a root. Where there is no finite root (``matrix`` not finite,
      or singular with ``eps`` 0, or the root too large), it is the identity too,
      and the residual is infinite.

    Raises:
      ValueError: where ``p`` is not a Python int of at least 1 or ``eps`` not a
        finite number of at least 0.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optimx.linalg import roots
      >>> matrix = jnp.diag(jnp.array([16.0, 1.0]))
      >>> root, residual = roots.inverse_root(matrix, 4, eps=0)
      >>> print(root.round(4))
      [[0.5 0. ]
       [0.  1. ]]

    References:
      Higham, *Functions of Matrices*, 2008, chapter 7,
      https://doi.org/10.1137/1.9780898717778.
    """
    _checks.whole("inverse_root", "p", p)
    _checks.non_negative("inverse_root", "eps", eps)

    def solve(a):
        values, basis = decompositions.eigh(a)
        values = jnp.maximum(values, 0)
        residual = _distance(_compose(basis, values), a)
        ridge = _tree.like(eps, values) * jnp.max(values, axis=-1, keepdims=True)
        return _compose(basis, (values + ridge) ** (-1 / int(p))), residual

    return _rescaled(matrix, int(p), solve)


def inverse_root_newton(
    matrix: jax.Array,
    p: int,
    *,
    eps: Scalar,
    steps: int = 50,
    tolerance: Scalar = 1e-6,
) -> tuple[jax.Array, jax.Array]:
    r"""The inverse p-th root of :func:`inverse_root`, by products of matrices alone.

    The coupled Newton iteration for :math:`\hat A = A + \epsilon\lambda I`, with
    :math:`z = (p+1) / (2\lambda(1+\epsilon))` and :math:`\lambda` an estimate of
    the largest eigenvalue,

    .. math::
        M_0 = z \hat A, \quad X_0 = z^{1/p} I, \qquad
        T_k = \tfrac{(p+1) I - M_k}{p}, \quad
        M_{k+1} = T_k^p M_k, \quad X_{k+1} = X_k T_k

    in which :math:`M_k \to I` and :math:`X_k \to \hat A^{-1/p}`. An eigenvalue
    :math:`\mu` of :math:`M_0` takes between :math:`\ln(1/\mu)` and
    :math:`\log_2(1/\mu)` steps to come near 1 and a handful more; so 50 suffice for
    ``eps`` down to 1e-12.

    Each matrix stops by itself: when its residual is within ``tolerance``, or has
    reached the floor that rounding sets and falls no more, or would grow. Later
    steps, which others of the batch may need, leave it alone.

    :math:`\lambda` is a power iteration on the matrix itself, by repeated squaring:
    :math:`d^{-1/64} \lambda_{\max} \le \lambda \le \lambda_{\max}` for every matrix,
    with no start vector that could miss. Any :math:`\lambda > \lambda_{\max}/2`
    converges, so the margin is nearly 2. The ridge falls short of the one of
    :func:`inverse_root` by the same factor at most, and by nothing where the
    largest eigenvalue stands alone.

    Args:
      matrix: Hermitian positive semidefinite, shape ``(..., d, d)``, float32,
        float64 or their complex kinds, any scale.
      p: which root; a Python int of at least 1.
      eps: what is added to the eigenvalues, relative to the largest; at least 0.
        In float32 a value below 1e-6 drowns in rounding.
      steps: the most steps; a Python int of at least 1.
      tolerance: the residual that is good enough; at least 0.

    Returns:
      ``(root, residual)`` of shapes ``(..., d, d)`` and ``(...)``. The residual is
      :math:`\max|M - I|`, of which no eigenvalue of M is further than d times from
      1: what accepts roots by it should ask for less than 1/d. A zero matrix has
      the identity for a root; where there is no finite root, it is the identity
      too, and the residual is infinite.

    Raises:
      ValueError: where ``p`` or ``steps`` is not a Python int of at least 1, or
        ``eps`` or ``tolerance`` not a finite number of at least 0.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optimx.linalg import roots
      >>> matrix = jnp.diag(jnp.array([16.0, 1.0]))
      >>> root, residual = roots.inverse_root_newton(matrix, 4, eps=0)
      >>> print(root.round(4), residual < 1e-5)
      [[0.5 0. ]
       [0.  1. ]] True

    References:
      Higham, *Functions of Matrices*, 2008, section 7.3,
      https://doi.org/10.1137/1.9780898717778; Anil et al., *Scalable Second Order
      Optimization for Deep Learning*, 2020, https://arxiv.org/abs/2002.09018.
    """
    where = "inverse_root_newton"
    _checks.whole(where, "p", p)
    _checks.whole(where, "steps", steps)
    _checks.non_negative(where, "eps", eps)
    _checks.non_negative(where, "tolerance", tolerance)
    p, steps = int(p), int(steps)

    def solve(a):
        eye = _identity(a)
        size = a.shape[-1]
        largest = _largest_eigenvalue(a)
        ridge = _tree.like(eps, a) * largest
        z = (p + 1) / (2 * (largest + ridge))
        m = (a + ridge.astype(a.dtype) * eye) * z.astype(a.dtype)
        x = (z ** (1 / p)).astype(a.dtype) * eye
        # The first step may raise the residual: it alone brings eigenvalues from
        # above 1 below it. Beside infinity it never looks like a rise.
        residual = jnp.full(a.shape[:-2], jnp.inf, largest.dtype)
        enough = _tree.like(tolerance, a)

        def unfinished(carry):
            step, *_, active = carry
            return (step < steps) & jnp.any(active)

        def advance(carry):
            step, m, x, residual, active = carry
            t = ((p + 1) * eye - m) / p
            next_m = _matmul(_power(t, p), m)
            after = _distance(next_m, eye)
            # An error e of an eigenvalue becomes e^2 or less. All are below 1/2
            # where d times the residual is, so that it must fall. Before, slow
            # growth of small eigenvalues may hide in rounding: let it be.
            early = residual > 0.5 / size
            taken = active & (after < jnp.where(early, 1.01, 1) * residual)
            active = taken & (after > enough)
            m = jnp.where(taken[..., None, None], next_m, m)
            x = jnp.where(taken[..., None, None], _matmul(x, t), x)
            return step + 1, m, x, jnp.where(taken, after, residual), active

        start = 0, m, x, residual, jnp.isinf(residual)
        _, _, x, residual, _ = jax.lax.while_loop(unfinished, advance, start)
        return (x + x.mT.conj()) / 2, residual

    return _rescaled(matrix, p, solve)


def or_previous(
    root: jax.Array, residual: jax.Array, previous: jax.Array, *, tolerance: Scalar
) -> tuple[jax.Array, jax.Array]:
    r"""The root where it passed its check, and the previous one where it did not.

    .. math::
        R' = R \text{ if } r \le \tau \text{ and } R \text{ is finite, else }
        R_{\mathrm{previous}}

    Args:
      root: matrices, shape ``(..., d, d)``.
      residual: how bad each is, real, shape ``(...)``.
      previous: what to keep, in the shape and dtype of ``root``.
      tolerance: the largest residual :math:`\tau` to accept; at least 0.

    Returns:
      ``(root, failed)`` of shapes ``(..., d, d)`` and ``(...)``; ``failed`` is True
      where the previous root was kept.

    Raises:
      ValueError: where ``tolerance`` is not a finite number of at least 0.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optimx.linalg import roots
      >>> root, residual = roots.inverse_root(jnp.full((2, 2), jnp.nan), 2, eps=1e-6)
      >>> root, failed = roots.or_previous(
      ...     root, residual, 3 * jnp.eye(2), tolerance=0.1
      ... )
      >>> print(root[0], failed)
      [3. 0.] True

    References:
      Anil et al., *Scalable Second Order Optimization for Deep Learning*, 2020,
      https://arxiv.org/abs/2002.09018.
    """
    _checks.non_negative("or_previous", "tolerance", tolerance)
    # Asked so that a residual of NaN has not passed.
    passed = residual <= _tree.like(tolerance, residual)
    passed = passed & jnp.all(jnp.isfinite(root), axis=(-2, -1))
    return jnp.where(passed[..., None, None], root, previous), ~passed


def _rescaled(
    matrix: jax.Array,
    p: int,
    solve: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
) -> tuple[jax.Array, jax.Array]:
    """``solve`` on matrices whose largest entry is 1; what it can't solve, caught."""
    peak = jnp.max(jnp.abs(matrix), axis=(-2, -1), keepdims=True, initial=0)
    zero = peak < jnp.finfo(peak.dtype).tiny
    usable = ~zero & (peak < jnp.inf)
    peak = jnp.where(usable, peak, 1)
    # Twice a root, since neither the reciprocal of a huge number nor the complex
    # quotient by one stays inside float32.
    scale = jax.lax.rsqrt(peak).astype(matrix.dtype)
    eye = _identity(matrix)
    root, residual = solve(jnp.where(usable, matrix * scale * scale, eye))
    root = root * (peak ** (-1 / p)).astype(matrix.dtype)
    residual = residual[..., None, None]
    found = jnp.all(jnp.isfinite(root), axis=(-2, -1), keepdims=True)
    found = found & usable & jnp.isfinite(residual)
    residual = jnp.where(found, residual, jnp.where(zero, 0, jnp.inf))
    return jnp.where(found, root, eye), residual[..., 0, 0]


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _identity(a: jax.Array) -> jax.Array:
    return jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=a.dtype), a.shape)


def _distance(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(a - b), axis=(-2, -1))


def _compose(basis: jax.Array, values: jax.Array) -> jax.Array:
    """The matrix with these eigenvectors and eigenvalues."""
    return _matmul(basis * values[..., None, :].astype(basis.dtype), basis.mT.conj())


def _power(a: jax.Array, exponent: int) -> jax.Array:
    """A whole power, by squaring."""
    if exponent == 1:
        return a
    half = _power(_matmul(a, a), exponent // 2)
    return _matmul(half, a) if exponent % 2 else half


def _largest_eigenvalue(a: jax.Array) -> jax.Array:
    """The largest eigenvalue from below, shape (..., 1, 1), for entries up to 1.

    The Rayleigh quotient of the longest column of the 32nd power. Some column has
    at least 1/sqrt(d) of the power's norm, whence the bound d^(-1/64).
    """
    power = a
    for _ in range(5):
        power = _matmul(power, power)
        # A positive semidefinite matrix has its largest entry on the diagonal, and
        # a square of one with entry 1 has one of 1 or more.
        peak = jnp.max(jnp.abs(power), axis=(-2, -1), keepdims=True)
        power = power / peak.astype(power.dtype)
    lengths = jnp.sum(_tree.square(power), axis=-2, keepdims=True)
    column = jnp.argmax(lengths, axis=-1, keepdims=True)
    v = jnp.take_along_axis(power, column, axis=-1)
    v = v / jnp.sqrt(jnp.max(lengths, axis=-1, keepdims=True)).astype(v.dtype)
    return _matmul(v.mT.conj(), _matmul(a, v)).real
