"""Second moments of the rows and of the columns of a matrix."""

import jax
import jax.numpy as jnp


def of_rows(x: jax.Array) -> jax.Array:
    """X X^H of (n, rows, columns): how rows go together, (n, rows, rows).

    Examples:
      >>> import jax.numpy as jnp
      >>> from optimx.linalg import moments
      >>> print(moments.of_rows(jnp.array([[[3.0, 4.0]]])))
      [[[25.]]]
    """
    return _product("bik,bjk->bij", x, _conjugate(x))


def of_columns(x: jax.Array) -> jax.Array:
    """X^H X of (n, rows, columns): how columns go together, (n, columns, columns).

    Examples:
      >>> import jax.numpy as jnp
      >>> from optimx.linalg import moments
      >>> print(moments.of_columns(jnp.array([[[3.0, 4.0]]])))
      [[[ 9. 12.]
        [12. 16.]]]
    """
    return _product("bki,bkj->bij", _conjugate(x), x)


def finite(x: jax.Array) -> jax.Array:
    """Which of (n, ...) hold finite numbers only, booleans, (n,)."""
    return jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim)))


def _conjugate(x: jax.Array) -> jax.Array:
    return jnp.conj(x) if jnp.iscomplexobj(x) else x


def _product(order: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(order, a, b, precision=jax.lax.Precision.HIGHEST)
