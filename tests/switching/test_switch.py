"""One optimizer takes over from another: what it is given, and what follows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimx
from optimx import registry
from optimx.wrappers.quantize import decode_state, encode_state

RATE = optax.linear_schedule(1e-2, 1e-3, 100)
PARAMS = {
    "block": {"bias": jnp.full(3, 0.5), "kernel": jnp.ones((4, 3))},
    "embed": jnp.ones((5, 4)),
}
SEEN = 7
EVERY = registry.names()
BY_NUMBER = [n for n in EVERY if "otherwise" not in registry.hyperparameters(n)]


@functools.cache
def built(name):
    return registry.build(name, learning_rate=RATE)


def filled(tx, params=PARAMS, seen=SEEN):
    """A state of which every number is another, after ``seen`` updates."""
    generator = np.random.default_rng(0)

    def fill(x):
        if jnp.issubdtype(x.dtype, jnp.integer):
            return jnp.full(x.shape, seen, x.dtype)
        return jnp.asarray(generator.random(x.shape), x.dtype)

    return jax.tree.map(fill, jax.eval_shape(tx.init, params))


def named(state):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def holds(before, found, fresh):
    """The report tells of every leaf, and the leaves are what it tells."""
    state, report = found
    assert jax.tree.structure(state) == jax.tree.structure(fresh)
    old, new, first = named(before), named(state), named(fresh)
    carried = {c.new: c for c in report.carried}
    assert sorted([*carried, *report.reset]) == sorted(new)
    assert set(report.dropped) | {c.old for c in report.carried} <= set(old)
    assert not set(report.dropped) & {c.old for c in report.carried}
    for name, value in new.items():
        expected = old[carried[name].old] if name in carried else first[name]
        assert value.dtype == first[name].dtype
        assert value.shape == first[name].shape
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("name", BY_NUMBER)
def test_every_pair_of_rules_by_number(name):
    before = filled(built(name))
    for other in BY_NUMBER:
        fresh = built(other).init(PARAMS)
        found = optimx.switch(before, built(name), built(other), PARAMS)
        holds(before, found, fresh)
        # The learning rate goes on, whatever else begins anew.
        assert found.state["rate"].count == SEEN
        assert "rate/count" in {c.new for c in found.report.carried}


@pytest.mark.parametrize("name", [n for n in EVERY if n not in BY_NUMBER])
def test_pairs_with_rules_of_matrices(name):
    for one, other in (("adamw", name), (name, "adamw"), (name, name)):
        before, fresh = filled(built(one)), built(other).init(PARAMS)
        holds(before, optimx.switch(before, built(one), built(other), PARAMS), fresh)


@pytest.mark.parametrize("name", EVERY)
def test_to_itself_everything_is_carried(name):
    tx = built(name)
    state = tx.init(PARAMS)
    found = optimx.switch(state, tx, tx, PARAMS)
    same(found.state, state)
    assert all("turn" in path.split("/") for path in found.report.reset)


def test_from_adamw_to_ademamix():
    """As the paper switches: m2 = 0 and both ramps at their start."""
    steps, memory, adamw = 100, 0.999, optimx.adamw(RATE, weight_decay=0.0)
    to_tx = optimx.ademamix(
        RATE,
        b3=optimx.half_life_warmup(0.9, memory, steps),
        alpha=optimx.linear_warmup(5.0, steps),
    )
    before = filled(adamw)
    state, report = optimx.switch(before, adamw, to_tx, PARAMS)
    fork = state["precondition"]
    fast, slow = fork.direction.parts
    same(fast, before["precondition"].direction)
    same(fork.by, before["precondition"].by)
    same(slow, jax.tree.map(jnp.zeros_like, slow))
    assert fork.direction.count == 0
    assert str(report).splitlines() == [
        "carried: precondition/direction/parts/0 (3 arrays, from "
        "precondition/direction); precondition/by (3 arrays); rate (counter)",
        "reset: precondition/direction (counter); "
        "precondition/direction/parts/1 (3 arrays)",
        "dropped: nothing",
    ]
    # The first step after is AdamW's but for alpha(1) m2 = 0.05 (1 - b3(1)) g.
    grads = jax.tree.map(lambda p: 0.1 * p, PARAMS)
    ours, after = to_tx.update(grads, state, PARAMS)
    expected, _ = adamw.update(grads, before, PARAMS)
    b3 = float(optimx.half_life_warmup(0.9, memory, steps)(1))
    for u, a, g, v in zip(
        *map(jax.tree.leaves, (ours, expected, grads, after["precondition"].by[1])),
        strict=True,
    ):
        root = jnp.sqrt(v / (1 - 0.999 ** (SEEN + 1))) + 1e-8
        extra = -RATE(SEEN) * 5.0 / steps * (1 - b3) * g / root
        np.testing.assert_allclose(u, a + extra, rtol=1e-5)


@pytest.mark.parametrize("optaxs", [False, True], ids=["ours", "optax"])
def test_from_adamw_to_mars(optaxs):
    from_tx = optax.adamw(RATE) if optaxs else built("adamw")
    before = filled(from_tx)
    state, report = optimx.switch(before, from_tx, built("mars_adamw"), PARAMS)
    m, v = (
        (before[0].mu, before[0].nu)
        if optaxs
        else (before["precondition"].direction[1], before["precondition"].by[1])
    )
    same(state["precondition"].direction.average, m)
    same(state["precondition"].by.second_moment, v)
    counts = state["precondition"].direction.count, state["precondition"].by.count
    assert counts == (SEEN, SEEN)
    assert state["correct"].count == 0
    assert not any(np.any(x) for x in jax.tree.leaves(state["correct"].previous))
    assert report.lines[1:] == ("reset: correct (3 arrays)", "dropped: nothing")
    # And back into Optax's.
    state, _ = optimx.switch(state, built("mars_adamw"), optax.adamw(RATE), PARAMS)
    same((state[0].mu, state[0].nu), (m, v))


def test_the_slow_memory_is_no_fast_one():
    adamw, slow_only = built("adamw"), optimx.ademamix(RATE, b1=0.0)
    before = filled(slow_only)
    state, report = optimx.switch(before, slow_only, adamw, PARAMS)
    assert not any(np.any(x) for x in jax.tree.leaves(state["precondition"].direction))
    same(state["precondition"].by, before["precondition"].by)
    assert "precondition/direction/parts/1 (3 arrays)" in report.lines[2]


def test_a_mix_counts_with_its_youngest_memory():
    """After two changes of optimizer memories are of different age."""
    before = filled(built("ademamix"))
    direction = before["precondition"].direction
    fast, slow = direction.parts
    younger = direction._replace(count=jnp.int32(2))
    younger = younger._replace(parts=(fast, slow._replace(count=jnp.int32(2))))
    before["precondition"] = before["precondition"]._replace(direction=younger)
    state, _ = optimx.switch(before, built("ademamix"), built("mars_ademamix"), PARAMS)
    same(state["precondition"], before["precondition"])
    # Muon's mix debiases with its count, which is that of the memory it takes over.
    state, _ = optimx.switch(
        filled(built("adamw")), built("adamw"), built("muon"), PARAMS
    )
    muon = state.inner_states["matrix"].inner_state["precondition"].direction
    assert muon.count == muon.parts[0].count == SEEN


def kernels_and_others(**more):
    return optimx.matrices_only(
        optimx.mars_adamw(RATE, **more), otherwise=optimx.adamw(RATE)
    )


def test_parameters_are_found_in_partitions():
    adamw, split = built("adamw"), kernels_and_others()
    before = filled(adamw)
    state, report = optimx.switch(before, adamw, split, PARAMS)
    inner = {k: s.inner_state for k, s in state.inner_states.items()}
    m = before["precondition"].direction.average
    ours = inner["matrix"]["precondition"].direction.average
    np.testing.assert_array_equal(ours["block"]["kernel"], m["block"]["kernel"])
    np.testing.assert_array_equal(ours["embed"], m["embed"])
    assert isinstance(ours["block"]["bias"], optax.MaskedNode)
    theirs = inner["other"]["precondition"].direction.average
    np.testing.assert_array_equal(theirs["block"]["bias"], m["block"]["bias"])
    for label in ("matrix", "other"):
        assert inner[label]["rate"].count == SEEN
        assert inner[label]["precondition"].by.count == SEEN
    assert report.lines[1:] == ("reset: matrix/correct (2 arrays)", "dropped: nothing")
    back, _ = optimx.switch(state, split, adamw, PARAMS)
    same(back, before)


def test_parts_that_come_together_count_with_the_youngest():
    adamw, split = built("adamw"), kernels_and_others()
    before = filled(split)
    other = before.inner_states["other"].inner_state["precondition"]
    other = other._replace(by=other.by._replace(count=jnp.int32(3)))
    before.inner_states["other"].inner_state["precondition"] = other
    state, _ = optimx.switch(before, split, adamw, PARAMS)
    assert state["precondition"].by.count == 3
    assert state["precondition"].direction.count == SEEN


def test_counters_of_stacked_layers():
    params = {"h": jnp.ones((2, 4, 3)), "wte": jnp.ones((5, 3))}
    adamw, mapped = built("adamw"), optimx.per_layer(built("ademamix"), "h*")
    before = filled(adamw, params)
    state, report = optimx.switch(before, adamw, mapped, params)
    stacked = state.inner_states["stacked"].inner_state["precondition"]
    np.testing.assert_array_equal(stacked.by.count, [SEEN, SEEN])
    np.testing.assert_array_equal(stacked.direction.count, [0, 0])
    m = before["precondition"].direction.average["h"]
    np.testing.assert_array_equal(stacked.direction.parts[0].average["h"], m)
    assert report.lines[2] == "dropped: nothing"
    back, _ = optimx.switch(state, mapped, adamw, params)
    same(back, before)


def test_a_memory_of_scaled_signals_is_none_of_gradients():
    """CAME's average is of steps of about 1: over AdamW's root it would explode."""
    state, _ = optimx.switch(
        filled(built("came")), built("came"), built("adamw"), PARAMS
    )
    assert not any(np.any(x) for x in jax.tree.leaves(state["precondition"]))
    state, _ = optimx.switch(
        filled(built("came")), built("came"), built("ademamix_came"), PARAMS
    )
    assert state["trust"].direction.parts[0].count == SEEN
    assert state["restore"].count == state["trust"].direction.count == 0


def test_a_memory_goes_nowhere_without_what_divides_it():
    """A row that has no gradient today: m / (0 + eps) is a step of 10 million rates."""
    lion, adamw = built("lion"), built("adamw")
    before = filled(lion)
    state, report = optimx.switch(before, lion, adamw, PARAMS)
    assert "precondition/direction (3 arrays, as what divides it)" in report.lines[1]
    grads = jax.tree.map(lambda p: p.at[0].set(0.0), PARAMS)
    rate = float(RATE(SEEN))

    def longest(state):
        updates, _ = adamw.update(grads, state, PARAMS)
        return max(float(jnp.max(jnp.abs(u))) for u in jax.tree.leaves(updates))

    assert longest(state) <= 1.001 * rate
    taken = before["precondition"].direction.parts[0]
    by_hand = state | {"precondition": state["precondition"]._replace(direction=taken)}
    assert longest(by_hand) > 1e5 * rate
    # Lion divides by nothing, and takes what AdamW has.
    before = filled(adamw)
    state, _ = optimx.switch(before, adamw, lion, PARAMS)
    same(state["precondition"].direction.parts[0], before["precondition"].direction)


def test_bases_are_carried_and_turns_are_planned_anew():
    often, seldom = (optimx.soap(RATE, update_every=n, b2=0.9) for n in (3, 10))
    before = filled(seldom)
    state, report = optimx.switch(before, seldom, often, PARAMS)
    ours, theirs = (
        s.inner_states["matrix"].inner_state["precondition"].by for s in (state, before)
    )
    same(ours._replace(turn=None), theirs._replace(turn=None))
    assert max(int(x.max()) for x in jax.tree.leaves(ours.turn)) < 3
    assert "which is planned anew" in report.lines[1]
    # Of matrices of other shapes there is nothing to carry.
    others = optimx.soap(RATE, labels=optimx.by_path("embed"))
    _, report = optimx.switch(before, seldom, others, PARAMS)
    assert "matrix/precondition/by" in report.lines[1]


def test_dtypes_are_cast_and_reported():
    narrow = optimx.adamw(RATE, accumulator_dtype=jnp.bfloat16)
    before = filled(narrow)
    state, report = optimx.switch(before, narrow, built("adamw"), PARAMS)
    m = before["precondition"].direction.average
    same(
        state["precondition"].direction.average,
        jax.tree.map(lambda x: x.astype(jnp.float32), m),
    )
    assert "(3 arrays, bfloat16 to float32)" in report.lines[0]
    casts = {c.cast for c in report.carried if "count" not in c.new}
    assert casts == {"bfloat16 to float32"}


def small_codes(tx):
    return optimx.quantized(tx, optimx.int8_blockwise(), least=1)


def test_to_int8_and_back():
    adamw, ademamix = built("adamw"), built("ademamix")
    coded = small_codes(adamw)
    before = filled(adamw)
    state, report = optimx.switch(before, adamw, coded, PARAMS)
    same(state.inner, encode_state(coded, before).inner)
    assert state.inner["precondition"].by.count == SEEN
    assert "precondition/by (3 arrays, float32 to uint8)" in report.lines[0]
    wide, report = optimx.switch(state, coded, adamw, PARAMS)
    same(wide, decode_state(coded, state))
    assert "precondition/direction (3 arrays, int8 to float32)" in report.lines[0]
    for x, y in zip(*map(jax.tree.leaves, (wide, before)), strict=True):
        # Codes are squares and fourth powers: half a step is 4/255 of the largest.
        np.testing.assert_allclose(x, y, atol=4 / 255)
    # To another optimizer at once, and with codes inside of partitions and layers.
    inside = optimx.matrices_only(
        small_codes(optimx.per_layer(ademamix, "block/*")),
        otherwise=optimx.per_layer(small_codes(adamw), "nothing"),
    )
    nested, report = optimx.switch(state, coded, inside, PARAMS)
    assert jax.tree.structure(nested) == jax.tree.structure(inside.init(PARAMS))
    again, _ = optimx.switch(nested, inside, coded, PARAMS)
    for x, y in zip(*map(jax.tree.leaves, (again.inner, state.inner)), strict=True):
        # The largest of a block may be rounded when it is decoded.
        np.testing.assert_allclose(
            jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), rtol=1e-6
        )


@pytest.mark.parametrize("wrap", [small_codes, lambda tx: tx], ids=["int8", "float32"])
def test_shapes_alone_and_compiled(wrap):
    from_tx, to_tx = wrap(built("adamw")), wrap(built("ademamix"))
    before = from_tx.init(PARAMS)
    eager = optimx.switch(before, from_tx, to_tx, PARAMS)
    switch = jax.jit(optimx.switch, static_argnums=(1, 2))
    compiled = switch(before, from_tx, to_tx, PARAMS)
    same(compiled.state, eager.state)
    assert compiled.report == eager.report
    shapes = jax.eval_shape(lambda p: p, PARAMS)
    known = jax.eval_shape(
        lambda s, p: optimx.switch(s, from_tx, to_tx, p), before, shapes
    )
    assert known.report == eager.report
    like = jax.tree.map(lambda x: (x.shape, x.dtype), eager.state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), known.state) == like
    by_shapes = optimx.switch(before, from_tx, to_tx, shapes)
    same(by_shapes.state, eager.state)


def test_a_state_of_something_else_is_refused():
    adamw, ademamix = built("adamw"), built("ademamix")
    state = adamw.init(PARAMS)
    with pytest.raises(ValueError, match="state must be of from_tx") as error:
        optimx.switch(state, ademamix, adamw, PARAMS)
    line = str(error.value)
    assert "precondition/direction/parts/0/count: expected int32[], got none" in line
    assert "; and " in line
    assert "\n" not in line
    wrong = optimx.adamw(RATE).init({"w": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"expected float32\[3\], got none"):
        optimx.switch(wrong, adamw, adamw, PARAMS)
    listed = {k: v for k, v in state.items() if k != "decay"} | {"decay": ()}
    with pytest.raises(ValueError, match="the arrays but another tree"):
        optimx.switch(listed, adamw, adamw, PARAMS)
    with pytest.raises(TypeError, match="to_tx must be an optax"):
        optimx.switch(state, adamw, optimx.adamw, PARAMS)


# -- the loss right after


@functools.cache
def problem():
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(2048, 20))
    truth = generator.normal(size=20)
    noise = 0.5 * generator.normal(size=2048)
    return inputs.astype(np.float32), (inputs @ truth + noise).astype(np.float32)


def loss(params, rows):
    inputs, targets = map(jnp.asarray, problem())
    return jnp.mean((inputs[rows] @ params["w"] - targets[rows]) ** 2)


@functools.partial(jax.jit, static_argnums=0)
def losses(tx, params, state, batches):
    """Of all the data, after each step."""
    everything = jnp.arange(2048)

    def step(carry, rows):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, rows), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), loss(params, everything)

    return jax.lax.scan(step, (params, state), batches)


@pytest.mark.parametrize("name", ["ademamix", "mars_adamw", "adamw_int8"])
def test_the_loss_right_after_is_that_of_going_on(name):
    """Apart by 1e-4 at most, where AdamW's own steps change it by 2e-4 each.

    A cold start, whose first steps are as long as signs, climbs by 0.04.
    """
    rate, after = 0.03, 5
    adamw = optimx.adamw(rate)
    to_tx = {
        "ademamix": optimx.ademamix(
            rate,
            b3=optimx.half_life_warmup(0.9, 0.999, 300),
            alpha=optimx.linear_warmup(5.0, 300),
        ),
        "mars_adamw": optimx.mars_adamw(rate, b1=0.9, b2=0.999, max_norm=jnp.inf),
        "adamw_int8": small_codes(adamw),
    }[name]
    batches = jax.random.randint(jax.random.key(1), (400 + after, 64), 0, 2048)
    params = {"w": jnp.zeros(20)}
    (params, state), path = losses(adamw, params, adamw.init(params), batches[:400])
    start = float(path[-1])
    assert start < 0.3
    switched, _ = optimx.switch(state, adamw, to_tx, params)
    rest = batches[400:]
    going_on = losses(adamw, params, state, rest)[1]
    ours = losses(to_tx, params, switched, rest)[1]
    cold = losses(to_tx, params, to_tx.init(params), rest)[1]
    assert float(jnp.max(jnp.abs(ours - going_on))) < 1.2e-4
    assert float(jnp.max(cold)) - start > 0.03
