"""State in fewer bits: what is coded, what it costs, and that averages still move."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.tree_util import GetAttrKey

import optimx
from optimx import codecs, registry
from optimx.codecs import Coded
from optimx.wrappers import quantize
from tests import fidelity, runs
from tests.contract import _trees
from tests.test_compiled import GPT2, structs

INT8 = optimx.int8_blockwise()
EACH = pytest.mark.parametrize("name", codecs.NAMED)

WIDTH, LAYERS = 768, 12
LINEAR = {"qkv": (1, 3), "out": (1, 1), "up": (1, 4), "down": (4, 1)}
NORM = {"scale": (WIDTH,), "bias": (WIDTH,)}
BLOCK = {
    name: {"kernel": (WIDTH * a, WIDTH * b), "bias": (WIDTH * b,)}
    for name, (a, b) in LINEAR.items()
} | {"ln_1": NORM, "ln_2": NORM}
GPT2_SMALL = {"wte": (50257, WIDTH), "wpe": (1024, WIDTH), "ln_f": NORM} | {
    f"h_{layer}": BLOCK for layer in range(LAYERS)
}


def size(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def small(name, codec=INT8, **hyper):
    """A registered optimizer that codes arrays of any size."""
    return optimx.quantized(_trees.build(name, **hyper), codec, least=1)


def is_coded(x):
    return isinstance(x, Coded)


def coded(state):
    return [x for x in jax.tree.leaves(state, is_leaf=is_coded) if is_coded(x)]


def dtypes(state):
    return [x.codes.dtype.name for x in coded(state)]


# What it holds


@pytest.mark.parametrize("state", ["int8", "float8"])
@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("adamw", 2.1),
        ("ademamix", 3.1),
        ("mars_adamw", 3.1),
        ("mars_adamw_lean", 2.1),
        ("came", 1.1),
        ("lion", 1.1),
    ],
)
def test_bytes_per_parameter_of_gpt2(name, most, state):
    params = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        GPT2_SMALL,
        is_leaf=_trees.is_shape,
    )
    assert size(params) == 4 * 124_439_808
    tx = registry.build(name, learning_rate=0.1, state=state)
    assert size(jax.eval_shape(tx.init, params)) / 124_439_808 <= most


def test_moments_are_coded_and_nothing_else():
    params = {"w": jnp.ones((64, 128)), "b": jnp.ones(128), "n": None}
    state = registry.build("came", learning_rate=0.1, state="int8").init(params)
    assert len(coded(state)) == 1
    average = state.inner["trust"].direction.average
    assert is_coded(average["w"])
    assert average["b"].dtype == jnp.float32
    assert average["n"] is None


# Bytes for each parameter of a block of GPT-2, and what of a matrix is coded as what.
CODED = {
    "adamw": (2.0397, "signed positive"),
    "lion": (1.0198, "signed"),
    "mars_adamw": (3.0595, "signed signed positive"),
    "mars_adamw_exact": (2.0397, "signed positive"),
    "mars_adamw_lean": (2.0397, "signed positive"),
    "mars_lion": (2.0397, "signed signed"),
    "ademamix": (3.0595, "signed signed positive"),
    "came": (1.0393, "signed"),
    "mars_ademamix": (4.0793, "signed signed signed positive"),
    "mars_came": (2.0592, "signed signed"),
    "ademamix_came": (2.0592, "signed signed"),
    "mars_shampoo": (2.0453, "signed signed"),
    "mars_m": (2.0397, "signed signed"),
    "muon": (1.0255, "signed"),
    "shampoo": (18.461, "signed positive"),
    "soap": (11.3599, "signed positive"),
    "mars_soap": (12.374, "signed signed positive"),
    "ademamix_soap": (12.374, "signed signed positive"),
    "ademamix_muon": (2.0397, "signed signed"),
    "mars_ademamix_muon": (3.0539, "signed signed signed"),
}


def test_every_optimizer_is_coded_as_something():
    assert set(CODED) == set(registry.names())


@pytest.mark.parametrize("name", CODED)
def test_what_every_optimizer_codes(name):
    params = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        {"h_0": BLOCK, "matrix": {"kernel": (64, 64)}},
        is_leaf=_trees.is_shape,
    )
    matrix, block = params["matrix"], {"h_0": params["h_0"]}
    tx = registry.build(name, learning_rate=0.1, state="int8")
    names = {"int8": "signed", "uint8": "positive"}
    held, kinds = CODED[name]
    state = jax.eval_shape(tx.init, matrix)
    assert sorted(names[x] for x in dtypes(state)) == sorted(kinds.split())
    whole = size(jax.eval_shape(tx.init, block)) / (size(block) / 4)
    assert whole == pytest.approx(held, abs=1e-4)


OPTAX = {
    "adam": (optax.adam(0.1), "signed positive"),
    "adamw": (optax.adamw(0.1), "signed positive"),
    "lion": (optax.lion(0.1), "signed"),
    "sgd": (optax.sgd(0.1, momentum=0.9), "signed"),
    "rmsprop": (optax.rmsprop(0.1), "positive"),
    "centered rmsprop": (optax.rmsprop(0.1, centered=True), ""),
    "ademamix": (optax.contrib.ademamix(0.1), "signed signed positive"),
    "simplified ademamix": (
        optax.contrib.simplified_ademamix(0.1),
        "signed positive",
    ),
    "adafactor": (optax.adafactor(0.1, momentum=0.9), "signed"),
    "amsgrad": (optax.amsgrad(0.1), "signed positive positive"),
    "adabelief": (optax.adabelief(0.1), "signed positive"),
    "adan": (optax.adan(0.1), "signed signed signed positive"),
    "novograd": (optax.novograd(0.1), "signed"),
    "sm3": (optax.sm3(0.1), "signed"),
    "muon": (optax.contrib.muon(0.1), "signed"),
    "schedule-free": (optax.contrib.schedule_free_adamw(0.1), "positive"),
    "adagrad": (optax.adagrad(0.1), ""),
}


@pytest.mark.parametrize("name", OPTAX)
def test_states_of_optax_are_known(name):
    inner, kinds = OPTAX[name]
    params = _trees.draw(0, {"w": (128, 256)})
    tx = optimx.quantized(inner, optimx.int8_blockwise(rounding="nearest"))
    with jax.numpy_dtype_promotion("standard"):
        state = jax.eval_shape(tx.init, params)
        after = jax.eval_shape(tx.update, params, state, params)[1]
        held = jax.jit(two_updates, static_argnums=0)(inner.update, inner.init(params))
    found = {"int8": "signed", "uint8": "positive"}
    assert sorted(found[x] for x in dtypes(state)) == sorted(kinds.split())
    assert _trees.avals(after) == _trees.avals(state)
    # A code is at most a hundredth from its number, whatever its sign.
    back = quantize.decode_state(tx, quantize.encode_state(tx, held))
    for x, y in zip(jax.tree.leaves(back), jax.tree.leaves(held), strict=True):
        assert np.linalg.norm(x - y) <= 0.02 * np.linalg.norm(y)


def two_updates(update, state):
    for seed in (1, 2):
        grads = _trees.draw(seed, {"w": (128, 256)})
        _, state = update(grads, state, grads)
    return state


def test_mirrored_gradients_move_parameters_alike():
    """SM3's ``nu`` is a momentum: half of its numbers are below zero."""
    half = _trees.draw(0, (32, 64))
    grads = jnp.concatenate([half, -half])
    exact, tx = optax.sm3(0.1), optimx.quantized(optax.sm3(0.1), INT8)
    moved = []
    for rule in (exact, tx):
        update, state, total = jax.jit(rule.update), rule.init(grads), 0.0
        for _ in range(20):
            updates, state = update(grads, state)
            total = total + updates
        moved.append(np.asarray(total))
    plain, ours = moved
    for rows in (slice(32), slice(32, 64)):
        error = np.linalg.norm(ours[rows] - plain[rows])
        assert error <= 0.05 * np.linalg.norm(plain[rows])


