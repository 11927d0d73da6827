"""Every optimizer under jit, scan, vmap, donation and abstract evaluation."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np

from tests.contract import _trees
from tests.contract._trees import every


@every
def test_jit_equals_eager(name):
    tx, step = _trees.plain(name)
    params = _trees.draw(0)
    eager = _trees.run(name, _trees.stepping(tx), params, tx.init(params), (1, 2))
    compiled = _trees.run(name, step, params, tx.init(params), (1, 2))
    _trees.assert_same(compiled, eager, **_trees.single(name))
    _trees.assert_moves(params, compiled[0])


@every
def test_many_calls_are_one_trace(name):
    tx, step = _trees.plain(name)
    params = _trees.draw(0)
    _trees.run(name, step, params, tx.init(params), (1,))
    traces = _trees.traces[name]
    _trees.run(name, step, params, tx.init(params), (2, 3, 4))
    assert _trees.traces[name] == traces > 0


@every
def test_scan_equals_a_loop(name):
    tx, step = _trees.plain(name)
    params = _trees.draw(0)
    seeds = 1, 2, 3
    grads = [_trees.like(params, seed) for seed in seeds]

    @jax.jit
    def scanned(params, grads):
        def body(carry, grads):
            return step(*carry, grads, _trees.extra(name, grads)), None

        return jax.lax.scan(body, (params, tx.init(params)), grads)[0]

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *grads)
    looped = _trees.run(name, step, params, tx.init(params), seeds)
    _trees.assert_same(scanned(params, stacked), looped, **_trees.single(name))


@every
def test_vmap_over_seeds_equals_one_by_one(name):
    tx, step = _trees.plain(name)
    each = [_trees.draw(seed) for seed in range(3)]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)

    state = jax.vmap(tx.init)(batch)
    together = _trees.run(name, jax.jit(jax.vmap(step)), batch, state, (7, 8))
    grads = [_trees.like(batch, seed) for seed in (7, 8)]
    for i, params in enumerate(each):
        state = tx.init(params)
        for own in jax.tree.map(lambda x, i=i: x[i], grads):
            params, state = step(params, state, own, _trees.extra(name, own))
        ith = jax.tree.map(lambda x, i=i: x[i], together)
        _trees.assert_same(ith, (params, state), **_trees.single(name))


@every
def test_vmap_over_learning_rates_equals_one_by_one(name):
    params = _trees.draw(0)
    gradients = _trees.prepare(_trees.draw(1)), _trees.draw(1)
    rates = jnp.array([0.0, 0.1, 0.3])

    def moved(rate):
        tx = _trees.injected(name)(learning_rate=rate, weight_decay=0.1)
        step = _trees.stepping(tx)
        new, state = params, tx.init(params)
        for grads in gradients:
            new, state = step(new, state, grads, _trees.extra(name, grads))
        return new

    together = jax.vmap(moved)(rates)
    for i, rate in enumerate(rates):
        tx = _trees.build(name, learning_rate=float(rate))
        step = _trees.stepping(tx)
        new, state = params, tx.init(params)
        for grads in gradients:
            new, state = step(new, state, grads, _trees.extra(name, grads))
        ith = jax.tree.map(lambda x, i=i: x[i], together)
        # One minus a rate that is a float32 array carries its rounding, 6e-8, which
        # is 6e-4 of 1 - 0.9999; a Python number is rounded after the subtraction.
        _trees.assert_same(ith, new, rtol=1e-3, atol=1e-3 * float(rate))


@every
def test_numbers_may_be_traced(name):
    """A sweep compiles once: every number of every optimizer may be a tracer."""
    values = _trees.numbers(name)
    params, grads = _trees.draw(0), _trees.draw(1)
    traces = []

    @jax.jit
    def updates(values, params, grads):
        traces.append(name)
        tx = _trees.build(name, **values)
        return _trees.one_update(name, tx, params, grads)[1]

    first = updates(values, params, grads)
    slower = values | {"learning_rate": values["learning_rate"] / 2}
    second = updates(slower, params, grads)
    assert len(traces) == 1
    doubled = jax.tree.map(lambda u: 2 * u, second)
    _trees.assert_same(first, doubled, **_trees.single(name))
    _, own, _ = _trees.one_update(name, _trees.build(name), params, grads)
    # As above: 1 - b of a float32 b, at the first update debiased by the same.
    _trees.assert_same(first, own, rtol=1e-3, atol=1e-4)


@every
def test_donated_buffers_are_used(name):
    tx = _trees.build(name)
    params, grads = _trees.draw(0), _trees.draw(1)
    state = tx.init(params)
    step = jax.jit(_trees.stepping(tx), donate_argnums=(0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new, _ = step(params, state, grads, _trees.extra(name, grads))
    jax.block_until_ready(new)
    assert all(x.is_deleted() for x in jax.tree.leaves((params, state)))


@every
def test_init_is_abstract(name):
    """`eval_shape`, arrays and their shapes alone give the same first state."""
    tx = _trees.build(name)
    params = _trees.draw(0)
    shapes = jax.eval_shape(lambda: params)
    state = tx.init(params)
    assert _trees.avals(jax.eval_shape(tx.init, params)) == _trees.avals(state)
    _trees.assert_same(tx.init(shapes), state)


@every
def test_init_reads_no_values(name):
    tx = _trees.build(name)
    params = _trees.draw(0)
    unknown = jax.tree.map(lambda p: jnp.full_like(p, np.nan), params)
    _trees.assert_same(tx.init(unknown), tx.init(params))
    _trees.assert_finite(tx.init(unknown))
