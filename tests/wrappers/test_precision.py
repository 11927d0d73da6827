import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimx
from tests import runs
from tests.contract import _trees

HALF = _trees.draw(0, dtype=jnp.bfloat16)


def thirds():
    """Stages that each round: dividing by three and multiplying back."""
    return optax.chain(*[optax.scale(1 / 3)] * 5, *[optax.scale(3.0)] * 5)


def test_dtypes_inside_and_outside():
    tx = optimx.in_float32(optimx.adamw(0.1))
    state = tx.init(HALF)
    updates, after = tx.update(HALF, state, HALF)
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype("bfloat16")}
    assert {str(x.dtype) for x in jax.tree.leaves(state)} == {"float32", "int32"}
    assert _trees.avals(after) == _trees.avals(state)


def test_rounds_once():
    updates = {"w": jnp.linspace(1, 2, 101).astype(jnp.bfloat16)}
    plain = thirds()
    tx = optimx.in_float32(plain)
    once, _ = tx.update(updates, tx.init(updates))
    np.testing.assert_array_equal(once["w"], updates["w"])
    often, _ = plain.update(updates, plain.init(updates))
    assert bool(jnp.any(often["w"] != updates["w"])), "or else nothing is shown"


@pytest.mark.parametrize("name", ["mars_adamw", "came", "ademamix_came"])
def test_is_the_float32_update_rounded(name):
    inner = _trees.build(name)
    tx = optimx.in_float32(inner)
    wide = runs.as_tree(HALF, jnp.float32)
    updates, _ = tx.update(HALF, tx.init(HALF), HALF)
    exact, _ = inner.update(wide, inner.init(wide), wide)
    _trees.assert_same(updates, runs.as_tree(exact, jnp.bfloat16))


def test_extra_trees_are_widened_too():
    seen = {}

    def update(updates, state, params=None, **extra):
        seen.update(extra, params=params, updates=updates)
        return updates, state

    inner = optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)
    tx = optimx.in_float32(inner)
    tx.update(HALF, tx.init(HALF), HALF, stale_grads=HALF, value=jnp.bfloat16(1))
    for key in ("updates", "params", "stale_grads"):
        assert {x.dtype for x in jax.tree.leaves(seen[key])} == {jnp.dtype("float32")}
    assert seen["value"].dtype == jnp.bfloat16


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_wider_dtypes_stay(dtype):
    params = _trees.draw(0, dtype=jnp.dtype(dtype))
    with jax.numpy_dtype_promotion("standard"):
        tx = optimx.in_float32(optimx.adamw(0.1))
        updates, _ = tx.update(params, tx.init(params), params)
        own = optimx.adamw(0.1)
        expected, _ = own.update(params, own.init(params), params)
    _trees.assert_same(updates, expected)


def test_double_stays_double():
    with runs.double_precision():
        params = {"w": jnp.ones(3, jnp.float64)}
        tx = optimx.in_float32(optimx.ema(0.9))
        state = tx.init(params)
        updates, _ = tx.update(params, state)
        assert state.average["w"].dtype == updates["w"].dtype == jnp.float64


def test_shapes_are_enough_for_init():
    tx = optimx.in_float32(optimx.came(0.1))
    _trees.assert_same(tx.init(jax.eval_shape(lambda: HALF)), tx.init(HALF))


def test_needs_no_parameters_where_the_inner_needs_none():
    tx = optimx.in_float32(optimx.ema(0.9))
    updates, _ = tx.update(HALF, tx.init(HALF))
    assert _trees.avals(updates) == _trees.avals(HALF)


def test_something_else_than_a_transformation_is_refused():
    with pytest.raises(TypeError, match="in_float32: inner must be"):
        optimx.in_float32(optax.adam)