def test_a_variance_that_is_a_difference_is_not_rounded():
    """Of gradients that hardly change: E[g^2] and E[g]^2, rounded, change places."""
    grads = _trees.draw(0, (64, 64))
    tx = optimx.quantized(optax.rmsprop(0.1, centered=True), INT8)
    update, state = jax.jit(tx.update), tx.init(grads)
    for _ in range(60):
        updates, state = update(grads, state)
    _trees.assert_finite(updates)


class ModulusState(NamedTuple):
    """Of a transformation that is neither ours nor Optax's."""

    modulus: Any


def test_states_of_other_types_are_coded_where_they_are_asked_for():
    def update(updates, state, params=None):
        del params
        modulus = jax.tree.map(
            lambda m, u: 0.9 * m + 0.1 * jnp.abs(u), state.modulus, updates
        )
        return jax.tree.map(jnp.divide, updates, modulus), ModulusState(modulus)

    def parts(path):
        fields = [key for key in path if isinstance(key, GetAttrKey)]
        own = fields and fields[0].name == "modulus"
        return "positive" if own else optimx.moments(path)

    params = _trees.draw(0, {"w": (64, 256)})
    inner = optax.chain(
        optimx.ema(0.9),
        optax.GradientTransformation(
            lambda p: ModulusState(jax.tree.map(jnp.zeros_like, p)), update
        ),
    )
    alone = optimx.quantized(inner, INT8).init(params)
    assert dtypes(alone) == ["int8"]
    tx = optimx.quantized(inner, INT8, parts=parts)
    state = tx.init(params)
    assert dtypes(state) == ["int8", "uint8"]
    assert size(state.inner[1]) / params["w"].size == pytest.approx(1, abs=0.02)
    follow(tx, inner, params, {"w": (64, 256)})


