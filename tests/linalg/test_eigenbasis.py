import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimx.linalg import eigenbasis
from tests import runs

BASIS = jax.jit(eigenbasis.eigenbasis)
REFRESH = jax.jit(eigenbasis.refresh)


def orthonormal(d, seed, phase=False):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(d, d))
    if phase:
        x = x + 1j * rng.normal(size=(d, d))
    return np.linalg.qr(x)[0]


def given(values, basis):
    return (basis * np.asarray(values)) @ basis.conj().T


SPECTRA = {
    "well conditioned": np.geomspace(1, 1e-2, 6),
    "ill conditioned": np.geomspace(1, 1e-8, 6),
    "rank deficient": np.array([3.0, 2.0, 1.0, 0, 0, 0]),
    "rank one": np.array([5.0, 0, 0, 0, 0, 0]),
    "equal": np.ones(6),
    "tiny": 1e-30 * np.geomspace(1, 1e-2, 6),
    "huge": 1e30 * np.geomspace(1, 1e-2, 6),
    "zero": np.zeros(6),
}


@functools.cache
def batch(phase=False):
    return np.stack(
        [given(s, orthonormal(6, i, phase)) for i, s in enumerate(SPECTRA.values())]
    )


DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])


def precision(dtype):
    double = dtype == "float64"
    return runs.double_precision() if double else contextlib.nullcontext()


def strays(basis):
    """How far the columns are from orthonormal; NaN, which is less than nothing,
    where one is not a number."""
    basis = np.asarray(basis, complex)
    gram = np.swapaxes(basis.conj(), -1, -2) @ basis
    return np.max(np.abs(gram - np.eye(basis.shape[-1])))


def alike(ours, theirs):
    """How far columns are from each other, whatever their signs or phases."""
    products = np.abs(np.sum(np.asarray(ours, complex).conj() * theirs, axis=-2))
    return np.max(np.abs(products - 1))


@DTYPES
def test_bases_of_all_kinds(dtype):
    matrices = batch(dtype.startswith("complex"))
    with precision(dtype):
        basis = BASIS(jnp.asarray(matrices, dtype))
    assert basis.dtype == dtype
    unit = np.finfo(dtype).eps
    # Some units for each of 6 terms, in the measure of the largest eigenvalue.
    assert strays(basis) < 20 * unit
    basis = np.asarray(basis, matrices.dtype)
    turned = np.swapaxes(basis.conj(), -1, -2) @ matrices @ basis
    for (name, values), matrix in zip(SPECTRA.items(), turned, strict=True):
        np.testing.assert_allclose(
            matrix, np.diag(values), atol=30 * unit * values[0], err_msg=name
        )


@DTYPES
def test_separated_eigenvectors_are_those_of_numpy(dtype):
    truth = orthonormal(6, 3, dtype.startswith("complex"))
    matrix = given([6, 5, 4, 3, 2, 1], truth)
    with precision(dtype):
        basis = BASIS(jnp.asarray(matrix, dtype))
    # An angle of rounding / gap, 6 eps / 1; its cosine would be closer still.
    assert alike(basis, truth) < 20 * np.finfo(dtype).eps


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_matrix_that_is_no_number_has_the_identity(bad):
    matrices = batch()[:3].copy()
    matrices[1, 2, 3] = bad
    basis = BASIS(jnp.asarray(matrices, jnp.float32))
    np.testing.assert_array_equal(basis[1], np.eye(6))
    np.testing.assert_array_equal(basis[0], BASIS(jnp.asarray(matrices, "float32"))[0])
    # A few units of rounding, 1.2e-7.
    assert strays(basis) < 3e-6


def test_a_number_has_one_direction():
    for value in (0.0, 1e-30, 1e30):
        matrix = jnp.full((1, 1), value, jnp.float32)
        np.testing.assert_array_equal(jnp.abs(BASIS(matrix)), [[1.0]])
        basis, order = REFRESH(matrix, jnp.ones((1, 1)))
        np.testing.assert_array_equal(jnp.abs(basis), [[1.0]])
        np.testing.assert_array_equal(order, [0])


@DTYPES
def test_refresh_is_one_step_of_orthogonal_iteration(dtype):
    phase = dtype.startswith("complex")
    truth = orthonormal(6, 4, phase)
    matrix = given([1, 32, 4, 16, 8, 2], truth)
    # Near enough to the truth that the diagonal tells which is which.
    near = np.linalg.qr(truth + 0.02 * orthonormal(6, 5, phase))[0]
    with precision(dtype):
        basis, order = REFRESH(jnp.asarray(matrix, dtype), jnp.asarray(near, dtype))
    np.testing.assert_array_equal(order, [1, 3, 4, 2, 5, 0])
    expected = np.linalg.qr(matrix @ near[:, order])[0]
    assert basis.dtype == dtype
    # The condition of the product, 32, times a few units of rounding.
    assert alike(basis, expected) < 100 * np.finfo(dtype).eps
    assert strays(basis) < 20 * np.finfo(dtype).eps


