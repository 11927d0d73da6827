import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optimx


def mesh_of(*axis_types, devices=None):
    return jax.make_mesh(
        (4, 2), ("fsdp", "tensor"), axis_types=axis_types, devices=devices
    )


@pytest.fixture(params=[AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def mesh(request):
    return mesh_of(request.param, request.param)


def placed(mesh, shape, spec):
    return jax.device_put(jnp.ones(shape), NamedSharding(mesh, spec))


def specs(shardings):
    """Specs without trailing None, which say the same."""

    def short(sharding):
        spec = tuple(sharding.spec)
        while spec and spec[-1] is None:
            spec = spec[:-1]
        return spec

    return jax.tree.map(short, shardings)


def test_moments_follow_and_counters_do_not(mesh):
    params = {"w": placed(mesh, (8, 4), P("fsdp", "tensor"))}
    shardings = optimx.state_shardings(optimx.adamw(0.1), params)["precondition"]
    assert specs(shardings.direction.average) == {"w": ("fsdp", "tensor")}
    assert specs(shardings.by.second_moment) == {"w": ("fsdp", "tensor")}
    assert specs(shardings.direction.count) == ()
    for sharding in jax.tree.leaves(shardings):
        assert sharding.mesh == mesh


@pytest.mark.skipif(
    jax.version.__version_info__ < (0, 8),
    reason="the first JAX with explicit sharding drops it in reductions",
)
def test_factors_keep_the_axes_that_are_left(mesh):
    params = {"w": placed(mesh, (2, 8, 4), P(None, "fsdp", "tensor"))}
    state = optimx.state_shardings(optimx.scale_by_factored_rms(0.9), params)
    assert specs(state.row) == {"w": (None, "fsdp")}
    assert specs(state.column) == {"w": (None, "tensor")}


def test_follows_through_wrappers(mesh):
    params = {
        "blocks": placed(mesh, (4, 8, 4), P(None, "fsdp", "tensor")),
        "gain": placed(mesh, (8,), P("fsdp")),
    }
    tx = optimx.per_layer(optimx.in_float32(optimx.ema(0.9)), "blocks")
    parts = optimx.state_shardings(tx, params).inner_states
    stacked = parts["stacked"].inner_state
    assert specs(stacked.average["blocks"]) == (None, "fsdp", "tensor")
    assert specs(stacked.count) == ()
    assert specs(parts["single"].inner_state.average["gain"]) == ("fsdp",)

    init = jax.jit(tx.init, out_shardings=optimx.state_shardings(tx, params))
    average = init(params).inner_states["stacked"].inner_state.average["blocks"]
    assert {shard.data.shape for shard in average.addressable_shards} == {(4, 2, 2)}


def test_serves_transformations_of_optax(mesh):
    params = {"w": placed(mesh, (8, 4), P("fsdp"))}
    shardings = optimx.state_shardings(optax.adam(0.1), params)
    assert specs(shardings[0].mu) == specs(shardings[0].nu) == {"w": ("fsdp",)}
    assert specs(shardings[0].count) == ()


def test_nothing_is_computed(mesh):
    """Parameters of 32 TB, of which there are only shapes."""
    shape = jax.ShapeDtypeStruct(
        (2**22, 2**21), jnp.float32, sharding=NamedSharding(mesh, P("fsdp", "tensor"))
    )
    state = optimx.state_shardings(optimx.ema(0.9), {"w": shape})
    assert specs(state.average) == {"w": ("fsdp", "tensor")}


def test_without_it_auto_axes_replicate():
    """Why the function exists; once this fails, JAX propagates by itself."""
    mesh = mesh_of(AxisType.Auto, AxisType.Auto)
    params = placed(mesh, (8, 4), P("fsdp", "tensor"))
    tx = optimx.ema(0.9)
    bare = jax.jit(tx.init)(params).average
    assert bare.sharding.is_fully_replicated
    said = jax.jit(tx.init, out_shardings=optimx.state_shardings(tx, params))
    assert not said(params).average.sharding.is_fully_replicated


def test_explicit_axes_propagate_by_themselves():
    mesh = mesh_of(AxisType.Explicit, AxisType.Explicit)
    params = placed(mesh, (8, 4), P("fsdp", "tensor"))
    tx = optimx.ema(0.9)
    promised = optimx.state_shardings(tx, params)
    with jax.set_mesh(mesh):
        state = jax.jit(tx.init)(params)
    assert (
        specs(state.average.sharding) == specs(promised.average) == ("fsdp", "tensor")
    )


@pytest.mark.parametrize(
    "leaf", [np.ones(3), jnp.ones(3), jax.ShapeDtypeStruct((3,), jnp.float32)]
)
def test_parameters_without_a_mesh_are_named(leaf):
    with pytest.raises(ValueError, match=r"state_shardings: parameter 'a/b' must have"):
        optimx.state_shardings(optimx.ema(0.9), {"a": {"b": leaf}})


def test_two_meshes_are_named():
    other = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    params = {
        "a": placed(mesh_of(AxisType.Auto, AxisType.Auto), (8,), P("fsdp")),
        "b": placed(other, (8,), P("data")),
    }
    with pytest.raises(ValueError, match=r"one mesh, got 2: 'a' on .*'b' on "):
        optimx.state_shardings(optimx.ema(0.9), params)


def test_no_parameters_have_no_mesh():
    with pytest.raises(ValueError, match="on one mesh, got 0"):
        optimx.state_shardings(optimx.ema(0.9), {})
