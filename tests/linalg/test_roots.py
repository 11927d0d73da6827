import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimx.linalg import roots
from tests import runs

EIGH = jax.jit(roots.inverse_root, static_argnums=1)
NEWTON = jax.jit(roots.inverse_root_newton, static_argnums=1, static_argnames="steps")

METHODS = pytest.mark.parametrize("method", [EIGH, NEWTON], ids=["eigh", "newton"])


def given(values, seed=0, phase=False):
    """A Hermitian matrix with these eigenvalues, in double precision."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(len(values),) * 2)
    if phase:
        x = x + 1j * rng.normal(size=x.shape)
    basis = np.linalg.qr(x)[0]
    return (basis * np.asarray(values)) @ basis.conj().T


def exact(matrix, p, eps):
    values, basis = np.linalg.eigh(matrix)
    values = np.maximum(values, 0)
    values = values + eps * values[..., -1:]
    return (basis * values[..., None, :] ** (-1 / p)) @ np.swapaxes(
        basis.conj(), -1, -2
    )


def errors(root, truth):
    """Spectral norms of the differences, relative, one for each matrix."""
    off = np.asarray(root, truth.dtype) - truth
    return np.linalg.norm(off, 2, (-2, -1)) / np.linalg.norm(truth, 2, (-2, -1))


def single(method, matrix, p, **options):
    """One root of eight alike, so that one compiled program serves most tests."""
    matrices = np.broadcast_to(matrix, (8, *matrix.shape))
    root, residual = method(jnp.asarray(matrices, jnp.float32), p, **options)
    return root[0], residual[0]


SPECTRA = {
    "well conditioned": np.geomspace(1, 1e-2, 8),
    "ill conditioned": np.geomspace(1, 1e-8, 8),
    "rank deficient": np.array([3.0, 2.0, 1.0, 0, 0, 0, 0, 0]),
    "rank one": np.array([5.0, 0, 0, 0, 0, 0, 0, 0]),
    "identity": np.ones(8),
    "tiny": 1e-30 * np.geomspace(1, 1e-8, 8),
    "huge": 1e30 * np.geomspace(1, 1e-8, 8),
    "slightly negative": np.array([1.0, 0.5, 0, 0, 0, 0, 0, -1e-16]),
}


@functools.cache
def batch(phase=False):
    return np.stack([given(s, i, phase) for i, s in enumerate(SPECTRA.values())])


@METHODS
@pytest.mark.parametrize(
    ("p", "dtype"),
    [
        (1, "float32"),
        (4, "float32"),
        (5, "float32"),
        (4, "float64"),
        (2, "complex64"),
    ],
)
def test_roots_of_all_kinds(method, p, dtype):
    eps = 1e-4
    matrices = batch(dtype.startswith("complex"))
    extra = {"tolerance": 1e-13} if method is NEWTON and dtype == "float64" else {}
    double = dtype == "float64"
    with runs.double_precision() if double else contextlib.nullcontext():
        root, residual = method(jnp.asarray(matrices, dtype), p, eps=eps, **extra)
    assert root.dtype == dtype
    assert residual.dtype == jnp.finfo(dtype).dtype
    unit = np.finfo(dtype).eps
    # Rounding moves the small eigenvalues by some units of the largest, which is
    # some units / eps of what the ridge leaves of them.
    off = dict(zip(SPECTRA, errors(root, exact(matrices, p, eps)), strict=True))
    assert max(off.values()) < 20 * unit / eps, off
    # Some units for each of 8 terms.
    np.testing.assert_array_less(residual, 50 * unit)


@METHODS
def test_a_well_conditioned_root_has_nearly_all_digits(method):
    matrix = given(np.geomspace(1, 0.1, 8))
    root, _ = single(method, matrix, 4, eps=1e-6)
    # The condition, 10, times a few units of rounding, 1.2e-7.
    assert errors(root, exact(matrix, 4, 1e-6)) < 5e-6


@METHODS
@pytest.mark.parametrize("value", [1e-30, 0.25, 1e30])
def test_a_number_is_a_matrix(method, value):
    root, residual = single(method, np.full((1, 1), value), 4, eps=0.0)
    # Some roundings of float32; the power of 1e30 loses a few more.
    np.testing.assert_allclose(root, value**-0.25, rtol=1e-5)
    assert residual < 1e-6


@METHODS
def test_zero_has_the_identity(method):
    root, residual = single(method, np.zeros((8, 8)), 4, eps=1e-6)
    np.testing.assert_array_equal(root, np.eye(8))
    assert residual == 0


@METHODS
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_matrix_spoils_no_other(method, bad):
    good = given(np.geomspace(1, 1e-2, 8))
    matrices = np.stack([good] * 8)
    matrices[1, 2, 3] = bad
    root, residual = method(jnp.asarray(matrices, jnp.float32), 4, eps=1e-6)
    assert np.isinf(residual[1])
    np.testing.assert_array_equal(root[1], np.eye(8))
    # The condition, 100, times some units of rounding.
    assert errors(root[0], exact(good, 4, 1e-6)) < 1e-4
    np.testing.assert_array_equal(root[0], root[2])

    previous = jnp.full((8, 8, 8), 7.0)
    kept, failed = roots.or_previous(root, residual, previous, tolerance=1e-3)
    np.testing.assert_array_equal(failed, np.arange(8) == 1)
    np.testing.assert_array_equal(kept[0], root[0])
    np.testing.assert_array_equal(kept[1], previous[1])


@METHODS
def test_a_singular_matrix_without_ridge_fails_its_check(method):
    root, residual = single(method, np.diag([1.0] * 7 + [0.0]), 4, eps=0.0)
    assert np.isfinite(root).all()
    assert residual >= 1


def test_negative_eigenvalues_count_as_zero():
    matrix = given([1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, -1e-3])
    root, residual = single(EIGH, matrix, 4, eps=1e-2)
    # Some units of rounding, 1.2e-7, over eps.
    assert errors(root, exact(matrix, 4, 1e-2)) < 1e-4
    # 1e-3 spread over the entries of an eigenvector.
    assert 1e-4 < residual < 2e-3


@METHODS
def test_an_indefinite_matrix_fails_its_check(method):
    matrix = given([1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, -0.5])
    root, residual = single(method, matrix, 4, eps=0.1)
    assert np.isfinite(root).all()
    assert residual > 0.1


@METHODS
def test_a_root_too_large_for_its_dtype_fails_its_check(method):
    root, residual = single(method, np.diag([1e-34] + [0.0] * 7), 1, eps=1e-6)
    np.testing.assert_array_equal(root, np.eye(8))
    assert np.isinf(residual)


def test_too_few_steps_keep_the_previous_root():
    matrix = given(np.geomspace(1, 1e-6, 8))
    previous = jnp.eye(8)
    for options, fails in (({"steps": 3}, True), ({}, False)):
        root, residual = single(NEWTON, matrix, 4, eps=1e-6, **options)
        kept, failed = roots.or_previous(root, residual, previous, tolerance=0.01)
        assert failed == fails
        np.testing.assert_array_equal(kept, previous if fails else root)


def test_newton_stops_by_itself():
    """At the floor of rounding more steps allowed change nothing, not one bit."""
    matrices = jnp.asarray(batch(), jnp.float32)
    few, _ = NEWTON(matrices, 4, eps=1e-4, tolerance=0.0)
    many, residual = NEWTON(matrices, 4, eps=1e-4, steps=1000, tolerance=0.0)
    np.testing.assert_array_equal(few, many)
    np.testing.assert_array_less(residual, 1e-5)


def test_newton_leaves_finished_matrices_alone():
    easy, hard = (given(np.geomspace(1, c, 8)) for c in (0.5, 1e-6))
    alone, _ = single(NEWTON, easy, 4, eps=1e-6, tolerance=0.1)
    mixed = jnp.asarray(np.stack([easy, *[hard] * 7]), jnp.float32)
    together, _ = NEWTON(mixed, 4, eps=1e-6, tolerance=0.1)
    np.testing.assert_array_equal(together[0], alone)


def blocks():
    """A weak block with the largest entry beside a strong one of small entries."""
    matrix = np.zeros((64, 64))
    matrix[0, 0] = 1.0
    matrix[1:, 1:] = 0.3  # Its eigenvalue is 18.9.
    return matrix


@pytest.mark.parametrize(
    ("matrix", "eps", "tolerance"),
    [
        # M is near I in every entry, 1/64, while one of its eigenvalues is near 0.
        # The condition, 1e4, times a few units of rounding, 1.2e-7.
        pytest.param(np.eye(64) - (1 - 1e-4) / 64, 1e-6, 5e-3, id="spread"),
        # There it grows from 1e-6, so slowly that rounding seems to undo it; a unit
        # of rounding over eps is a tenth.
        pytest.param(np.eye(64) - 1 / 64, 1e-6, 0.1, id="hidden"),
        # Units of rounding over eps.
        pytest.param(blocks(), 1e-3, 1e-3, id="blocks"),
        # The estimate of the largest eigenvalue falls short by d^(-1/64) at worst,
        # by 3 % here, and the root by half of it.
        pytest.param(
            given(np.r_[1.0, np.full(53, 0.97), np.full(10, 1e-9)]),
            1e-3,
            0.016,
            id="crowded",
        ),
    ],
)
def test_newton_on_large_matrices_that_mislead(matrix, eps, tolerance):
    root, residual = NEWTON(jnp.asarray(matrix, jnp.float32), 2, eps=eps)
    assert errors(root, exact(matrix, 2, eps)) < tolerance
    assert residual < 1e-5


@METHODS
def test_batches_and_maps_are_matrices_one_by_one(method):
    matrices = jnp.asarray(batch(), jnp.float32)
    root, residual = method(matrices.reshape(2, 4, 8, 8), 2, eps=1e-2)
    mapped, _ = jax.jit(jax.vmap(lambda a: method(a, 2, eps=1e-2)))(matrices)
    assert residual.shape == (2, 4)
    for i, matrix in enumerate(matrices):
        one = np.asarray(method(matrix, 2, eps=1e-2)[0], np.float64)
        # Sums in another order: some units of rounding, 1.2e-7, over eps.
        assert errors(root[i // 4, i % 4], one) < 1e-4
        assert errors(mapped[i], one) < 1e-4


def test_the_previous_root_stays_where_anything_is_wrong():
    root = jnp.stack([jnp.eye(2)] * 5).at[3, 0, 1].set(jnp.inf)
    root = root.at[4, 1, 1].set(jnp.nan)
    residual = jnp.array([0.1, 0.2, jnp.nan, 0.0, 0.0])
    previous = 2 * jnp.stack([jnp.eye(2)] * 5)
    kept, failed = jax.jit(roots.or_previous, static_argnames="tolerance")(
        root, residual, previous, tolerance=0.1
    )
    np.testing.assert_array_equal(failed, [False, True, True, True, True])
    np.testing.assert_array_equal(kept, np.stack([np.eye(2)] + [2 * np.eye(2)] * 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: roots.inverse_root(a, 0, eps=0), "inverse_root: p must"),
        (lambda a: roots.inverse_root(a, 2, eps=-1), "inverse_root: eps must"),
        (lambda a: roots.inverse_root_newton(a, 1.5, eps=0), "_newton: p must"),
        (lambda a: roots.inverse_root_newton(a, 2, eps=np.inf), "_newton: eps must"),
        (
            lambda a: roots.inverse_root_newton(a, 2, eps=0, steps=0),
            "_newton: steps must",
        ),
        (
            lambda a: roots.inverse_root_newton(a, 2, eps=0, tolerance=-1),
            "_newton: tolerance must",
        ),
        (
            lambda a: roots.or_previous(a, a[0, 0], a, tolerance=np.nan),
            "or_previous: tolerance must",
        ),
    ],
)
def test_numbers_are_checked(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.eye(2))
