"""Every optimizer inside what Optax wraps around optimizers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.contract import _trees
from tests.contract._trees import every


def updates_of(name, tx, params, grads):
    return _trees.one_update(name, tx, params, grads)[1]


def own_updates(name, params, grads, **hyperparameters):
    return updates_of(name, _trees.build(name, **hyperparameters), params, grads)


@pytest.fixture(autouse=True)
def _optax_promotes(_explicit_arithmetic):
    """Optax's schedules and averages mix integers with floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def trees():
    return _trees.draw(0), _trees.draw(1)


@every
def test_masked(name, trees):
    params, grads = trees
    mask = {"block": {"bias": False, "kernel": True}, "stack": False}
    tx = optax.masked(_trees.build(name), mask, mask_compatible_extra_args=True)
    state, updates, after = _trees.one_update(name, tx, params, grads)
    assert _trees.avals(after) == _trees.avals(state)
    kernel = {"block": {"kernel": params["block"]["kernel"]}}
    own = own_updates(name, kernel, {"block": {"kernel": grads["block"]["kernel"]}})
    expected = {
        "block": {"bias": grads["block"]["bias"], **own["block"]},
        "stack": grads["stack"],
    }
    _trees.assert_same(updates, expected)


@every
def test_partition(name, trees):
    params, grads = trees
    labels = {"block": "ours", "stack": "theirs"}
    tx = optax.partition(
        {"ours": _trees.build(name), "theirs": optax.sgd(0.5)},
        labels,
        mask_compatible_extra_args=True,
    )
    state, updates, after = _trees.one_update(name, tx, params, grads)
    assert _trees.avals(after) == _trees.avals(state)
    own = own_updates(name, {"block": params["block"]}, {"block": grads["block"]})
    _trees.assert_same(updates, own | {"stack": -0.5 * grads["stack"]})


@every
def test_injected_numbers_are_state_and_take_effect(name, trees):
    params, grads = trees
    tx = _trees.injected(name)(**_trees.numbers(name))
    state, updates, after = _trees.one_update(name, tx, params, grads)
    assert _trees.avals(after) == _trees.avals(state)
    assert set(state.hyperparams) == set(_trees.numbers(name))
    # 1 - b of a float32 b: rounding 6e-8, which is 6e-4 of 1 - 0.9999.
    _trees.assert_same(updates, own_updates(name, params, grads), rtol=1e-3, atol=1e-4)

    still = optax.tree.set(state, learning_rate=jnp.asarray(0.0))
    extra = _trees.extra(name, grads)
    stopped, _ = tx.update(grads, still, params, **extra)
    assert all(bool(jnp.all(u == 0)) for u in jax.tree.leaves(stopped))


@every
def test_injected_schedules_are_evaluated(name, trees):
    """Every number as a schedule, the learning rate as one that moves."""
    params, grads = trees
    values = {
        key: optax.constant_schedule(value)
        for key, value in _trees.numbers(name).items()
    }
    rates = {"learning_rate": lambda count: 0.1 + 0.2 * count}
    tx = _trees.injected(name)(**values | rates)
    state, first, after = _trees.one_update(name, tx, params, grads)
    count = int(state.count)
    own = own_updates(name, params, grads, learning_rate=0.1 + 0.2 * count)
    _trees.assert_same(first, own, rtol=1e-3, atol=1e-4)
    _, after = tx.update(grads, after, params, **_trees.extra(name, grads))
    rate = after.hyperparams["learning_rate"]
    np.testing.assert_allclose(rate, 0.1 + 0.2 * (count + 1), rtol=1e-6)
    assert _trees.avals(after) == _trees.avals(state)


@every
def test_multi_steps_is_the_update_of_the_mean(name, trees):
    params, grads = trees
    other = _trees.draw(2)
    tx = optax.MultiSteps(_trees.build(name), every_k_schedule=2)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, grads, other)
    extra = _trees.extra(name, mean)
    state = tx.init(params)
    if _trees.turns(name):
        for signal in (grads, other):
            _, state = tx.update(_trees.prepare(signal), state, params)
    nothing, middle = tx.update(grads, state, params, **extra)
    assert all(bool(jnp.all(u == 0)) for u in jax.tree.leaves(nothing))
    updates, after = tx.update(other, middle, params, **extra)
    assert _trees.avals(after) == _trees.avals(state)
    _trees.assert_same(updates, own_updates(name, params, mean), **_trees.single(name))


