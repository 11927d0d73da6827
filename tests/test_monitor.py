import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from monitored import draws, measured

import optimx
from optimx import monitor
from optimx.linalg import roots

PARAMS = {"block": {"kernel": jnp.ones((2, 3, 3)), "bias": jnp.ones(3)}}


def ones(bad=0):
    """Gradients of ones; so many of the two matrices are no numbers."""
    kernel = np.ones((2, 3, 3), np.float32)
    kernel[:bad, 0, 0] = np.nan
    return {"block": {"kernel": jnp.asarray(kernel), "bias": jnp.ones(3)}}


def refused(matrix, p, *, eps):
    root, residual = roots.inverse_root(matrix, p, eps=eps)
    return root, jnp.full_like(residual, jnp.inf)


def counted(state):
    """The counts by what they count; the paths end in the leaf's."""
    found = {}
    for path, count in monitor.read(state).items():
        assert count.shape == ()
        assert count.dtype == jnp.int32
        assert path.endswith("block/kernel")
        (name,) = (name for name in monitor.MEASURES if f"{name}/" in path)
        found[name] = found.get(name, 0) + int(count)
    return found


def wrapped(tx):
    return optax.chain(
        optax.scale(2.0),
        optimx.matrices_only(
            optimx.stages(first=optimx.ema(0.9), then=tx, rate=optax.scale(-0.1)),
            otherwise=optimx.adamw(0.1),
        ),
    )


@pytest.mark.parametrize(
    ("tx", "expected"),
    [
        (optimx.in_eigenbasis(optimx.scale_by_rms(0.9, eps=1e-8), decay=0.9), {}),
        (optimx.scale_by_kronecker(0.9), {"kept": 0}),
    ],
    ids=["eigenbasis", "kronecker"],
)
def test_skipped_signals_are_found_however_deep(tx, expected):
    tx = wrapped(tx)
    state, update = tx.init(PARAMS), jax.jit(tx.update)
    assert counted(state) == {"skipped": 0} | expected
    # The average holds on to what is no number: once seen, twice more.
    for bad, skipped in ((0, 0), (1, 1), (2, 3), (0, 5)):
        _, state = update(ones(bad), state, PARAMS)
        assert counted(state) == {"skipped": skipped} | expected


def test_kept_roots_are_counted_one_by_one():
    tx = wrapped(optimx.scale_by_kronecker(0.9, update_every=1, root=refused))
    state, update = tx.init(PARAMS), jax.jit(tx.update)
    for t in (1, 2):
        _, state = update(ones(), state, PARAMS)
        # A root of rows and one of columns for either matrix.
        assert counted(state) == {"skipped": 0, "kept": 4 * t}


@pytest.mark.parametrize("build", [optimx.soap, optimx.shampoo])
def test_counts_are_read_where_the_step_is_compiled(build):
    tx = build(0.1)

    @jax.jit
    def step(gradients, state):
        updates, state = tx.update(gradients, state, PARAMS)
        return updates, state, monitor.read(state)

    _, state, inside = step(ones(bad=1), tx.init(PARAMS))
    outside = monitor.read(state)
    assert inside == outside
    assert {path.split("/")[-3]: int(n) for path, n in inside.items()} == (
        {"skipped": 1} if build is optimx.soap else {"skipped": 1, "kept": 0}
    )


def test_every_stage_is_told_apart():
    kronecker = optimx.scale_by_kronecker(0.9)
    tx = optimx.stages(one=kronecker, two=kronecker)
    params = {"up": jnp.ones((2, 3)), "down": jnp.ones((3, 2))}
    found = monitor.read(tx.init(params))
    assert set(found) == {
        f"{stage}/{name}/{leaf}"
        for stage in ("one", "two")
        for name in ("skipped", "kept")
        for leaf in ("up", "down")
    }


@pytest.mark.parametrize("tx", [optax.adam(0.1), optimx.muon(0.1), optax.identity()])
def test_where_nothing_counts_there_is_nothing_to_read(tx):
    assert monitor.read(tx.init(PARAMS)) == {}


def test_a_parameter_of_that_name_is_no_count():
    assert monitor.read(optax.adam(0.1).init({"skipped": jnp.ones((2, 2))})) == {}


RULES = (
    "mars_adamw",
    "mars_adamw_exact",
    "ademamix",
    "came",
    "muon",
    "soap",
    "shampoo",
)


