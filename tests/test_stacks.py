import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optimx
from optimx.linalg import newton_schulz
from tests import runs


def draw(shapes, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {key: rng.normal(size=shape).astype(dtype) for key, shape in shapes.items()}


class Witness:
    """A transformation that keeps what it is shown."""

    def __init__(self, function=lambda x: x):
        self.seen = []

        def init(params):
            self.seen.append({"params": params})
            return optax.EmptyState()

        def update(updates, state, params=None, **extra_args):
            self.seen.append({"updates": updates, "params": params, **extra_args})
            return jax.tree.map(function, updates), state

        self.tx = optimx.in_stacks(optax.GradientTransformationExtraArgs(init, update))

    def update(self, updates, params=None, **extra_args):
        state = self.tx.init(updates)
        return self.tx.update(updates, state, params, **extra_args)[0]


def assert_equal(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


# --- layout ---------------------------------------------------------------------

SHAPES = {
    "up": (3, 5),
    "down": (5, 3),
    "gate": (3, 5),
    "layers": (2, 3, 5),
    "deep": (2, 2, 5, 3),
    "alone": (4, 4),
}


def test_matrices_of_a_shape_are_one_stack_in_the_place_of_the_first():
    tree = jax.tree.map(jnp.asarray, draw(SHAPES))
    witness = Witness()
    found = witness.update(tree, tree)
    assert_equal(found, tree)
    masked = optax.MaskedNode()
    flat = tree["deep"].reshape(4, 5, 3)
    expected = {
        # Leaves come in the order of their keys: "deep" before "down".
        "alone": tree["alone"][None],
        "deep": jnp.concatenate([flat, tree["down"][None]]),
        "down": masked,
        "gate": jnp.concatenate([tree["gate"][None], tree["layers"], tree["up"][None]]),
        "layers": masked,
        "up": masked,
    }
    for tree_shown in (witness.seen[1]["updates"], witness.seen[1]["params"]):
        assert_equal(tree_shown, expected)
    shown_first = witness.seen[0]["params"]
    assert jax.tree.map(jnp.shape, shown_first) == jax.tree.map(jnp.shape, expected)


def test_every_matrix_comes_back_to_its_place():
    """Each is multiplied by a number that says where in which stack it stood."""
    tree = jax.tree.map(jnp.asarray, draw(SHAPES))

    def number(x):
        return x * (x.shape[-1] * 100.0 + jnp.arange(1.0 * len(x))[:, None, None])

    found = Witness(number).update(tree)
    order = {"gate": 0, "layers": [1, 2], "up": 3, "alone": 0, "down": 4}
    order["deep"] = [[0, 1], [2, 3]]
    for key, place in order.items():
        factor = np.float32(tree[key].shape[-1] * 100 + np.array(place))[
            ..., None, None
        ]
        np.testing.assert_array_equal(found[key], tree[key] * factor, err_msg=key)


def test_a_list_of_many_leaves_keeps_its_order():
    shapes = [(2, 2), (2, 3)] * 6
    tree = [jnp.full(shape, float(i)) for i, shape in enumerate(shapes)]
    witness = Witness(jnp.negative)
    assert_equal(witness.update(tree), [-x for x in tree])
    shown = jax.tree.leaves(witness.seen[1]["updates"])
    assert [x.shape for x in shown] == [(6, 2, 2), (6, 2, 3)]
    np.testing.assert_array_equal(shown[0][:, 0, 0], np.arange(0, 12, 2))


def test_dtypes_of_one_shape_meet_in_the_wide_one():
    tree = {
        "a": jnp.full((2, 3), 1.25, jnp.bfloat16),
        "b": jnp.full((2, 3), 1.0 + 2**-20, jnp.float32),
        "c": jnp.full((2, 3), 0.5, jnp.float16),
        "half": jnp.full((4, 3), 1.25, jnp.bfloat16),
        "halves": jnp.full((4, 3), 2.5, jnp.bfloat16),
    }
    witness = Witness()
    assert_equal(witness.update(tree, tree), tree)
    for shown in (witness.seen[0]["params"], witness.seen[1]["updates"]):
        assert (shown["a"].shape, shown["a"].dtype) == ((3, 2, 3), jnp.float32)
        # Alone among themselves they stay what they are.
        assert (shown["half"].shape, shown["half"].dtype) == ((2, 4, 3), jnp.bfloat16)
    assert witness.seen[1]["updates"]["a"][1, 0, 0] == 1.0 + 2**-20


def test_what_float32_cannot_hold_has_its_own_stack():
    with runs.double_precision():
        tree = {
            "a": jnp.ones((2, 3), jnp.float32),
            "b": jnp.ones((2, 3), jnp.float64),
            "c": jnp.ones((2, 3), jnp.complex64),
        }
        witness = Witness()
        assert_equal(witness.update(tree), tree)
        assert_equal(witness.seen[1]["updates"], jax.tree.map(lambda x: x[None], tree))


def test_leaves_without_elements_and_places_without_leaves_pass():
    tree = {
        "empty": jnp.zeros((0, 4)),
        "none": None,
        "masked": optax.MaskedNode(),
        "matrix": jnp.ones((2, 2)),
        "no layers": jnp.zeros((0, 2, 2)),
    }
    witness = Witness(jnp.negative)
    found = witness.update(tree, tree, observed=tree)
    assert_equal(found, {**tree, "matrix": -tree["matrix"]})
    masked = optax.MaskedNode()
    shown = {**tree, "matrix": jnp.ones((1, 2, 2)), "empty": masked}
    assert_equal(witness.seen[1]["observed"], {**shown, "no layers": masked})
    for nothing in ({}, {"none": None}, {"empty": jnp.zeros((3, 0))}):
        assert_equal(Witness().update(nothing), nothing)


def test_extra_arguments_are_stacked_if_they_are_shaped_as_the_updates():
    tree = jax.tree.map(jnp.asarray, draw(SHAPES))
    observed = jax.tree.map(jnp.asarray, draw(SHAPES, seed=1))
    witness = Witness()
    other = {"loss": jnp.ones(())}
    witness.update(tree, observed=observed, value=jnp.ones(()), other=other, name="x")
    seen = witness.seen[1]
    apart = Witness()
    apart.update(observed)
    assert_equal(seen["observed"], apart.seen[1]["updates"])
    assert seen["params"] is None
    assert seen["name"] == "x"
    assert_equal((seen["value"], seen["other"]), (jnp.ones(()), other))


def test_state_has_the_stacks_axis():
    tree = jax.tree.map(jnp.asarray, draw(SHAPES))
    state = optimx.in_stacks(optimx.ema(0.9)).init(tree)
    shapes = jax.tree.map(jnp.shape, state.average)
    masked = optax.MaskedNode()
    assert shapes == {
        **dict.fromkeys(SHAPES, masked),
        "alone": (1, 4, 4),
        "deep": (5, 5, 3),
        "gate": (4, 3, 5),
    }


def test_it_is_the_same_as_without_stacks():
    """Of a rule that treats every number by itself, over several steps."""
    tree = draw(SHAPES)
    grads = {key: np.stack([x, 2 * x, -x]) for key, x in draw(SHAPES, 1).items()}
    plain = optimx.ema(0.9)
    ours = runs.outputs(optimx.in_stacks(plain), runs.as_tree(tree, "float32"), grads)
    theirs = runs.outputs(plain, runs.as_tree(tree, "float32"), grads)
    # The same operations on numbers of up to 4, compiled apart: where a product is
    # contracted into a sum there is one rounding, 2e-7 of these, instead of two.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), ours, theirs
    )


def test_shapes_alone_are_enough_to_init():
    tree = {"a": jax.ShapeDtypeStruct((3, 4), jnp.float32)}
    state = optimx.in_stacks(optimx.ema(0.9)).init(tree)
    np.testing.assert_array_equal(state.average["a"], np.zeros((1, 3, 4)))


def test_under_vmap():
    """Three models side by side: stacks of each, over an axis that nobody sees."""
    rows = [jax.tree.map(jnp.asarray, draw(SHAPES, seed)) for seed in range(3)]
    many = jax.tree.map(lambda *x: jnp.stack(x), *rows)
    tx = optimx.orthogonalize()
    found = jax.jit(jax.vmap(lambda u: tx.update(u, optax.EmptyState())[0]))(many)
    update = jax.jit(lambda u: tx.update(u, optax.EmptyState())[0])
    for i, row in enumerate(rows):
        for key, x in update(row).items():
            # Sums in another order: some roundings, 6e-8, amplified.
            np.testing.assert_allclose(found[key][i], x, rtol=0, atol=1e-5)


# --- errors ---------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (4,)])
def test_what_is_no_matrix_is_named(shape):
    params = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(shape)}}
    message = r"parameter 'dense/bias' has shape .* rank 2 or more.*matrices_only"
    with pytest.raises(ValueError, match=message):
        optimx.in_stacks(optimx.ema(0.9)).init(params)