def test_a_function_of_the_path_says_what_is_coded():
    def parts(path):
        return "signed" if "average" in jax.tree_util.keystr(path) else None

    tx = optimx.quantized(optimx.adamw(0.1), INT8, parts=parts)
    assert dtypes(tx.init({"w": jnp.ones((64, 64))})) == ["int8"]


def test_what_is_coded_inside_is_coded_once():
    params = {"w": jnp.ones((64, 64))}
    inner = optimx.quantized(optimx.ema(0.9), optimx.bfloat16())
    tx = optimx.quantized(optax.chain(inner, optimx.scale_by_rms(0.9)), INT8)
    state = tx.init(params)
    assert dtypes(state) == ["bfloat16", "uint8"]
    updates, after = tx.update(params, state, params)
    assert _trees.avals(after) == _trees.avals(state)
    _trees.assert_finite(updates)


# What it costs


def costs(name, **how):
    """Bytes of temporaries and of state, for each parameter of a block of GPT-2."""
    params = structs({k: v for k, v in GPT2.items() if "block1" not in k})
    tx = registry.build(name, learning_rate=0.1, weight_decay=0.1, **how)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    held = jax.eval_shape(tx.init, params)
    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(params, held, params)
    temporary = lowered.compile().memory_analysis().temp_size_in_bytes
    count = size(params) / 4
    return temporary / count, size(held) / count


@pytest.mark.parametrize(
    ("name", "state", "floats"),
    [("adamw", "int8", 8), ("ademamix", "int8", 12), ("adamw", "bfloat16", 8)],
)
def test_no_float32_copy_of_the_state(name, state, floats):
    """XLA on CPU copies donated codes; of float32 numbers there is no tree."""
    temporary, held = costs(name, state=state)
    assert temporary <= held + 0.1
    assert temporary + held <= floats + 0.1


# Averages that move slowly


STEPS = 20_000
SIGNAL = 0.25


@functools.cache
def averaged(codec):
    """A thousand averages on their way from 0.5 to a noisy 0.25, after many steps.

    In each block one average stays at 1: the others do not set the scale.
    """
    shape = 4, 256
    largest = jnp.arange(256) == 0
    start = jnp.broadcast_to(jnp.where(largest, 1.0, 0.5), shape)
    inner = optimx.ema(0.9999, debias=False)
    state = inner.init(start)._replace(average=start)
    tx = inner
    if codec is not None:
        tx = optimx.quantized(inner, codec, least=1)
        state = quantize.encode_state(tx, state)

    @jax.jit
    def run(state):
        def step(state, key):
            noisy = SIGNAL + 0.1 * jax.random.normal(key, shape)
            signal = jnp.where(largest[None], 1.0, noisy)
            return tx.update(signal, state)[1], None

        keys = jax.random.split(jax.random.key(0), STEPS)
        return jax.lax.scan(step, state, keys)[0]

    state = run(state)
    held = state if codec is None else quantize.decode_state(tx, state)
    return np.asarray(held.average)[:, 1:]