def rule(name):
    """A transformation, and the extra arguments that it needs."""
    build = functools.partial(optimx.registry.build, learning_rate=0.1)
    if name in RULES:
        return build(name), optimx.registry.get(name).needs
    if name == "quantized":
        return optimx.quantized(build("ademamix"), optimx.int8_blockwise(4)), ()
    return optimx.per_layer(build("mars_adamw"), "up"), ()


@pytest.mark.parametrize("name", [*RULES, "quantized", "per_layer"])
def test_updates_and_state_are_those_of_the_transformation(name):
    tx, needs = rule(name)
    watched = monitor.monitored(tx, every=2, needs=needs)
    params, extra = draws(7), dict.fromkeys(needs, draws(8))
    plain, state = tx.init(params), watched.init(params)
    step, step_watched = jax.jit(tx.update), jax.jit(watched.update)
    first = jax.tree.map(jax.typeof, state)
    for t in range(4):
        expected, plain = step(draws(t), plain, params, **extra)
        updates, state = step_watched(draws(t), state, params, **extra)
        jax.tree.map(np.testing.assert_array_equal, updates, expected)
        jax.tree.map(np.testing.assert_array_equal, state.inner, plain)
        assert jax.tree.map(jax.typeof, state) == first
        # Held between measurements.
        assert int(state.measured) == (3 if t >= 2 else 0)
    found = monitor.read(state)
    assert all(np.isfinite(value) for value in found.values())
    assert {"cosine", "gradient_rms", "update_rms", "update_rms/up"} <= set(found)


def test_a_loop_measures_what_steps_do():
    tx = monitor.monitored(optimx.mars_adamw(0.1), every=1)
    params = draws(7)
    batch = jax.tree.map(lambda *x: jnp.stack(x), *(draws(t) for t in range(3)))

    @jax.jit
    def loop(state, batch):
        # The scan itself demands that the state keeps its tree, dtypes and weak types.
        return jax.lax.scan(lambda s, g: tx.update(g, s, params)[::-1], state, batch)

    _, _, expected = measured(optimx.mars_adamw(0.1))
    found = monitor.read(loop(tx.init(params), batch)[0])
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, rel=1e-5)


def test_what_a_stage_traces_by_itself_is_not_heard_and_does_no_harm():
    inner = optimx.stages(clip=optimx.clip_by_block_norm(1.0), average=optimx.ema(0.9))
    # Its program is another one's: nothing of it may be told outside.
    apart = optax.GradientTransformation(
        inner.init, lambda u, s, p=None: jax.jit(inner.update)(u, s, p)
    )
    tx = optimx.stages(apart=apart, rate=optax.scale(-0.1))
    _, _, found = measured(tx)
    assert found["rate/change"] == pytest.approx(1.1)
    assert "apart/shrunk" in found
    assert "apart/clip/shrunk" not in found
    assert "apart/average/age" not in found


def test_states_of_any_dtype_pass():
    def init(params):
        held = jnp.ones(3, bool), jax.random.key(0), jax.random.split(jax.random.key(1))
        return {"held": held, "none": None, "empty": jnp.zeros((0, 2))}

    odd = optax.GradientTransformation(init, lambda u, s, p=None: (u, s))
    _, state, found = measured(optax.chain(odd, optax.sgd(0.5)))
    assert found["cosine"] == pytest.approx(-1)
    jax.tree.map(np.testing.assert_array_equal, state.inner[0]["held"][0], np.ones(3))
    assert state.inner[0]["held"][1] == jax.random.key(0)


def test_steps_that_were_not_finite_are_counted():
    tx = optax.apply_if_finite(optax.sgd(0.1), 5)
    state = tx.init(PARAMS)
    for bad in (0, 1, 2, 0):
        _, state = tx.update(ones(bad), state, PARAMS)
    found = monitor.read(state)
    assert {name: int(value) for name, value in found.items()} == {"total_notfinite": 2}


def test_layers_and_wrappers_are_heard():
    inner = optimx.mars_adamw(0.1, max_norm=0.5)
    params = {"blocks": jnp.ones((3, 4, 4)), "head": jnp.ones((4, 4))}
    grads = {
        "blocks": jnp.full((3, 4, 4), 0.01).at[1].set(1.0),
        "head": jnp.ones((4, 4)),
    }
    for tx in (
        optimx.per_layer(inner, "blocks"),
        optimx.quantized(optimx.per_layer(inner, "blocks"), optimx.int8_blockwise()),
    ):
        tx = monitor.monitored(tx, every=1)
        state, update = jax.jit(tx.init)(params), jax.jit(tx.update)
        for _ in range(3):
            _, state = update(grads, state, params)
        # One layer of three, and the head.
        assert float(monitor.read(state)["clip/shrunk"]) == 0.5
    tx = monitor.monitored(optimx.matrices_only(inner, otherwise=optimx.adamw(0.1)))
    assert {"matrix/clip/shrunk", "other/precondition/gain"} <= set(
        monitor.read(tx.init(draws()))
    )


