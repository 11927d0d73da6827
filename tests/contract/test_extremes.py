"""Gradients of nothing and gradients too large to square."""

import jax
import jax.numpy as jnp
import pytest

from tests.contract import _trees
from tests.contract._trees import every


def filled(value, shapes=_trees.SHAPES):
    return jax.tree.map(
        lambda shape: jnp.full(shape, value), shapes, is_leaf=_trees.is_shape
    )


def several(name, gradients, params, **hyperparameters):
    """Updates and states along a list of gradients."""
    tx = _trees.build(name, **hyperparameters)
    state = tx.init(params)
    for grads in gradients:
        extra = _trees.extra(name, grads)
        updates, state = tx.update(grads, state, params, **extra)
        yield updates, state


def assert_no_nan(tree):
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        assert not bool(jnp.any(jnp.isnan(x))), jax.tree_util.keystr(path)


@every
def test_no_gradient_is_no_update(name):
    zeros = filled(0.0)
    for updates, state in several(name, [zeros] * 3, zeros, weight_decay=0.0):
        _trees.assert_same(updates, zeros)
        _trees.assert_finite(state)


@every
def test_no_gradient_leaves_the_decay(name):
    params = _trees.draw(0)
    expected = jax.tree.map(lambda p: -0.1 * 0.1 * p, params)
    for updates, _ in several(name, [filled(0.0)], params):
        _trees.assert_same(updates, expected, **_trees.single(name))


@every
def test_gradients_that_end_leave_finite_updates(name):
    gradients = [_trees.draw(1)] + [filled(0.0)] * 3
    for updates, state in several(name, gradients, _trees.draw(0)):
        _trees.assert_finite((updates, state))


@every
def test_the_largest_count_is_as_good_as_any(name):
    """It stays where it is; one more would be negative, and a weight infinite."""
    largest = int(jnp.iinfo(jnp.int32).max)

    def at(count, state):
        def set_count(path, x):
            counts = getattr(path[-1], "name", "") == "count"
            return jnp.full_like(x, count) if counts else x

        return jax.tree_util.tree_map_with_path(set_count, state)

    tx, params, grads = _trees.build(name), _trees.draw(0), _trees.draw(1)
    extra = _trees.extra(name, grads)
    _, state = tx.update(grads, tx.init(params), params, **extra)
    expected, _ = tx.update(grads, at(largest // 2, state), params, **extra)
    updates, after = tx.update(grads, at(largest, state), params, **extra)
    _trees.assert_same(updates, expected)
    _trees.assert_same(after, at(largest, after))


@every
@pytest.mark.parametrize("size", [1e18, 1e30])
def test_huge_gradients_leave_no_nan(name, size):
    """1e18 has a square in float32 and its sum may have none; 1e30 has none."""
    huge = jax.tree.map(lambda g: size * g, _trees.draw(1))
    gradients = [huge, _trees.draw(2), filled(size), filled(0.0), _trees.draw(3)]
    for updates, state in several(name, gradients, _trees.draw(0)):
        _trees.assert_finite(updates)
        assert_no_nan(state)


@every
@pytest.mark.parametrize("size", [1.0, 1e18, 1e30])
def test_a_row_without_gradient_beside_a_huge_one(name, size):
    """As in an embedding, most of whose rows a batch does not name."""
    params = {"embed": _trees.draw(0, (4, 3))}
    row = {"embed": jnp.zeros((4, 3)).at[1].set(size)}
    gradients = [row, row, {"embed": _trees.draw(1, (4, 3))}, row]
    for updates, state in several(name, gradients, params, weight_decay=0.0):
        _trees.assert_finite(updates)
        assert_no_nan(state)
    (updates, _), *_ = several(name, [row], params, weight_decay=0.0)
    assert bool(jnp.all(updates["embed"][jnp.array([0, 2, 3])] == 0))


@every
@pytest.mark.parametrize("size", [1e-12, 1e-25])
def test_tiny_gradients_leave_finite_updates(name, size):
    """1e-25 has no square in float32: only the epsilons stand below a root."""
    tiny = jax.tree.map(lambda g: size * g, _trees.draw(1))
    for updates, state in several(name, [tiny] * 2, _trees.draw(0)):
        _trees.assert_finite((updates, state))