@pytest.mark.parametrize("inner", [None, optimx.ema, 3])
def test_what_is_no_transformation_is_refused(inner):
    with pytest.raises(TypeError, match="in_stacks: inner must be an optax"):
        optimx.in_stacks(inner)


# --- on a mesh ------------------------------------------------------------------

KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}

each_kind = pytest.mark.parametrize("kind", KINDS)

# Eleven matrices of one shape, split in every way: two on each of 8 devices, with five
# places to spare; one of another, which leaves seven devices with nothing to do; and
# eight that fit.
SPREAD = {
    "alone": ((8, 8), P("tensor")),
    "both": ((16, 8), P("fsdp", "tensor")),
    "columns": ((16, 8), P(None, "tensor")),
    "eight": ((2, 4, 4, 16), P("tensor", None, "fsdp")),
    "flat": ((16, 8), P(("fsdp", "tensor"), None)),
    "layers": ((4, 16, 8), P("fsdp", None, "tensor")),
    "rows": ((16, 8), P("fsdp", None)),
    "stack": ((2, 16, 8), P(None, "fsdp", "tensor")),
    "whole": ((16, 8), P()),
}

STACKS = {"alone": (8, 8, 8), "both": (16, 16, 8), "eight": (8, 4, 16)}

RULES = {
    "orthogonalize": optimx.orthogonalize,
    "ema": lambda **axis: optimx.in_stacks(optimx.ema(0.9), **axis),
    "both": lambda **axis: optax.chain(
        optimx.in_stacks(optimx.ema(0.9), **axis), optimx.orthogonalize(**axis)
    ),
}

