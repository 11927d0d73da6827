"""Wrappers that change a leaf's axes, over eight devices: Auto and Explicit axes."""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optimx
from optimx.codecs import NEAREST, int8_blockwise
from tests.contract import _trees

KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}

SEEDS = 1, 2

each_kind = pytest.mark.parametrize("kind", KINDS)


def mesh(kind):
    return jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(KINDS[kind],) * 2)


def spec_of(sharding, ndim):
    """Names of mesh axes for each axis."""
    entries = (*sharding.spec, *[None] * ndim)[:ndim]
    return tuple((e,) if isinstance(e, str) else tuple(e or ()) for e in entries)


def shapes_of(layout):
    return {key: shape for key, (shape, _) in layout.items()}


def placed(kind, layout, seed):
    own = {key: NamedSharding(mesh(kind), spec) for key, (_, spec) in layout.items()}
    return jax.device_put(_trees.draw(seed, shapes_of(layout)), own)


def agree(tx, layout, kind, **tolerance):
    """Trains on the mesh and without it; the state there, and where it was promised.

    Parameters are the same, and states live where `state_shardings` said.
    """
    params = placed(kind, layout, 0)
    own = jax.tree.map(lambda x: x.sharding, params)
    promised = optimx.state_shardings(tx, params)
    first = state = jax.jit(tx.init, out_shardings=promised)(params)
    step = _trees.stepping(tx)
    pinned = jax.jit(step, out_shardings=(own, promised))
    plain, alone = jax.jit(step), _trees.draw(0, shapes_of(layout))
    expected = tx.init(alone)
    for seed in SEEDS:
        params, state = pinned(params, state, placed(kind, layout, seed), {})
        grads = _trees.draw(seed, shapes_of(layout))
        alone, expected = plain(alone, expected, grads, {})
    _trees.assert_moves(_trees.draw(0, shapes_of(layout)), alone)
    # Some roundings, 6e-8, of parameters of order 4.
    _trees.assert_same(params, alone, **({"rtol": 1e-5, "atol": 2e-6} | tolerance))
    for held in (first, state):
        for x, sharding in zip(
            jax.tree.leaves(held), jax.tree.leaves(promised), strict=True
        ):
            assert x.sharding.is_equivalent_to(sharding, x.ndim)
    return state


# --- as_matrices ----------------------------------------------------------------

# Shape, spec, rows, columns, and the spec of the view.
VIEWS = {
    "heads": ((8, 2, 4), P(None, "tensor"), (0,), (1, 2), P(None, None, "tensor")),
    "minor": ((8, 2, 4), P(None, None, "fsdp"), (0,), (1, 2), P(None, None, "fsdp")),
    "both": ((2, 4, 8), P("tensor", "fsdp"), (0, 1), (2,), P(None, ("tensor", "fsdp"))),
    "taps": ((4, 3, 8, 6), P("fsdp", None, "tensor"), (2,), (3,), P("fsdp", "tensor")),
    "turned": ((8, 4), P("fsdp", "tensor"), (1,), (0,), P(None, "tensor", "fsdp")),
    "whole": ((8, 2, 4), P(), (0,), (1, 2), P()),
}


@each_kind
@pytest.mark.parametrize("case", VIEWS)
def test_views_are_split_into_as_many_parts(case, kind):
    shape, spec, rows, columns, expected = VIEWS[case]
    layout = {"w": (shape, spec), "bias": ((8,), P("fsdp"))}
    tx = optimx.as_matrices(optimx.ema(0.9), {"w": (rows, columns)})
    average = agree(tx, layout, kind).average["w"]
    wanted = NamedSharding(mesh(kind), expected)
    assert spec_of(average.sharding, 3) == spec_of(wanted, 3)


@each_kind
@pytest.mark.parametrize("name", ["came", "muon"])
def test_matrices_of_an_attention_kernel(name, kind):
    """Rows and columns of a kernel, and its polar factor."""
    tx = optimx.as_matrices(_trees.build(name), {"query": ((0,), (1, 2))})
    agree(tx, {"query": ((8, 2, 4), P("fsdp", "tensor"))}, kind)


def test_rows_and_columns_are_split_as_what_they_keep():
    if jax.version.__version_info__ < (0, 8):
        pytest.skip("the first JAX with explicit sharding drops it in reductions")
    params = placed("auto", {"w": ((8, 2, 4), P("fsdp", "tensor"))}, 0)
    tx = optimx.as_matrices(optimx.scale_by_factored_rms(0.9), {"w": ((0,), (1, 2))})
    state = optimx.state_shardings(tx, params)
    assert spec_of(state.row["w"], 2) == ((), ("fsdp",))
    assert spec_of(state.column["w"], 2) == ((), ("tensor",))


