import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimx


def clipped(max_norm, updates):
    clip = optimx.clip_by_block_norm(max_norm)
    out, state = clip.update(updates, clip.init(updates))
    assert state == optax.EmptyState()
    return out


def test_each_leaf_has_its_own_norm():
    tree = {"long": jnp.array([3.0, 4.0]), "short": jnp.array([[0.3], [0.4]])}
    out = clipped(1.0, tree)
    np.testing.assert_allclose(out["long"], [0.6, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(out["short"], tree["short"])


@pytest.mark.parametrize("max_norm", [5.0, 6.0, np.inf])
def test_a_norm_at_the_limit_or_below_passes_unchanged(max_norm):
    u = jnp.array([3.0, 4.0])
    np.testing.assert_array_equal(clipped(max_norm, u), u)


def test_matrices_are_measured_whole():
    u = jnp.full((3, 3), 2.0)  # The Frobenius norm is 6, the spectral norm too.
    np.testing.assert_allclose(jnp.linalg.norm(clipped(3.0, u)), 3.0, rtol=1e-6)
    np.testing.assert_allclose(clipped(3.0, jnp.eye(4) * 3), jnp.eye(4) * 1.5)


def test_the_norm_of_half_precision_is_taken_in_float32():
    out = clipped(1.0, jnp.full(4, 300.0, jnp.float16))  # 300^2 overflows float16.
    assert out.dtype == jnp.float16
    np.testing.assert_array_equal(out, 0.5)


def test_complex_numbers_count_by_their_modulus():
    with jax.numpy_dtype_promotion("standard"):
        out = clipped(1.0, jnp.array([3.0 + 4.0j]))
    np.testing.assert_allclose(out, [0.6 + 0.8j], rtol=1e-6)


@pytest.mark.parametrize(("max_norm", "kept"), [(np.inf, 1.0), (1.0, 0.0)])
def test_a_norm_that_overflows_leaves_no_nan(max_norm, kept):
    u = jnp.array([1e25, 1.0])
    np.testing.assert_array_equal(clipped(max_norm, u), kept * u)


def test_the_derivative_at_zero_is_finite():
    derivative = jax.grad(lambda u: jnp.sum(clipped(1.0, u)))(jnp.zeros(3))
    np.testing.assert_array_equal(derivative, 1.0)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, "one", None])
def test_a_limit_that_is_not_above_zero_is_refused(value):
    with pytest.raises(ValueError, match=r"clip_by_block_norm: max_norm .*> 0, got"):
        optimx.clip_by_block_norm(value)
