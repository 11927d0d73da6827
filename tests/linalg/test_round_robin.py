import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimx.linalg.round_robin import sweep, turns

STACKS = {
    "nothing": [],
    "one item": [(1, 2.0)],
    "an empty stack": [(0, 1.0), (3, 1.0)],
    "fewer than steps": [(2, 1.0), (1, 5.0)],
    "equal": [(12, 1.0), (12, 1.0)],
    "two kinds": [(24, 1.0), (5, 27.0)],
    "GPT-2": [(12, 768.0**3), (12, 768.0**3), (1, 1024.0**3), (24, 3072.0**3)],
}

stacks = pytest.mark.parametrize("stacks", STACKS.values(), ids=STACKS)
cycles = pytest.mark.parametrize("every", [1, 2, 3, 10, 100])


@stacks
@cycles
@pytest.mark.parametrize("spread", [True, False])
def test_every_item_has_one_turn_in_a_cycle(stacks, every, spread):
    dealt = turns(stacks, every, spread=spread)
    assert len(dealt) == len(stacks)
    for (items, _), steps in zip(stacks, dealt, strict=True):
        # One step for each item: one turn, if it is one of the cycle's.
        assert steps.shape == (items,)
        assert steps.dtype == np.int32
        assert np.all((steps >= 0) & (steps < every))


def loads(stacks, dealt, every):
    load = np.zeros(every)
    for (_, cost), steps in zip(stacks, dealt, strict=True):
        np.add.at(load, steps, cost)
    return load


@stacks
@cycles
def test_no_step_costs_much_more_than_another(stacks, every):
    load = loads(stacks, turns(stacks, every), every)
    assert np.sum(load) == sum(items * cost for items, cost in stacks)
    # The last item that a step was given went to the one with the least to do.
    assert np.max(load) - np.min(load) <= max((c for n, c in stacks if n), default=0)


@stacks
@cycles
def test_dear_items_go_first(stacks, every):
    """Known to be within 4/3 of the best there is, which is no less than the mean."""
    load = loads(stacks, turns(stacks, every), every)
    costs = sorted((cost for items, cost in stacks for _ in range(items)), reverse=True)
    if costs:
        # Two items of the first `every + 1` share a step whatever one does.
        shared = sum(costs[every - 1 : every + 1]) if len(costs) > every else 0
        best = max(sum(costs) / every, costs[0], shared)
        assert np.max(load) <= 4 / 3 * best


@stacks
def test_without_spreading_all_is_done_at_once(stacks):
    for steps in turns(stacks, 7, spread=False):
        np.testing.assert_array_equal(steps, 0)


@pytest.mark.parametrize("items", [2, 3, 12, 25])
@pytest.mark.parametrize("every", [2, 3, 10])
def test_neighbours_have_different_turns(items, every):
    # Two stacks of one cost: the second goes on where the first ends.
    for steps in turns([(items, 3.0), (items, 3.0)], every):
        for one, next_one in itertools.pairwise(steps):
            assert one != next_one


@stacks
@pytest.mark.parametrize("every", [2, 3, 10])
def test_neighbours_share_a_turn_only_to_catch_up(stacks, every):
    load = np.zeros(every)
    dealt = turns(stacks, every)
    for index in sorted(range(len(stacks)), key=lambda i: -stacks[i][1]):
        last = None
        for step in dealt[index]:
            assert step != last or load[step] <= np.min(np.delete(load, step))
            load[step] += stacks[index][1]
            last = step


def test_devices_have_their_share_in_every_step():
    """24 layers on 8 devices in 3 steps: each device has one matrix to do in each."""
    (steps,) = turns([(24, 1.0)], 3)
    for part in steps.reshape(8, 3):
        assert sorted(part) == [0, 1, 2]


ITEMS = 5

CHOICES = {
    "none": [False] * ITEMS,
    "all": [True] * ITEMS,
    "the first": [True, *[False] * (ITEMS - 1)],
    "the last": [*[False] * (ITEMS - 1), True],
    "some": [False, True, False, True, True],
}

choices = pytest.mark.parametrize("chosen", CHOICES.values(), ids=CHOICES)


def body(x, y, old, counts):
    return x["a"] @ x["b"] + old * y, counts + 1


def stacked(seed=0):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(size=(ITEMS, *shape)).astype(np.float32)

    inputs = {"a": draw(3, 2), "b": draw(2, 4)}, draw()
    return inputs, (draw(3, 4), np.arange(ITEMS, dtype=np.int32))


def looped(inputs, outputs, chosen):
    (x, y), (old, counts) = inputs, jax.tree.map(np.copy, outputs)
    for i in np.flatnonzero(chosen):
        old[i] = x["a"][i] @ x["b"][i] + old[i] * y[i]
        counts[i] += 1
    return old, counts


def assert_same(ours, theirs):
    np.testing.assert_array_equal(ours[1], theirs[1])
    # Sums of three products in any order, 6e-8 each.
    np.testing.assert_allclose(ours[0], theirs[0], rtol=0, atol=1e-6)


@choices
@pytest.mark.parametrize("wrapped", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_sweep_is_a_loop_over_the_chosen(chosen, wrapped):
    run = wrapped(lambda *args: sweep(body, *args))
    inputs, outputs = stacked()
    ours = run(inputs, outputs, jnp.array(chosen))
    assert_same(ours, looped(inputs, outputs, chosen))
    kept = ~np.array(chosen)
    np.testing.assert_array_equal(ours[0][kept], outputs[0][kept])


def test_sweep_under_vmap():
    """Maps whose rows have different things to do, from nothing to everything."""
    rows = [stacked(seed) for seed in range(len(CHOICES))]
    inputs, outputs = jax.tree.map(lambda *x: np.stack(x), *rows)
    chosen = np.array(list(CHOICES.values()))
    run = jax.jit(jax.vmap(lambda *args: sweep(body, *args)))
    ours = run(inputs, outputs, chosen)
    for i, row in enumerate(rows):
        assert_same(jax.tree.map(lambda x, i=i: x[i], ours), looped(*row, chosen[i]))


def test_a_row_may_be_chosen_by_all():
    """A map over the stacks alone."""
    rows = [stacked(seed) for seed in range(3)]
    inputs, outputs = jax.tree.map(lambda *x: np.stack(x), *rows)
    chosen = jnp.array(CHOICES["some"])
    ours = jax.vmap(lambda i, o: sweep(body, i, o, chosen))(inputs, outputs)
    for i, row in enumerate(rows):
        assert_same(jax.tree.map(lambda x, i=i: x[i], ours), looped(*row, chosen))


def test_there_are_as_many_iterations_as_chosen_items():
    calls = []

    def counted(x, old):
        jax.debug.callback(lambda value: calls.append(float(value)), x)
        return (old + x,)

    for chosen in CHOICES.values():
        calls.clear()
        x = jnp.arange(float(ITEMS))
        out = jax.jit(lambda x, c: sweep(counted, (x,), (x,), c))(x, jnp.array(chosen))
        jax.block_until_ready(out)
        jax.effects_barrier()
        assert sorted(calls) == list(np.flatnonzero(chosen))


def primitives(jaxpr):
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from primitives(inner)


def test_there_is_no_branch():
    inputs, outputs = stacked()
    traced = jax.make_jaxpr(lambda *args: sweep(body, *args))
    found = set(primitives(traced(inputs, outputs, jnp.array(CHOICES["some"])).jaxpr))
    assert "while" in found
    assert "dot_general" in found
    assert not found & {"cond", "switch"}