# --- per_layer ------------------------------------------------------------------

# The usual layout of a scanned stack whose layers are spread over devices, beside a
# leaf that has its layers whole.
LAYERS = {
    "kernel": ((4, 8, 16), P("fsdp", None, "tensor")),
    "gate": ((4, 8, 16), P("fsdp", "tensor")),
    "bias": ((4, 8), P(None, "fsdp")),
}

RULES = {
    "adam": lambda: optax.adam(0.1),
    "mars_adamw": lambda: _trees.build("mars_adamw"),
    "came": lambda: _trees.build("came"),
    "int8": lambda: optimx.quantized(
        optimx.ema(0.9), int8_blockwise(4, rounding=NEAREST), least=1
    ),
    "soap": lambda: _trees.build("soap"),
}


@each_kind
@pytest.mark.parametrize("rule", RULES)
def test_layers_may_be_split(rule, kind):
    tolerance = _trees.OF_MATRICES if rule == "soap" else {}
    layout = {"kernel": LAYERS["kernel"]} if rule == "soap" else LAYERS
    # Optax's Adam promotes.
    with jax.numpy_dtype_promotion("standard" if rule == "adam" else "strict"):
        state = agree(optimx.per_layer(RULES[rule](), "*"), layout, kind, **tolerance)
    for x in jax.tree.leaves(state.inner_states["stacked"]):
        assert {shard.data.shape[0] for shard in x.addressable_shards} == {1}


def test_all_layers_are_split_as_most_numbers_are():
    tx = optimx.per_layer(optimx.ema(0.9), "*")
    inner = {"kernel": ((4, 8, 16), P(None, "fsdp")), "bias": ((4, 8), P("fsdp"))}
    for layout, layers in ((LAYERS, ("fsdp",)), (inner, ())):
        ema = agree(tx, layout, "explicit").inner_states["stacked"].inner_state
        for x in jax.tree.leaves(ema):
            assert spec_of(x.sharding, 1) == (layers,)


def test_stacks_are_split_over_the_other_axes():
    tx = optimx.per_layer(optimx.scale_by_kronecker(0.9), "*")
    layout = {key: LAYERS[key] for key in ("gate", "kernel")}
    params = placed("explicit", layout, 0)
    promised = optimx.state_shardings(tx, params)
    state = jax.jit(tx.init, out_shardings=promised)(params)
    left = state.inner_states["stacked"].inner_state.left["gate"]
    # Two matrices in each of four layers, each on a device of its own.
    assert left.shape == (4, 2, 1, 8, 8)
    assert {x.data.shape for x in left.addressable_shards} == {(1, 1, 1, 8, 8)}


@pytest.mark.parametrize("stepping", [jax.jit, lambda step: step], ids=["jit", "eager"])
def test_types_are_those_of_the_leaves(stepping):
    """Over Explicit axes nothing needs to be said from outside."""
    tx = optimx.per_layer(_trees.build("adamw"), "*")
    with jax.set_mesh(mesh("explicit")):
        params = placed("explicit", LAYERS, 0)
        state = stepping(tx.init)(params)
        updates, after = stepping(tx.update)(params, state, params)
    for ours, theirs in ((updates, params), (after, state)):
        for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            assert jax.typeof(x) == jax.typeof(y)


def test_arguments_that_all_layers_share():
    """Of a rule that scales by numbers of the mesh, one of them split as the layers."""

    def init(params):
        return optax.EmptyState()

    def update(updates, state, params=None, *, value, numbers, factor):
        scale = value * jnp.sum(numbers) * factor
        return jax.tree.map(lambda u: u * scale, updates), state

    tx = optimx.per_layer(optax.GradientTransformationExtraArgs(init, update), "*")

    def run(updates, numbers):
        value = jnp.sum(updates["gate"])
        extra = {"value": value, "numbers": numbers, "factor": 2.0}
        return tx.update(updates, tx.init(updates), None, **extra)[0]

    numbers = jnp.arange(8.0)
    with jax.set_mesh(mesh("explicit")):
        spread = jax.device_put(numbers, P("fsdp"))
        found = jax.jit(run)(placed("explicit", LAYERS, 1), spread)
    expected = jax.jit(run)(_trees.draw(1, shapes_of(LAYERS)), numbers)
    # Sums of 512 numbers that cancel, taken in another order.
    _trees.assert_same(found, expected, rtol=1e-4)


@each_kind
def test_stacks_of_stacks_and_matrices_of_layers(kind):
    inner = optimx.as_matrices(_trees.build("muon"), {"w": ((0,), (1, 2))})
    tx = optimx.per_layer(optimx.per_layer(inner, "*"), "*")
    agree(tx, {"w": ((4, 2, 8, 2, 4), P("fsdp", "tensor"))}, kind)