def test_the_exact_average_is_where_it_should_be():
    expected = SIGNAL + (0.5 - SIGNAL) * 0.9999**STEPS
    assert averaged(None).mean() == pytest.approx(expected, rel=0.01)


@EACH
def test_rounding_to_the_nearest_freezes_a_slow_average(name):
    frozen = averaged(codecs.NAMED[name](rounding="nearest"))
    np.testing.assert_allclose(frozen, 0.5, atol=0.02)


@EACH
def test_dice_keep_a_slow_average_right(name):
    """To one percent of the mean of a thousand numbers."""
    ours, exact = averaged(codecs.NAMED[name]()).mean(), averaged(None).mean()
    assert ours == pytest.approx(exact, rel=0.01)


# The authors' runs, coded


# Signs of momenta near 0 differ: in MARS-Lion one step of forty is one of twenty.
CODED_BOUND = {"int8": 0.1, "float8": 0.2, "bfloat16": 0.06}
OTHER_CODES = {"ademamix", "mars_adamw_all", "mars_lion_all", "came"}


@pytest.mark.parametrize("case", fidelity.CASES, ids=[c.file for c in fidelity.CASES])
def test_coded_runs_stay_near_the_authors(case):
    """Forty steps, every array coded; in parts of how far parameters travel."""
    run = fidelity.read(case.file)
    extra = {"stale_grads": run.stale} if run.stale else {}
    for name, bound in CODED_BOUND.items():
        if name != "int8" and case.file not in OTHER_CODES:
            continue
        tx = optimx.quantized(case.build(run.meta), codecs.NAMED[name](), least=1)
        ours = runs.trajectory(tx, run.init, run.gradients, jnp.float32, **extra)
        assert runs.error(run.init, ours, run.params) <= bound, name


# Around and inside others


@pytest.mark.parametrize("name", registry.names())
def test_every_optimizer_keeps_its_tree(name):
    params = _trees.draw(0, {"block": {"kernel": (16, 24), "bias": (24,)}})
    params |= {"none": None, "masked": optax.MaskedNode(), "empty": jnp.ones((0, 4))}
    tx = small(name)
    state = jax.eval_shape(tx.init, params)
    extra = dict.fromkeys(registry.get(name).needs, params)
    updates, after = jax.eval_shape(
        functools.partial(tx.update, **extra), params, state, params
    )
    assert coded(state)
    assert _trees.avals(after) == _trees.avals(state)
    assert _trees.avals(updates) == _trees.avals(params)
    assert _trees.avals(tx.init(jax.eval_shape(lambda: params))) == _trees.avals(state)


def coding(inner):
    return optimx.quantized(inner, INT8, least=1)


WRAPPED = {
    "per_layer": lambda tx: optimx.per_layer(coding(tx), "h"),
    "of per_layer": lambda tx: coding(optimx.per_layer(tx, "h")),
    "in_float32": lambda tx: optimx.in_float32(coding(tx)),
    "of in_float32": lambda tx: coding(optimx.in_float32(tx)),
    "matrices_only": lambda tx: optimx.matrices_only(coding(tx)),
    "of matrices_only": lambda tx: coding(optimx.matrices_only(tx)),
    "MultiSteps": lambda tx: optax.MultiSteps(coding(tx), 2),
}


@pytest.mark.parametrize("around", WRAPPED)
def test_wrappers_go_around_and_inside(around):
    shapes = {"h": (3, 16, 24), "w": (16, 24), "b": (24,)}
    params = _trees.draw(0, shapes)
    tx = WRAPPED[around](_trees.build("mars_adamw"))
    exact = _trees.build("mars_adamw")
    if "per_layer" in around:
        exact = optimx.per_layer(exact, "h")
    if "matrices" in around:
        exact = optimx.matrices_only(exact)
    if around == "MultiSteps":
        exact = optax.MultiSteps(exact, 2)
    # Optax's counters promote.
    with jax.numpy_dtype_promotion("standard"):
        follow(tx, exact, params, shapes)