@every
def test_apply_if_finite_leaves_the_state_of_a_bad_step(name, trees):
    params, grads = trees
    tx = optax.apply_if_finite(_trees.build(name), max_consecutive_errors=3)
    bad = jax.tree.map(lambda g: g * jnp.nan, grads)
    extra = _trees.extra(name, grads)
    update = jax.jit(tx.update)
    state = _trees.warmed(name, tx, params, grads)
    stopped, kept = update(bad, state, params, **extra)
    assert all(bool(jnp.all(u == 0)) for u in jax.tree.leaves(stopped))
    _trees.assert_same(kept.inner_state, state.inner_state)
    updates, _ = update(grads, kept, params, **extra)
    _trees.assert_same(updates, own_updates(name, params, grads), **_trees.single(name))


@every
def test_flatten(name, trees):
    """One long vector: rules that look at a leaf see another, so only it runs."""
    params, grads = trees
    tx = optax.flatten(_trees.build(name))
    flat = jnp.concatenate([g.ravel() for g in jax.tree.leaves(grads)])
    state = tx.init(params)
    updates, after = tx.update(grads, state, params, **_trees.extra(name, flat))
    assert _trees.avals(updates) == _trees.avals(params)
    assert _trees.avals(after) == _trees.avals(state)
    _trees.assert_finite((updates, after))
    _trees.assert_moves(params, optax.apply_updates(params, updates))


@every
def test_map_params_finds_what_is_shaped_as_the_parameters(name, trees):
    params, _ = trees
    tx = _trees.build(name)
    state = tx.init(params)
    marked = optax.tree.map_params(
        tx, jnp.ones_like, state, transform_non_params=jnp.negative
    )
    assert jax.tree.structure(marked) == jax.tree.structure(state)
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(marked), jax.tree.leaves(state), strict=True
    ):
        where = jax.tree_util.keystr(path)
        # In a basis every matrix has a count of its own.
        of_params = "count" not in where or _trees.in_stacks(where)
        expected = jnp.ones_like(y) if of_params else -y
        np.testing.assert_array_equal(x, expected, jax.tree_util.keystr(path))


@every
def test_map_params_with_a_tree_of_names(name, trees):
    """As one attaches partition specs: each entry meets its own parameter's."""
    params, _ = trees
    tx = _trees.build(name)
    names = jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path), params
    )
    named = optax.tree.map_params(
        tx,
        lambda x, name: x if isinstance(x, optax.MaskedNode) else name,
        tx.init(params),
        names,
        transform_non_params=lambda x: None,
        is_leaf=lambda x: isinstance(x, optax.MaskedNode),
    )
    for path, own in jax.tree_util.tree_leaves_with_path(named):
        assert jax.tree_util.keystr(path).endswith(own)
    assert jax.tree.leaves(named)


@every
def test_chain_with_clipping_and_a_schedule(name, trees):
    """Learning rates count from 0, and what is clipped before is what is seen."""
    params, grads = trees
    limit = 0.5
    rates = optax.warmup_cosine_decay_schedule(0.1, 1.0, 2, 4)
    tx = optax.chain(
        optax.clip_by_global_norm(limit), _trees.build(name, learning_rate=rates)
    )
    steady = _trees.build(name, learning_rate=1.0)
    norm = optax.tree.norm(grads)
    clipped = jax.tree.map(lambda g: g * limit / norm, grads)
    state, reference = tx.init(params), steady.init(params)
    extra = _trees.extra(name, clipped)
    for count in range(3):
        updates, state = tx.update(grads, state, params, **extra)
        expected, reference = steady.update(clipped, reference, params, **extra)
        expected = jax.tree.map(lambda u, count=count: u * rates(count), expected)
        _trees.assert_same(updates, expected, rtol=1e-5, atol=1e-6)


@every
def test_every_count_in_the_state_is_the_number_of_updates(name, trees):
    params, grads = trees
    tx = _trees.build(name, learning_rate=optax.constant_schedule(0.1))
    state = tx.init(params)
    for _ in range(3):
        _, state = tx.update(grads, state, params, **_trees.extra(name, grads))
    counts = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if "count" in jax.tree_util.keystr(path)
    }
    assert counts
    for path, count in counts.items():
        # In a basis a matrix is counted from the step that found the basis.
        assert bool(jnp.all(count == 3)), path


@every
def test_a_stage_is_read_by_its_name(name, trees):
    params, _ = trees
    state = _trees.rule(name, _trees.build(name).init(params))
    assert optax.tree.get(state, "rate") is state["rate"]
    assert optax.tree.get(state, "no such stage", default=None) is None
