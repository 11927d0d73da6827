import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimx.linalg import moments


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_moments_are_those_of_each_matrix(dtype):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4, 5))
    if dtype == "complex64":
        x = x + 1j * rng.normal(size=x.shape)
    ours = jnp.asarray(x, dtype)
    # A sum of five products rounds at a few 6e-8 of its size.
    close = {"rtol": 1e-5, "atol": 1e-5}
    for i, one in enumerate(x):
        np.testing.assert_allclose(
            moments.of_rows(ours)[i], one @ one.conj().T, **close
        )
        np.testing.assert_allclose(
            moments.of_columns(ours)[i], one.conj().T @ one, **close
        )


@pytest.mark.parametrize("function", [moments.of_rows, moments.of_columns])
def test_products_are_at_full_precision(function):
    jaxpr = jax.make_jaxpr(function)(jnp.ones((1, 2, 3)))
    assert "HIGHEST" in str(jaxpr)


def test_one_bad_number_spoils_its_own_matrix():
    x = jnp.zeros((3, 2, 2)).at[1, 0, 1].set(jnp.nan).at[2, 1, 1].set(jnp.inf)
    assert moments.finite(x).tolist() == [True, False, False]