@pytest.mark.parametrize("where", ["outside", "inside", "layers"])
def test_inside_and_outside_of_wrappers(where):
    inner = optimx.mars_adamw(0.1)
    watched = monitor.monitored(inner, every=1)
    tx = {
        "outside": optax.MultiSteps(watched, 2),
        "inside": monitor.monitored(optax.MultiSteps(inner, 2), every=1),
        "layers": optimx.per_layer(watched, "up"),
    }[where]
    params = draws(7)
    # Optax divides by a whole number.
    with jax.numpy_dtype_promotion("standard"):
        state, update = tx.init(params), jax.jit(tx.update)
        for t in range(6):
            _, state = update(draws(t), state, params)
    found = monitor.read(state)
    assert all(np.isfinite(x) and jnp.shape(x) == () for x in found.values())
    heard = any(name.endswith("clip/shrunk") for name in found)
    # What branches by itself is not heard; the whole update is.
    assert heard == (where != "inside")
    cosines = [x for name, x in found.items() if name.endswith("cosine")]
    assert cosines
    assert all(x < 0 for x in cosines)


def test_every_run_of_a_vmap_measures_its_own():
    tx = monitor.monitored(optimx.mars_adamw(0.1), every=1)
    runs, steps = 3, 3
    batches = [
        jax.tree.map(lambda *x: jnp.stack(x), *(draws(10 * r + t) for r in range(runs)))
        for t in range(steps)
    ]
    params = jax.tree.map(lambda x: jnp.stack([x] * runs), draws(7))
    states, update = jax.vmap(tx.init)(params), jax.jit(jax.vmap(tx.update))
    for batch in batches:
        _, states = update(batch, states, params)
    _, _, expected = measured(optimx.mars_adamw(0.1))
    found = states.values
    assert found["cosine"].shape == (runs,)
    # The first run is the one by itself.
    for name, value in found.items():
        assert float(value[0]) == pytest.approx(
            expected[name.replace(".", "/")], rel=1e-5
        )


@pytest.mark.skipif(
    jax.version.__version_info__ < (0, 8),
    reason="this XLA stores what a measurement computes, whether it is due or not",
)
@pytest.mark.parametrize("name", ["adamw", "came", "mars_adamw"])
def test_what_a_measurement_reads_is_not_copied(name):
    params = {"kernel": jax.ShapeDtypeStruct((512, 1024), jnp.float32)}
    tx = optimx.registry.build(name, learning_rate=0.1, weight_decay=0.1)

    def cost(tx):
        def step(params, state, grads):
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        state = jax.eval_shape(tx.init, params)
        compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params)
        compiled = compiled.compile()
        size = 512 * 1024 * 4
        accessed = compiled.cost_analysis()["bytes accessed"] / size
        return accessed, compiled.memory_analysis().temp_size_in_bytes / size

    (plain, before), (watched, after) = cost(tx), cost(monitor.monitored(tx))
    # Temporaries in trees of parameters: there is room for sums, and for no copy.
    assert after - before <= 0.03
    # The compiler counts one turn of the loop: what a measurement reads must be, with
    # the default, at most 3 % of what the updates in between do.
    assert (watched - plain) / (500 * plain) <= 0.03


@pytest.mark.parametrize(
    ("build", "error"),
    [
        (lambda: monitor.monitored(optimx.adamw), TypeError),
        (lambda: monitor.monitored(optimx.adamw(0.1), every=0), ValueError),
        (lambda: monitor.watch("a.b", optimx.adamw(0.1)), ValueError),
        (lambda: monitor.watch("a", None), TypeError),
    ],
)
def test_bad_arguments_are_named(build, error):
    with pytest.raises(error, match=r"monitored|watch"):
        build()


@pytest.mark.parametrize(
    ("tx", "missing"),
    [
        (optimx.mars_adamw_exact(0.1), "stale_grads"),
        (optax.contrib.reduce_on_plateau(), "value"),
    ],
)
def test_an_update_that_needs_more_says_so(tx, missing):
    with pytest.raises(ValueError, match=rf"monitored: .* needs=\(\): .*{missing}"):
        monitor.monitored(tx).init(PARAMS)