each_rule = pytest.mark.parametrize("rule", RULES)


@functools.cache
def mesh(kind):
    return jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(KINDS[kind],) * 2)


def shardings(kind):
    return {key: NamedSharding(mesh(kind), spec) for key, (_, spec) in SPREAD.items()}


def alone(seed):
    return draw({key: shape for key, (shape, _) in SPREAD.items()}, seed)


def spread(kind, seed):
    return jax.device_put(alone(seed), shardings(kind))


@functools.cache
def compiled(rule, kind):
    tx = RULES[rule]()
    params = spread(kind, 0)
    promised = optimx.state_shardings(tx, params)
    auto = kind == "auto"
    out = (shardings(kind), promised) if auto else None
    init = jax.jit(tx.init, out_shardings=promised)
    step = jax.jit(lambda grads, state: tx.update(grads, state), out_shardings=out)
    state = init(params)
    return step.lower(params, state).compile(), state, promised


SEEDS = 1, 2, 3


@functools.cache
def ran(rule, kind):
    step, state, promised = compiled(rule, kind)
    out = []
    for seed in SEEDS:
        updates, state = step(spread(kind, seed), state)
        out.append(updates)
    return out, state, promised


@functools.cache
def ran_alone(rule):
    tx = RULES[rule]()
    step = jax.jit(lambda grads, state: tx.update(grads, state))
    state = tx.init(jax.tree.map(jnp.asarray, alone(0)))
    out = []
    for seed in SEEDS:
        updates, state = step(jax.tree.map(jnp.asarray, alone(seed)), state)
        out.append(updates)
    return out


@each_rule
@each_kind
def test_split_stacks_are_whole_ones(rule, kind):
    ours, _, _ = ran(rule, kind)
    for updates, expected in zip(ours, ran_alone(rule), strict=True):
        for key, x in updates.items():
            # Roundings, 6e-8, where two on a device are compiled unlike 11 on one.
            np.testing.assert_allclose(x, expected[key], rtol=0, atol=1e-5, err_msg=key)


