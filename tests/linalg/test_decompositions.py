"""The wrapped decompositions are jax.numpy's, and on a CPU of one matrix at a time."""

import contextlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimx.linalg import decompositions
from tests import runs

OURS = {
    "eigh": decompositions.eigh,
    "orthonormal": decompositions.orthonormal,
}
THEIRS = {
    "eigh": lambda a: tuple(jnp.linalg.eigh(a)),
    "orthonormal": lambda a: jnp.linalg.qr(a)[0],
}
EACH = pytest.mark.parametrize("name", OURS)


def hermitian(*shape, dtype="float32"):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape)
    if np.issubdtype(dtype, np.complexfloating):
        x = x + 1j * rng.normal(size=shape)
    return jnp.asarray(x + np.swapaxes(x.conj(), -1, -2), dtype)


def lapack(function, *args):
    """The shapes of what the compiled program has LAPACK make."""
    text = jax.jit(function).lower(*args).compile().as_text()
    calls = re.findall(r"= \(?\w+\[([\d,]+)\].*custom_call_target=\"lapack_", text)
    return {tuple(map(int, shape.split(","))) for shape in calls}


@EACH
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (0,)])
def test_every_matrix_has_its_own(name, leading, dtype):
    wide = np.dtype(dtype) in (np.float64, np.complex128)
    with runs.double_precision() if wide else contextlib.nullcontext():
        given = hermitian(*leading, 5, 5, dtype=dtype)
        ours, theirs = OURS[name](given), THEIRS[name](given)
        for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            assert x.dtype == y.dtype
            # The same routine on the same matrix: not even rounding differs.
            np.testing.assert_array_equal(x, y)


@EACH
def test_a_vectorized_program_has_the_same_result(name):
    given = hermitian(4, 3, 5, 5)
    ours = jax.jit(jax.vmap(jax.vmap(OURS[name])))(given)
    for x, y in zip(
        jax.tree.leaves(ours), jax.tree.leaves(OURS[name](given)), strict=True
    ):
        np.testing.assert_array_equal(x, y)


@EACH
def test_lapack_sees_one_matrix_at_a_time(name):
    given = hermitian(4, 3, 5, 5)
    for function in OURS[name], jax.vmap(OURS[name]), jax.vmap(jax.vmap(OURS[name])):
        assert lapack(function, given) == {(5, 5)}
    # Without the wrapper it sees the batch.
    assert (4, 3, 5, 5) in lapack(THEIRS[name], given)


@EACH
def test_inside_a_loop_that_is_vectorized(name):
    # As a sweep is: a loop whose number of turns differs from run to run.
    def many(count, a):
        def turn(_, a):
            out = jax.tree.leaves(OURS[name](a))[-1]
            return out + out.T

        return jax.lax.fori_loop(0, count, turn, a)

    given, counts = hermitian(3, 4, 4), jnp.array([0, 1, 2])
    together = jax.jit(jax.vmap(many))(counts, given)
    apart = [many(*both) for both in zip(counts, given, strict=True)]
    np.testing.assert_allclose(together, np.stack(apart), atol=1e-5)
    assert lapack(jax.vmap(many), counts, given) == {(4, 4)}