def test_refresh_sorts_and_ties_keep_their_order():
    matrix = jnp.diag(jnp.array([1.0, 3.0, 1.0, 2.0, 3.0]))
    basis, order = REFRESH(matrix, jnp.eye(5))
    np.testing.assert_array_equal(order, [1, 4, 3, 0, 2])
    np.testing.assert_array_equal(jnp.abs(basis), np.eye(5)[:, order])


def test_repeated_refreshes_find_the_eigenbasis():
    truth = orthonormal(6, 6)
    matrix = jnp.asarray(given([32, 16, 8, 4, 2, 1], truth), jnp.float32)
    basis = jnp.asarray(orthonormal(6, 7), jnp.float32)
    assert alike(basis, truth) > 0.1
    for _ in range(30):
        basis, order = REFRESH(matrix, basis)
    # Angles halve at each step: 2^-30 of what they were. What is left is rounding
    # of the largest eigenvalue over the smallest gap, 32 units of 1.2e-7.
    assert alike(basis, truth) < 1e-5
    assert alike(basis, np.asarray(BASIS(matrix))) < 1e-5
    np.testing.assert_array_equal(order, np.arange(6))


@DTYPES
def test_refreshed_bases_are_orthonormal_whatever_the_matrix(dtype):
    phase = dtype.startswith("complex")
    matrices = batch(phase)
    start = np.stack([orthonormal(6, 8, phase)] * len(matrices))
    with precision(dtype):
        matrices = jnp.asarray(matrices, dtype)
        basis = jnp.asarray(start, dtype)
        for _ in range(3):
            basis, order = REFRESH(matrices, basis)
    # Some units for each of 6 terms.
    assert strays(basis) < 20 * np.finfo(dtype).eps
    np.testing.assert_array_equal(np.sort(order), [np.arange(6)] * len(matrices))


def test_bases_know_no_scale():
    matrix = batch()[0] / np.max(np.abs(batch()[0]))
    basis = jnp.asarray(orthonormal(6, 9), jnp.float32)
    middle, order = REFRESH(jnp.asarray(matrix, jnp.float32), basis)
    # Near the ends of float32, where even a sum of two entries would overflow.
    for scale in (1e-35, 1e-30, 1e30, 3e38):
        scaled = jnp.asarray(scale * matrix, jnp.float32)
        other, same = REFRESH(scaled, basis)
        np.testing.assert_array_equal(same, order)
        # The condition, 100, times a few units of rounding, 1.2e-7.
        np.testing.assert_allclose(other, middle, atol=1e-4)
        assert alike(BASIS(scaled), np.linalg.eigh(matrix)[1][:, ::-1]) < 1e-4


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_refresh_keeps_the_basis_where_there_is_nothing_to_see(bad):
    matrices = batch()[:3].copy()
    matrices[1] = bad
    basis = jnp.asarray(np.stack([orthonormal(6, 10)] * 3), jnp.float32)
    new, order = REFRESH(jnp.asarray(matrices, jnp.float32), basis)
    np.testing.assert_array_equal(new[1], basis[1])
    np.testing.assert_array_equal(order[1], np.arange(6))
    # A few units of rounding, 1.2e-7.
    assert strays(new) < 3e-6
    assert alike(new[0], np.asarray(basis[0])) > 0.01


def test_batches_and_maps_are_matrices_one_by_one():
    matrices = jnp.asarray(batch()[:4], jnp.float32)
    start = jnp.asarray(np.stack([orthonormal(6, i) for i in range(4)]), jnp.float32)
    whole = BASIS(matrices.reshape(2, 2, 6, 6)).reshape(4, 6, 6)
    mapped = jax.jit(jax.vmap(eigenbasis.eigenbasis))(matrices)
    basis, order = REFRESH(matrices.reshape(2, 2, 6, 6), start.reshape(2, 2, 6, 6))
    via, _ = jax.jit(jax.vmap(eigenbasis.refresh))(matrices, start)
    for i in range(4):
        # The same decomposition of each matrix, with products summed differently
        # at most: a few roundings over the gaps, and the rank-deficient (whose last
        # columns are any) in the columns that it determines.
        seen = slice(0, 3)
        one = BASIS(matrices[i])[:, seen]
        np.testing.assert_allclose(whole[i][:, seen], one, atol=1e-5)
        np.testing.assert_allclose(mapped[i][:, seen], one, atol=1e-5)
        one, own = REFRESH(matrices[i], start[i])
        np.testing.assert_array_equal(order.reshape(4, 6)[i], own)
        seen = slice(0, 1)
        np.testing.assert_allclose(
            basis.reshape(4, 6, 6)[i][:, seen], one[:, seen], atol=1e-5
        )
        np.testing.assert_allclose(via[i][:, seen], one[:, seen], atol=1e-5)