@each_rule
@each_kind
def test_updates_come_back_as_their_leaves_are_split(rule, kind):
    for updates in ran(rule, kind)[0]:
        for key, x in updates.items():
            own = shardings(kind)[key]
            assert x.sharding.is_equivalent_to(own, x.ndim), key
            if kind == "explicit":
                # Not only told so by `out_shardings`: it is in the type.
                assert x.sharding.mesh == own.mesh
                assert (
                    jax.typeof(x).sharding
                    == jax.typeof(jax.device_put(x, own)).sharding
                )


@pytest.mark.parametrize("rule", ["ema", "both"])
@each_kind
def test_state_is_split_over_the_stack(rule, kind):
    """Every device holds the same number of whole matrices, and no more."""
    _, first, promised = compiled(rule, kind)
    _, last, _ = ran(rule, kind)
    for state in (first, last):
        average = (state if rule == "ema" else state[0]).average
        held = {key: x for key, x in average.items() if isinstance(x, jax.Array)}
        assert {key: x.shape for key, x in held.items()} == STACKS
        for key, x in held.items():
            parts = {shard.data.shape for shard in x.addressable_shards}
            assert parts == {(len(x) // 8, *x.shape[1:])}, key
            assert len({str(shard.index) for shard in x.addressable_shards}) == 8
        for x, sharding in zip(
            jax.tree.leaves(state), jax.tree.leaves(promised), strict=True
        ):
            assert x.sharding.is_equivalent_to(sharding, x.ndim)
        counts = [x for x in jax.tree.leaves(state) if x.ndim == 0]
        assert all(x.sharding.is_fully_replicated for x in counts)


@each_kind
def test_what_fills_a_stack_up_stays_zero(kind):
    _, state, _ = ran("ema", kind)
    np.testing.assert_array_equal(np.asarray(state.average["both"])[11:], 0)
    np.testing.assert_array_equal(np.asarray(state.average["alone"])[1:], 0)


COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "reduce-scatter",
    "ragged-all-to-all",
)

Instruction = collections.namedtuple("Instruction", "name opcode operands calls")


def computations(text):
    """The computations of a compiled program by name, and that of its entry."""
    found, entry, name = {}, None, None
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line):
            name = head[2]
            found[name] = []
            entry = name if head[1] else entry
        elif body := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)$", line):
            rest = re.sub(r", metadata=.*", "", body[2])
            opcode = re.search(r"(?:^| )([a-z][\w\-]*)\(", rest)
            calls = re.findall(
                r"(?:calls|to_apply|body|condition|\w+_computation)=%?([\w.\-]+)", rest
            )
            for many in re.findall(r"(?:branch|called)_computations=\{(.*?)\}", rest):
                calls += [part.strip().lstrip("%") for part in many.split(",")]
            operands = re.findall(r"%([\w.\-]+)", rest[opcode.end() :])
            found[name].append(Instruction(body[1], opcode[1], operands, calls))
    return found, entry


def is_collective(instruction):
    return instruction.opcode.startswith(COLLECTIVES)


def communication(text):
    """Collectives inside what is called, between products, and altogether."""
    found, entry = computations(text)

    @functools.cache
    def multiplies(name):
        return any(
            instruction.opcode == "dot" or any(map(multiplies, instruction.calls))
            for instruction in found[name]
        )

    called = [
        instruction.name
        for name, instructions in found.items()
        if name != entry
        for instruction in instructions
        if is_collective(instruction)
    ]
    # What depends on a product, and then on a collective of what does.
    after, between, bad = set(), set(), []
    for name, opcode, operands, calls in found[entry]:
        product = opcode == "dot" or any(map(multiplies, calls))
        if product and between.intersection(operands):
            bad.append(name)
        if product or after.intersection(operands):
            after.add(name)
        collective = opcode.startswith(COLLECTIVES) and name in after
        if collective or between.intersection(operands):
            between.add(name)
    everywhere = [i for instructions in found.values() for i in instructions]
    total = sum(map(is_collective, everywhere))
    dots = sum(i.opcode == "dot" for i in everywhere)
    loops = sum(i.opcode == "while" for i in everywhere)
    return called, bad, total, dots, loops


