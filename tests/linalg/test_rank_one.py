import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimx.linalg import rank_one
from tests import runs

ITERATE = jax.jit(rank_one.power_iteration, static_argnames="steps")


def given(shape, values, seed=0, phase=0):
    """A matrix with these singular values, in double precision."""
    rng = np.random.default_rng(seed)

    def factor(size):
        x = rng.normal(size=(size, size)) + phase * 1j * rng.normal(size=(size, size))
        return np.linalg.qr(x)[0] if phase else np.linalg.qr(x.real)[0]

    k = min(shape)
    values = np.pad(np.asarray(values, float), (0, k - len(values)))
    return (factor(shape[0])[:, :k] * values) @ factor(shape[1])[:, :k].conj().T


SPECTRA = {
    "well conditioned": [1, 0.5, 0.4, 0.3],
    "ill conditioned": np.geomspace(1, 1e-8, 7),
    "rank one": [3],
    "rank two": [2, 1],
    "tiny": [1e-30, 3e-31],
    "huge": [1e30, 3e29],
}


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((12, 7), "float32"),
        ((7, 12), "float32"),
        ((7, 12), "float64"),
        ((7, 12), "complex64"),
    ],
)
def test_the_largest_singular_triple(shape, dtype):
    phase = dtype.startswith("complex")
    x = np.stack([given(shape, s, i, phase) for i, s in enumerate(SPECTRA.values())])
    double = dtype == "float64"
    with runs.double_precision() if double else contextlib.nullcontext():
        sigma, u, v = ITERATE(jnp.asarray(x, dtype))
    assert u.dtype == v.dtype == dtype
    assert sigma.dtype == jnp.finfo(dtype).dtype
    sigma, u, v = (np.asarray(part, complex) for part in (sigma, u, v))
    left, values, right = np.linalg.svd(x)
    # A dozen roundings in sums of a dozen; 32 steps shrink the gap of 2 or more to
    # 2^-64 and are beside it nothing.
    atol = 20 * np.finfo(dtype).eps
    np.testing.assert_allclose(sigma, values[:, 0], rtol=atol)
    np.testing.assert_allclose(np.linalg.norm(u, axis=-1), 1, rtol=atol)
    np.testing.assert_allclose(np.linalg.norm(v, axis=-1), 1, rtol=atol)
    ours = u[:, :, None] * v[:, None, :].conj()
    theirs = left[:, :, :1] * right[:, :1, :]
    np.testing.assert_allclose(ours, theirs, atol=atol)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
def test_a_row_or_a_column_is_its_own_norm(shape):
    x = given(shape, [2.5])
    sigma, u, v = ITERATE(jnp.asarray(x, jnp.float32))
    # Some roundings of float32, 6e-8 each.
    np.testing.assert_allclose(sigma, 2.5, rtol=1e-6)
    np.testing.assert_allclose(sigma * jnp.outer(u, v), x, atol=1e-6)


def test_zeros_have_zeros():
    for part in ITERATE(jnp.zeros((2, 3, 4))):
        np.testing.assert_array_equal(part, np.zeros_like(part))


@pytest.mark.parametrize("scale", [1e-45, 1e-38, 1e-37, 1e37, 3e38])
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_nothing_finite_gives_nan(scale, dtype):
    x = jnp.asarray(scale * np.array([[1, -0.5], [0.25, 0]]), dtype)
    sigma, u, v = ITERATE(x)
    assert np.isfinite(u).all()
    assert np.isfinite(v).all()
    # What is below the least normal number, 1.2e-38, counts as zero.
    truth = scale * np.linalg.norm([[1, -0.5], [0.25, 0]], 2) * (scale > 1.2e-38)
    truth = truth if truth < 3.4e38 else np.inf
    np.testing.assert_allclose(sigma, truth, rtol=1e-5)


def test_nan_stays_visible():
    assert np.isnan(ITERATE(jnp.array([[1.0, jnp.nan], [0.0, 1.0]]))[0])


@pytest.mark.parametrize("vector", [np.ones(20), np.tile([1, -1], 10)])
def test_the_largest_row_may_stand_in_the_weaker_block(vector):
    """The row of largest norm, 1.5, is orthogonal to the vector of the largest, 2."""
    x = np.zeros((21, 21))
    x[0, 0] = 1.5
    x[1:, 1:] = 0.1 * np.outer(vector, vector)
    sigma, _, v = ITERATE(jnp.asarray(x, jnp.float32))
    # The ratio 0.75 to the power of 4 * 32 steps is 1e-16, of 2 * 32 steps 1e-8;
    # what there is of the vector at the start, a 10th or less, is lost from them.
    np.testing.assert_allclose(sigma, 2, rtol=1e-6)
    np.testing.assert_allclose(v[0], 0, atol=1e-5)


def test_without_a_gap_the_value_is_near_and_from_below():
    x = given((40, 30), np.linspace(1, 0.9, 30))
    values = [float(ITERATE(jnp.asarray(x, jnp.float32), steps=s)[0]) for s in (2, 32)]
    # Documented: 1 - ln(n) / (4 steps); from below but for a few roundings.
    assert 1 - np.log(30) / 8 <= values[0] < values[1] <= 1 + 1e-6
    assert values[1] >= 1 - np.log(30) / 128


def test_the_identity_has_any_unit_vector():
    sigma, u, v = ITERATE(jnp.eye(5))
    np.testing.assert_allclose(sigma, 1, rtol=1e-6)  # A few roundings.
    np.testing.assert_allclose(u, v, rtol=1e-6)


def test_batches_are_matrices_one_by_one():
    x = jnp.asarray(
        np.stack([given((5, 4), s[:4], i) for i, s in enumerate(SPECTRA.values())]),
        jnp.float32,
    )
    batch = ITERATE(x.reshape(2, 3, 5, 4))
    mapped = jax.jit(jax.vmap(rank_one.power_iteration))(x)
    for i in range(len(x)):
        for one, many, via in zip(ITERATE(x[i]), batch, mapped, strict=True):
            flat = many.reshape(6, *one.shape)
            # Sums in another order: roundings, where vectors have entries near 1.
            scale = float(jnp.max(jnp.abs(one)))
            np.testing.assert_allclose(flat[i], one, rtol=0, atol=3e-6 * scale)
            np.testing.assert_allclose(via[i], one, rtol=0, atol=3e-6 * scale)


@pytest.mark.parametrize("steps", [0, -1, 1.5, True])
def test_steps_are_counted(steps):
    with pytest.raises(ValueError, match="power_iteration: steps must be"):
        rank_one.power_iteration(jnp.eye(2), steps=steps)