def follow(tx, exact, params, shapes):
    update, plain = jax.jit(tx.update), jax.jit(exact.update)
    state, other = jax.jit(tx.init)(params), exact.init(params)
    assert coded(state)
    for seed in (1, 2, 3, 4):
        grads = _trees.draw(seed, shapes)
        updates, after = update(grads, state, params)
        expected, other = plain(grads, other, params)
        assert _trees.avals(after) == _trees.avals(state)
        state = after
    # Codes are a twentieth apart; some numbers cancel, so the whole leaf is judged.
    for x, y in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(x - y) <= 0.15 * np.linalg.norm(y)


def test_injected_numbers_take_effect():
    params = _trees.draw(0, {"w": (16, 24)})
    fixed = "mask", "accumulator_dtype"
    outside = optax.inject_hyperparams(
        lambda learning_rate: coding(optimx.adamw(learning_rate))
    )
    inside = optax.inject_hyperparams(optimx.adamw, static_args=fixed)
    for tx in (outside(learning_rate=0.1), coding(inside(learning_rate=0.1))):
        state = tx.init(params)
        assert len(coded(state)) == 2
        moved, _ = tx.update(params, state, params)
        still = optax.tree.set(state, learning_rate=jnp.asarray(0.0))
        stopped, _ = tx.update(params, still, params)
        assert np.all(moved["w"] != 0)
        assert not np.any(stopped["w"])


