"""The state that goes out has the tree, shapes, dtypes and weak types of what came in.

Traced abstractly: nothing is compiled, since nothing but types is asked about.
"""

import contextlib
import functools

import jax
import jax.numpy as jnp
import pytest

from tests import runs
from tests.contract import _trees
from tests.contract._trees import every

DTYPES = ("bfloat16", "float16", "float32", "float64", "complex64")

MIXED = {
    "half": jnp.bfloat16,
    "single": jnp.float32,
    "double": jnp.float64,
    "complex": jnp.complex64,
}


@contextlib.contextmanager
def arithmetic(dtype):
    """Double precision where a dtype needs it; complex times real may promote."""
    with contextlib.ExitStack() as stack:
        if dtype in ("float64", "mixed"):
            stack.enter_context(runs.double_precision())
        if dtype in ("complex64", "mixed"):
            stack.enter_context(jax.numpy_dtype_promotion("standard"))
        yield


def parameters(dtype):
    if dtype != "mixed":
        return _trees.draw(0, dtype=jnp.dtype(dtype))
    return {
        f"{kind} {rank}": _trees.draw(0, (4, 3, 2)[:rank], of)
        for kind, of in MIXED.items()
        for rank in range(4)
    }


def promotion(dtype):
    """Complex times real may promote, nothing else."""
    return "standard" if dtype.startswith("complex") else "strict"


def one_update(name, params, **hyperparameters):
    """State before, updates and state after, as avals."""
    tx = _trees.build(name, **hyperparameters)
    return jax.eval_shape(
        lambda params: _trees.one_update(name, tx, params, params), params
    )


@every
@pytest.mark.parametrize("dtype", [*DTYPES, "mixed"])
def test_state_and_updates_keep_their_types(name, dtype):
    with arithmetic(dtype):
        params = parameters(dtype)
        before, updates, after = one_update(name, params)
        assert _trees.avals(after) == _trees.avals(before)
        assert _trees.avals(updates) == _trees.avals(params)
        tx = _trees.build(name)
        assert _trees.avals(tx.init(params)) == _trees.avals(before)


@every
@pytest.mark.parametrize(
    ("of_parameters", "of_gradients"),
    [
        ("float32", "bfloat16"),
        ("bfloat16", "float32"),
        ("float32", "float64"),
        ("float64", "float32"),
        ("complex128", "complex64"),
    ],
)
def test_gradients_of_another_dtype_keep_it(name, of_parameters, of_gradients):
    with arithmetic("mixed"), jax.numpy_dtype_promotion(promotion(of_gradients)):
        params = _trees.draw(0, dtype=jnp.dtype(of_parameters))
        grads = _trees.draw(1, dtype=jnp.dtype(of_gradients))
        tx = _trees.build(name)
        before, updates, after = jax.eval_shape(
            lambda *trees: _trees.one_update(name, tx, *trees), params, grads
        )
        assert _trees.avals(after) == _trees.avals(before)
        assert _trees.avals(updates) == _trees.avals(grads)


@every
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "complex64"])
def test_state_keeps_its_types_under_traced_numbers(name, dtype):
    """Arrays promote where Python numbers adapt."""
    with arithmetic(dtype):
        params = parameters(dtype)
        before, updates, after = jax.eval_shape(
            lambda values: one_update(name, params, **values), _trees.numbers(name)
        )
        assert _trees.avals(after) == _trees.avals(before)
        assert _trees.avals(updates) == _trees.avals(params)


@every
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "complex64"])
def test_state_keeps_its_types_under_schedules(name, dtype):
    def rising(key, value):
        return lambda count: value * count / (1 + count)

    with arithmetic(dtype), jax.numpy_dtype_promotion("standard"):
        params = parameters(dtype)
        values = _trees.scheduled(name, rising)
        before, updates, after = one_update(name, params, **values)
        assert _trees.avals(after) == _trees.avals(before)
        assert _trees.avals(updates) == _trees.avals(params)


@every
@pytest.mark.parametrize(
    ("dtype", "held"),
    [
        ("bfloat16", {"float32"}),
        ("float16", {"float32"}),
        ("float64", {"float64"}),
        ("complex64", {"float32", "complex64"}),
    ],
)
def test_accumulators_are_no_narrower_than_float32(name, dtype, held):
    with arithmetic(dtype):
        before, _, _ = one_update(name, parameters(dtype))
    dtypes = {str(x.dtype) for x in jax.tree.leaves(before)} - {"int32"}
    assert dtypes
    assert dtypes <= held


@every
def test_accumulators_have_the_dtype_asked_for(name):
    params = {"kernel": jnp.ones((4, 3))}
    before, updates, after = one_update(name, params, accumulator_dtype=jnp.bfloat16)
    assert _trees.avals(after) == _trees.avals(before)
    assert _trees.avals(updates) == _trees.avals(params)
    for x in jax.tree.leaves(before):
        if x.shape[-2:] == (4, 3):
            assert x.dtype == jnp.bfloat16
        else:  # Counters, factors and factored statistics, which stay float32.
            assert x.dtype in (jnp.int32, jnp.float32)
    assert any(x.shape == (4, 3) for x in jax.tree.leaves(before))


@every
def test_narrow_accumulators_move_the_parameters_alike(name):
    """Moments of three digits change a step in its third digit, not in its sign."""
    params, grads = _trees.draw(0), _trees.draw(1)
    narrow = _trees.build(name, accumulator_dtype=jnp.bfloat16)
    _, wide, _ = _trees.one_update(name, _trees.build(name), params, grads)
    _, rounded, _ = _trees.one_update(name, narrow, params, grads)
    _trees.assert_same(rounded, wide, rtol=2**-6, atol=2**-6)


@every
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_updates_are_those_of_float32_rounded(name, dtype):
    """Each of the at most eight stages rounds to the incoming dtype once."""
    dtype = jnp.dtype(dtype)
    unit = float(jnp.finfo(dtype).eps)
    params, grads = _trees.draw(0, dtype=dtype), _trees.draw(1, dtype=dtype)
    wide = runs.as_tree((params, grads), jnp.float32)
    tx = _trees.build(name)
    _, ours, _ = _trees.one_update(name, tx, params, grads)
    _, exact, _ = _trees.one_update(name, tx, *wide)
    largest = max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(exact))
    theirs = runs.as_tree(exact, dtype)
    _trees.assert_same(ours, theirs, rtol=8 * unit, atol=8 * unit * largest)


@every
def test_complex_updates_turn_with_the_gradient(name):
    """|g|^2 and no other square: a phase passes through, up to float32 rounding."""
    with arithmetic("complex64"):
        tx = _trees.build(name, weight_decay=0.0)
        params = _trees.draw(0, dtype=jnp.complex64)
        grads = _trees.draw(1, dtype=jnp.complex64)
        turn = functools.partial(jax.tree.map, lambda x: x * jnp.exp(0.7j))
        _, straight, _ = _trees.one_update(name, tx, params, grads)
        _, turned, _ = _trees.one_update(name, tx, params, turn(grads))
        _trees.assert_same(turned, turn(straight), rtol=1e-5, atol=1e-5)
        _trees.assert_moves(turned, straight)
