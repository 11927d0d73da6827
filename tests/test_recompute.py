import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optimx
from optimx import _recompute
from optimx.training.planning.collectives import collectives

RULES = ["came", "mars_came", "ademamix_came", "mars_adamw_exact"]
PARAMS = {"w": jnp.ones((6, 8)), "b": jnp.ones(8), "s": jnp.ones(()), "none": None}


def gradient(seed, params=PARAMS):
    def leaf(p):
        numbers = np.random.default_rng(seed).normal(size=p.shape)
        return jnp.asarray(numbers, p.dtype)

    return jax.tree.map(leaf, params)


def run(tx, extra, wrap=lambda f: f, params=PARAMS):
    step, state = wrap(tx.update), tx.init(params)
    for seed in range(3):
        g = gradient(seed, params)
        updates, state = step(g, state, params, **{k: g for k in extra})
    return updates, state


@pytest.mark.parametrize("name", RULES)
def test_the_numbers_are_the_chain_s(name):
    """Without a trace the chain runs as it is written, one operation at a time."""
    tx = optimx.registry.build(name, learning_rate=0.1)
    extra = optimx.registry.get(name).needs
    chain, fast = run(tx, extra), run(tx, extra, jax.jit)
    assert jax.tree.structure(chain) == jax.tree.structure(fast)
    for one, other in zip(*map(jax.tree.leaves, (chain, fast)), strict=True):
        assert (one.dtype, one.weak_type) == (other.dtype, other.weak_type)
        # Rounding, which fusion moves; a residual is a difference of near numbers.
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-8)


def squares(updates, state, params=None, **extra_args):
    """Two sums of one expression, which also is the result."""
    scaled = updates * 3.0
    square = scaled * scaled
    return scaled, (jnp.sum(square, 0), jnp.sum(square, 1))


def temporaries(update, shape=(256, 512)):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    compiled = jax.jit(lambda g: update(g, None)).lower(x).compile()
    return compiled.memory_analysis().temp_size_in_bytes / (4 * x.size)


@pytest.mark.skipif(
    jax.version.__version_info__ < (0, 8),
    reason="the compiler of jax 0.7 stores what any sum adds up",
)
def test_nothing_of_the_size_of_a_leaf_is_stored():
    tx = optax.GradientTransformationExtraArgs(lambda params: None, squares)
    assert temporaries(tx.update) >= 1
    assert temporaries(_recompute.recomputing(tx).update) < 0.02


def test_old_state_is_read_once():
    """What was computed from it, and has two readers, is stored and read from there."""

    def update(updates, state, params=None, **extra_args):
        difference = (updates - state) * 0.5
        return difference / jnp.sum(difference * difference), updates

    tx = _recompute.recomputing(
        optax.GradientTransformationExtraArgs(lambda params: params, update)
    )
    x = jnp.ones((8, 4))
    program = jax.make_jaxpr(tx.update)(x, x)
    (choice,) = (e for e in program.eqns if e.primitive.name == "cond")
    for branch in choice.params["branches"]:
        names = [equation.primitive.name for equation in branch.jaxpr.eqns]
        assert names.count("sub") == 1


def test_calls_and_loops_run_as_they_are():
    @jax.jit
    def inner(x):
        return jnp.where(x > 0, x, -x)

    def update(updates, state, params=None, *, weight, **extra_args):
        looped = jax.lax.fori_loop(0, 3, lambda i, x: x + i, inner(updates))
        total = jnp.sum(optax.safe_norm(looped, 1e-3) * looped * weight, 0)
        return looped, total

    tx = optax.GradientTransformationExtraArgs(lambda params: None, update)
    x = gradient(0)["w"]
    plain = tx.update(x, None, weight=jnp.float32(2))
    again = jax.jit(_recompute.recomputing(tx).update)(x, None, weight=jnp.float32(2))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), plain, again)


def test_what_is_no_array_reaches_the_chain():
    def update(updates, state, params=None, *, value_fn, **extra_args):
        return value_fn(updates), state

    tx = _recompute.recomputing(
        optax.GradientTransformationExtraArgs(lambda params: None, update)
    )
    step = jax.jit(lambda g: tx.update(g, None, value_fn=jnp.sin)[0])
    assert step(jnp.ones(2)).shape == (2,)


def test_layers_and_derivatives():
    """Mapped over layers, and differentiated through two updates."""
    tx = optimx.per_layer(optimx.came(0.1), "w")
    params = {"w": gradient(0)["w"].reshape(2, 3, 8), "b": jnp.ones(8)}

    def final(params):
        state, total = tx.init(params), 0.0
        for _ in range(2):
            updates, state = jax.jit(tx.update)(params, state, params)
            total = total + jnp.sum(jnp.sin(updates["w"]))
        return total

    slope = jax.grad(final)(params)["w"]
    way = gradient(1)["w"].reshape(2, 3, 8)
    ahead, behind = (
        final({**params, "w": params["w"] + e * way}) for e in (1e-2, -1e-2)
    )
    np.testing.assert_allclose(jnp.vdot(slope, way), (ahead - behind) / 2e-2, rtol=0.02)


@pytest.mark.parametrize("name", ["came", "mars_came"])
def test_devices_exchange_no_more(name, monkeypatch):
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)
    sharding = NamedSharding(mesh, P("fsdp", "tensor"))
    params = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=sharding)

    def exchanged():
        tx = optimx.registry.build(name, learning_rate=0.1)
        shardings = optimx.state_shardings(tx, params)
        state = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            jax.eval_shape(tx.init, params),
            shardings,
        )
        step = jax.jit(tx.update, out_shardings=(sharding, shardings))
        text = step.lower(params, state, params).compile().as_text()
        return sum(collective.sent for collective in collectives(text))

    apart = exchanged()
    monkeypatch.setattr(_recompute, "_traced", lambda leaves: False)
    assert apart <= exchanged()