def agree(ours, theirs):
    """The same states but for rounding, which now and then moves a code by one."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    for x, y in pairs:
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        off = np.abs(x - y) > 1e-5 * np.max(np.abs(y), initial=0)
        assert np.sum(off) <= 1e-3 * x.size + 1
        assert np.all(np.abs(x - y)[off] <= np.maximum(1, 0.2 * np.abs(y[off])))


def test_scan_equals_a_loop():
    params = _trees.draw(0, {"w": (16, 300)})
    grads = [_trees.draw(seed, {"w": (16, 300)}) for seed in (1, 2, 3)]
    tx = small("ademamix")
    step = jax.jit(_trees.stepping(tx))

    @jax.jit
    def scanned(params, grads):
        def body(carry, g):
            return step(*carry, g, {}), None

        return jax.lax.scan(body, (params, tx.init(params)), grads)[0]

    looped = params, tx.init(params)
    for g in grads:
        looped = step(*looped, g, {})
    agree(scanned(params, jax.tree.map(lambda *x: jnp.stack(x), *grads)), looped)


def test_vmap_equals_one_by_one():
    each = [_trees.draw(seed, {"w": (4, 300)}) for seed in range(3)]
    batch = jax.tree.map(lambda *x: jnp.stack(x), *each)
    tx = small("adamw")
    update, alone = jax.jit(jax.vmap(tx.update)), jax.jit(tx.update)
    state = jax.vmap(tx.init)(batch)
    for _ in range(2):
        _, state = update(batch, state, batch)
    for i, params in enumerate(each):
        own = tx.init(params)
        for _ in range(2):
            _, own = alone(params, own, params)
        agree(jax.tree.map(lambda x, i=i: x[i], state), own)


SPECS = {
    "columns": ((16, 512), P(None, "tensor")),
    "both": ((16, 1024), P("fsdp", "tensor")),
    "ragged": ((8, 300), P("fsdp", "tensor")),
    "flat": ((16, 512), P(("fsdp", "tensor"), None)),
    "narrow": ((8, 512), P(None, ("fsdp", "tensor"))),
    "stack": ((4, 8, 512), P("fsdp", None, "tensor")),
}


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
@EACH
def test_sharded_equals_unsharded(name, kind):
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(kind,) * 2)
    places = {key: NamedSharding(mesh, spec) for key, (_, spec) in SPECS.items()}
    own = _trees.draw(0, {key: shape for key, (shape, _) in SPECS.items()})
    tx = small("adamw", codecs.NAMED[name]())
    params = jax.device_put(own, places)
    promised = optimx.state_shardings(tx, params)
    state = jax.jit(tx.init, out_shardings=promised)(params)
    step = jax.jit(_trees.stepping(tx), out_shardings=(places, promised))
    plain, expected = jax.jit(_trees.stepping(tx)), (own, tx.init(own))
    for seed in (1, 2):
        grads = _trees.like(own, seed)
        params, state = step(params, state, jax.device_put(grads, places), {})
        expected = plain(*expected, grads, {})
    agree((params, state), expected)
    for key, x in state.inner["precondition"].by.second_moment.items():
        assert x.codes.sharding.is_equivalent_to(places[key], x.codes.ndim), key
        if x.scales is not None and x.scales.ndim > 1:
            lead = (*SPECS[key][1][:-1],)
            assert (*x.scales.sharding.spec, None, None)[: len(lead)] == lead, key


def test_each_step_array_and_seed_draws_for_itself():
    x = jnp.full((4, 256), 0.3).at[:, 0].set(1.0)
    params = {"a": x, "b": x}

    def codes(seed=0, count=0):
        tx = optimx.quantized(optax.trace(1.0), INT8, least=1, seed=seed)
        state = tx.init(params)._replace(count=jnp.int32(count))
        return {k: v.codes for k, v in tx.update(params, state)[1].inner.trace.items()}

    first = codes()
    _trees.assert_same(codes(), first)
    for other in (first["b"], codes(seed=1)["a"], codes(count=1)["a"]):
        assert 0.2 < np.mean(np.asarray(first["a"] != other)) < 0.8


# To codes and back


def test_states_are_coded_and_read():
    params = _trees.draw(0, {"w": (64, 128), "b": (128,)})
    inner = optimx.ademamix(0.1)
    tx = optimx.quantized(inner, INT8)
    _, held = inner.update(params, inner.init(params), params)
    state = quantize.encode_state(tx, held)
    assert _trees.avals(state) == _trees.avals(jax.eval_shape(tx.init, params))
    back = quantize.decode_state(tx, state)
    assert _trees.avals(back) == _trees.avals(held)
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(back), jax.tree.leaves(held), strict=True
    ):
        fields = {key.name for key in path if isinstance(key, GetAttrKey)}
        if fields & {"average", "second_moment"} and x.size >= 4096:
            peak = np.max(np.abs(y))
            np.testing.assert_allclose(x, y, rtol=0.1, atol=1e-3 * peak)
            assert np.any(x != y)
        else:
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("turn", [quantize.encode_state, quantize.decode_state])
def test_only_a_quantized_transformation_has_codes(turn):
    with pytest.raises(TypeError, match=rf"{turn.__name__}: tx must be made by quant"):
        turn(optimx.adamw(0.1), None)


# What is refused


def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match="quantized: inner must be"):
        optimx.quantized(optax.adam, INT8)
    with pytest.raises(TypeError, match="quantized: codec must be a codec such as"):
        optimx.quantized(optax.adam(0.1), optimx.int8_blockwise)
    with pytest.raises(ValueError, match="quantized: least must be"):
        optimx.quantized(optax.adam(0.1), INT8, least=-1)


def test_complex_and_whole_numbers_are_refused_at_init():
    tx = optimx.quantized(optimx.ema(0.9), INT8)
    with pytest.raises(ValueError, match=r"quantized: 'average/w' .* dtype complex64"):
        tx.init({"w": jnp.ones((2, 2), jnp.complex64)})
    tx = optimx.quantized(optimx.ema(0.9), INT8, parts=lambda path: "signed")
    with pytest.raises(ValueError, match=r"quantized: 'count' of the state .* int32"):
        tx.init({"w": jnp.ones((2, 2))})


def test_other_widths_stay_as_they_are():
    tx = small("adamw", accumulator_dtype=jnp.bfloat16)
    assert not coded(tx.init({"w": jnp.ones((4, 4))}))
    with runs.double_precision():
        assert not coded(small("adamw").init({"w": jnp.ones((4, 4), jnp.float64)}))


def test_the_registry_names_codecs():
    params = {"w": jnp.ones((64, 64))}
    assert registry.STATES == ("float32", "int8", "float8", "bfloat16")
    found = [
        dtypes(registry.build("lion", learning_rate=0.1, state=state).init(params))
        for state in registry.STATES
    ]
    assert found == [[], ["int8"], ["float8_e4m3fn"], ["bfloat16"]]
    with pytest.raises(ValueError, match=r"state must be one of .*'int4'.*'int8'"):
        registry.build("adamw", learning_rate=0.1, state="int4")
    both = {"state": "int8", "accumulator_dtype": "bfloat16"}
    with pytest.raises(ValueError, match=r"state='int8' .* leave out accumulator_dtyp"):
        registry.build("adamw", learning_rate=0.1, **both)