@each_kind
@pytest.mark.parametrize("rule", ["orthogonalize", "both"])
def test_nothing_is_sent_while_matrices_are_worked_on(rule, kind):
    text = compiled(rule, kind)[0].as_text()
    called, between, total, dots, loops = communication(text)
    # The stacks are collected and given back, and worked on in loops and beside.
    assert total > 0
    assert dots >= 3 * 15
    assert loops >= 1
    assert called == []
    assert between == []
    for line in text.splitlines():
        if re.search(rf"= .* ({'|'.join(COLLECTIVES)})[\w\-]*\(", line):
            # Names of what brings a stack there and back end in it at most.
            assert "shard_map/" not in line


def test_leaf_by_leaf_there_would_be():
    """What the test above looks for is there to be found."""
    x = spread("auto", 1)["both"]
    update = jax.jit(newton_schulz.polar, out_shardings=x.sharding)
    text = update.lower(x).compile().as_text()
    called, between, total, _, _ = communication(text)
    assert total > 3
    assert called or between


@each_kind
@pytest.mark.parametrize(
    ("axis", "parts"),
    [("fsdp", 4), ("tensor", 2), (("tensor", "fsdp"), 8), (["fsdp"], 4), ((), 1)],
)
def test_mesh_axes_may_be_named(kind, axis, parts):
    tx = optimx.in_stacks(optimx.ema(0.9), mesh_axis=axis)
    params = {key: spread(kind, 0)[key] for key in ("columns", "stack", "whole")}
    promised = optimx.state_shardings(tx, params)
    auto = kind == "auto"
    own = {key: shardings(kind)[key] for key in params}
    init = jax.jit(tx.init, out_shardings=promised)
    update = jax.jit(tx.update, out_shardings=(own, promised) if auto else None)
    updates, state = update(params, init(params))
    (average,) = jax.tree.leaves(state.average)
    # Four matrices are a multiple of all but eight.
    assert average.shape == (max(4, parts), 16, 8)
    held = {shard.data.shape for shard in average.addressable_shards}
    assert held == {(len(average) // parts, 16, 8)}
    assert average.sharding.is_equivalent_to(promised.average["columns"], 3)
    for key, x in updates.items():
        assert x.sharding.is_equivalent_to(own[key], x.ndim)
        # The first average is a tenth, unbiased: one times, in some roundings.
        np.testing.assert_allclose(x, params[key], rtol=1e-6)


@each_kind
def test_an_axis_that_the_mesh_lacks_is_named(kind):
    params = {"w": spread(kind, 0)["both"]}
    for axis in ("data", ("fsdp", "data")):
        tx = optimx.in_stacks(optimx.ema(0.9), mesh_axis=axis)
        message = r"in_stacks: no mesh axis is named 'data'; .*'fsdp', 'tensor'"
        with pytest.raises(ValueError, match=message):
            tx.init(params)
        with pytest.raises(ValueError, match=message):
            jax.jit(optimx.orthogonalize(mesh_axis=axis).update)(
                params, optax.EmptyState()
            )


def test_an_axis_without_a_mesh_is_named():
    tx = optimx.in_stacks(optimx.ema(0.9), mesh_axis="data")
    with pytest.raises(ValueError, match=r"axis is named 'data'; there is no mesh"):
        tx.init({"w": jnp.ones((2, 2))})


@each_kind
def test_the_ambient_mesh_serves_leaves_without_one(kind):
    tx = optimx.orthogonalize()
    grads = {key: alone(1)[key] for key in ("alone", "whole", "layers")}
    with jax.set_mesh(mesh(kind)):
        update = jax.jit(lambda u: tx.update(u, optax.EmptyState())[0])
        text = update.lower(grads).compile().as_text()
        found = update(grads)
    assert "shard_map" in text
    for key, x in found.items():
        expected = ran_alone("orthogonalize")[0][key]
        # Roundings, 6e-8, of a program compiled otherwise.
        np.testing.assert_allclose(x, expected, rtol=0, atol=1e-5)


@each_kind
@pytest.mark.parametrize("name", ["shampoo", "soap"])
def test_factors_are_refreshed_with_an_ambient_mesh(kind, name):
    """Whose type constants have that they meet inside, where axes are Explicit."""
    tx = optimx.registry.build(name, learning_rate=0.1)
    own = {key: alone(1)[key] for key in ("alone", "both")}
    places = {key: shardings(kind)[key] for key in own}
    expected, _ = jax.jit(tx.update)(own, tx.init(own), own)
    with jax.set_mesh(mesh(kind)):
        grads = jax.device_put(own, places)
        promised = optimx.state_shardings(tx, grads)
        state = jax.jit(tx.init, out_shardings=promised)(grads)
        update = jax.jit(tx.update, out_shardings=(places, promised))
        found, _ = update(grads, state, grads)
    for key, x in found.items():
        np.testing.assert_allclose(x, expected[key], rtol=1e-3, atol=1e-4)


@each_kind
def test_a_mesh_of_one_device_splits_nothing(kind):
    one = jax.make_mesh(
        (1, 1), ("fsdp", "tensor"), (KINDS[kind],) * 2, devices=jax.devices()[:1]
    )
    own = {key: NamedSharding(one, spec) for key, (_, spec) in SPREAD.items()}
    grads = jax.device_put(alone(1), own)
    tx = optimx.orthogonalize()
    update = jax.jit(lambda u: tx.update(u, optax.EmptyState())[0])
    assert "shard_map" not in update.lower(grads).compile().as_text()
    for key, x in update(grads).items():
        expected = ran_alone("orthogonalize")[0][key]
        # Roundings, 6e-8, of a program compiled otherwise.
        np.testing.assert_allclose(x, expected, rtol=0, atol=1e-5)


@each_kind
@pytest.mark.parametrize("manual", [{"fsdp", "tensor"}, {"fsdp"}])
def test_inside_a_map_of_the_callers_it_works_on_what_is_there(kind, manual):
    """Data-parallel models, each with its own matrices: no device asks another."""
    if len(manual) == 1 and kind == "auto" and jax.version.__version_info__ < (0, 8):
        pytest.skip("this JAX knows no constraints inside a map of some axes")
    tx = RULES["both"]()
    many = np.stack([alone(seed)["columns"] for seed in range(4)])

    def local(x):
        x = {"one": x[0], "two": 2 * x[0]}
        return jax.tree.map(lambda u: u[None], tx.update(x, tx.init(x))[0])

    mapped = jax.shard_map(
        local,
        mesh=mesh(kind),
        in_specs=P("fsdp"),
        out_specs=P("fsdp"),
        axis_names=manual,
        check_vma=False,
    )
    x = jax.device_put(many, NamedSharding(mesh(kind), P("fsdp")))
    with jax.set_mesh(mesh(kind)):
        run = jax.jit(mapped)
        found = jax.tree.map(np.asarray, run(x))
        if len(manual) == 2:
            assert communication(run.lower(x).compile().as_text())[2] == 0
    update = jax.jit(lambda x: tx.update(x, tx.init(x))[0])
    for i, one in enumerate(many):
        expected = update({"one": jnp.asarray(one), "two": 2 * jnp.asarray(one)})
        for key, y in expected.items():
            # Roundings, 6e-8, of a program compiled otherwise.
            np.testing.assert_allclose(found[key][i], y, rtol=0, atol=1e-5)


@each_kind
def test_extra_arguments_are_split_alike(kind):
    """Of a rule that divides what it is given by what is observed, on each device."""

    def update(updates, state, params=None, *, observed, **extra_args):
        moved = jax.tree.map(lambda u, o, p: u / o + p, updates, observed, params)
        return jax.tree.map(lambda x: x * extra_args["value"], moved), state

    def init(params):
        return optax.EmptyState()

    tx = optimx.in_stacks(optax.GradientTransformationExtraArgs(init, update))

    @functools.partial(jax.jit, out_shardings=shardings(kind))
    def run(u, o, p, value):
        return tx.update(u, tx.init(u), p, observed=o, value=value)[0]

    u, p = alone(1), alone(3)
    o = {key: 1 + x**2 for key, x in alone(2).items()}
    put = functools.partial(jax.device_put, device=shardings(kind))
    found = run(put(u), put(o), put(p), jnp.float32(3))
    for key, x in found.items():
        # Three roundings, 6e-8.
        np.testing.assert_allclose(x, 3 * (u[key] / o[key] + p[key]), 1e-5, 1e-6)
