"""The dominant singular triple: a matrix's best approximation of rank one."""

import jax
import jax.numpy as jnp

from optimx import _checks, _tree


def power_iteration(
    x: jax.Array, *, steps: int = 32
) -> tuple[jax.Array, jax.Array, jax.Array]:
    r"""The largest singular value of a matrix and its vectors, by power iteration.

    .. math::
        u \leftarrow \frac{X v}{\|X v\|}, \qquad
        v \leftarrow \frac{X^H u}{\|X^H u\|}, \qquad
        \sigma = \|X v\|, \qquad X \approx \sigma\, u v^H

    The start is no random vector but half a fixed one and the row of largest norm:
    that row alone may be orthogonal to what is sought (it is, where the largest
    entry of a block-diagonal matrix stands in the weaker block), and the fixed
    vector alone may be orthogonal to every row.

    :math:`\sigma` never exceeds the true value but for rounding, and falls short of
    it by a factor of about :math:`1 - (\sigma_2/\sigma_1)^{4\,\mathrm{steps}}`, or
    :math:`1 - \ln(n) / (4\,\mathrm{steps})` where the two largest are close. The
    vectors need the gap: their error falls as
    :math:`(\sigma_2/\sigma_1)^{2\,\mathrm{steps}}`.

    Args:
      x: real or complex floating-point, shape ``(..., m, n)``, any scale.
      steps: how often both vectors are renewed; a Python int of at least 1.

    Returns:
      ``(sigma, u, v)`` of shapes ``(...)``, ``(..., m)`` and ``(..., n)``; ``sigma``
      real, the vectors of norm 1. A zero matrix has zeros for all three. What is
      finite gives no NaN.

    Raises:
      ValueError: where ``steps`` is not a Python int of at least 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optimx.linalg import rank_one
      >>> x = 5 * jnp.outer(jnp.array([0.6, 0.8]), jnp.array([0.0, 1.0, 0.0]))
      >>> sigma, u, v = rank_one.power_iteration(x)
      >>> print(sigma.round(3), u.round(3), v.round(3))
      5.0 [0.6 0.8] [0. 1. 0.]

    References:
      Golub and Van Loan, *Matrix Computations*, 2013, section 8.2,
      https://doi.org/10.56021/9781421407944.
    """
    _checks.whole("power_iteration", "steps", steps)
    peak = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True, initial=0)
    tiny = jnp.finfo(peak.dtype).tiny
    peak = jnp.where(peak < tiny, 0, peak)
    # Twice a root, since neither the reciprocal of a huge number nor the complex
    # quotient by one stays inside float32.
    root = jnp.where(peak == 0, 0, jax.lax.rsqrt(peak)).astype(x.dtype)
    scaled = x * root * root
    adjoint = scaled.mT.conj()

    def unit(y):
        size = jnp.sqrt(jnp.sum(_tree.square(y), axis=-1, keepdims=True))
        # Only the vectors of a zero matrix are so small: its start is not, and
        # entries up to 1 let a norm rise at every step.
        return y / jnp.maximum(size, tiny).astype(y.dtype), size

    def product(a, y):
        highest = jax.lax.Precision.HIGHEST
        return jnp.matmul(a, y[..., None], precision=highest)[..., 0]

    rows = jnp.sum(_tree.square(scaled), axis=-1)
    longest = jnp.argmax(rows, axis=-1)[..., None, None]
    row, _ = unit(jnp.take_along_axis(scaled, longest, axis=-2)[..., 0, :].conj())
    # Fractions of the golden ratio's multiples follow no pattern that the vector of
    # a structured matrix would share; around 1.5 they also see a constant vector.
    index = jnp.arange(x.shape[-1], dtype=peak.dtype)
    fixed, _ = unit((1 + (index * 0.6180339887) % 1).astype(x.dtype))

    def step(_, v):
        u, _ = unit(product(scaled, v))
        v, _ = unit(product(adjoint, u))
        return v

    start, _ = unit(row + 0.5 * jnp.broadcast_to(fixed, row.shape))
    v = jax.lax.fori_loop(0, int(steps), step, start)
    u, sigma = unit(product(scaled, v))
    return (sigma * peak[..., 0])[..., 0], u, v
