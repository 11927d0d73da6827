"""Every optimizer over eight devices, with Auto and with Explicit axes.

Sharded equals unsharded, and the state lives where `state_shardings` said.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optimx
from tests.contract import _trees
from tests.contract._trees import every

SHAPES = {
    "scalar": (),
    "vector": (8,),
    "whole": (8, 8),
    "rows": (8, 8),
    "columns": (8, 8),
    "both": (8, 8),
    "flat": (8, 8),
    "stack": (2, 8, 8),
    "layers": (4, 7, 8),
}

SPECS = {
    "scalar": P(),
    "vector": P("fsdp"),
    "whole": P(None, None),
    "rows": P("fsdp", None),
    "columns": P(None, "tensor"),
    "both": P("fsdp", "tensor"),
    "flat": P(("fsdp", "tensor"), None),
    "stack": P(None, "fsdp", "tensor"),
    "layers": P("fsdp", None, "tensor"),
}

# The part of each leaf that one device of the (4, 2) mesh holds.
SHARDS = {
    "scalar": (),
    "vector": (2,),
    "whole": (8, 8),
    "rows": (2, 8),
    "columns": (8, 4),
    "both": (2, 4),
    "flat": (1, 8),
    "stack": (2, 2, 4),
    "layers": (1, 7, 4),
}

KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}

SEEDS = 1, 2, 3

each_kind = pytest.mark.parametrize("kind", KINDS)


@functools.cache
def mesh(kind):
    return jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(KINDS[kind],) * 2)


def shardings(kind):
    return {key: NamedSharding(mesh(kind), spec) for key, spec in SPECS.items()}


def held(state, key):
    """The leaves of a state that belong to one parameter."""
    return {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if f"['{key}']" in jax.tree_util.keystr(path)
    }


def factored_shard(path, key):
    """What a device holds of a factored row or column."""
    shard = SHARDS[key]
    if len(shard) < 2:
        return shard if ".row" in path else ()
    return shard[:-1] if ".row" in path else (*shard[:-2], shard[-1])


@functools.cache
def trained(name, kind):
    """Sharded states: before, after three steps, and what was promised."""
    tx = _trees.build(name)
    params = jax.device_put(_trees.draw(0, SHAPES), shardings(kind))
    promised = optimx.state_shardings(tx, params)
    init = jax.jit(tx.init, out_shardings=promised)
    step = jax.jit(_trees.stepping(tx), out_shardings=(shardings(kind), promised))
    first = state = init(params)
    for seed in SEEDS:
        grads = jax.device_put(_trees.draw(seed, SHAPES), shardings(kind))
        params, state = step(params, state, grads, _trees.extra(name, grads))
    return first, (params, state), promised


@every
@each_kind
def test_sharded_equals_unsharded(name, kind):
    _, (params, state), _ = trained(name, kind)
    tx, step = _trees.plain(name)
    own = _trees.draw(0, SHAPES)
    expected = own, tx.init(own)
    for seed in SEEDS:
        grads = _trees.draw(seed, SHAPES)
        expected = step(*expected, grads, _trees.extra(name, grads))
    tolerance = {"rtol": 1e-5, "atol": 2e-6}
    if _trees.turns(name):
        tolerance = _trees.OF_MATRICES
    # CAME's first steps are ten times AdamW's and partly cancel: what is left of
    # parameters of order 4 carries their rounding, 6e-8 of 4 in each of ten ops.
    _trees.assert_same(params, expected[0], **tolerance)
    # Stacks are filled up to a multiple of the devices; signs of bases are free.
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(state),
        jax.tree.leaves(expected[1]),
        strict=True,
    ):
        where = jax.tree_util.keystr(path)
        x, y = np.asarray(x), np.asarray(y)
        if _trees.in_stacks(where):
            x = x[: len(y)]
        if "_basis" in where:
            x, y = np.abs(x), np.abs(y)
        np.testing.assert_allclose(x, y, err_msg=where, **tolerance)


@every
@each_kind
def test_state_lives_where_it_was_said(name, kind):
    first, (params, after), promised = trained(name, kind)
    placed = jax.tree.leaves(promised)
    for state in (first, after):
        for (path, x), sharding in zip(
            jax.tree_util.tree_leaves_with_path(state), placed, strict=True
        ):
            where = jax.tree_util.keystr(path)
            assert x.sharding.is_equivalent_to(sharding, x.ndim), where
    for key, x in params.items():
        assert x.sharding.is_equivalent_to(shardings(kind)[key], x.ndim), key


@every
@each_kind
@pytest.mark.parametrize("key", SHAPES)
def test_state_is_split_as_its_parameter(name, kind, key):
    """Not silently replicated: a device holds its part of each moment."""
    first, (_, after), _ = trained(name, kind)
    for state in (first, after):
        for path, x in held(state, key).items():
            parts = {shard.data.shape for shard in x.addressable_shards}
            if _trees.in_stacks(path):
                # Seven kernels of one shape, or four, padded to one per device.
                assert parts == {(1, *x.shape[1:])}, path
                continue
            factored = ".row" in path or ".column" in path
            if factored and jax.version.__version_info__ < (0, 8):
                # The first JAX with explicit sharding drops it in reductions.
                continue
            expected = factored_shard(path, key) if factored else SHARDS[key]
            assert parts == {expected}, path
            assert len(x.addressable_shards) == 8, path


@every
@each_kind
def test_shardings_follow_from_shapes_alone(name, kind):
    """A plan needs no arrays: shapes with shardings give the same answer."""
    tx = _trees.build(name)
    _, _, promised = trained(name, kind)
    shapes = {
        key: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=shardings(kind)[key])
        for key, shape in SHAPES.items()
    }
    assert optimx.state_shardings(tx, shapes) == promised
