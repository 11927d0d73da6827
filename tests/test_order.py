import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optimx
from optimx import _order
from optimx.training.planning.collectives import collectives

STRANGE = [0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 1e-45, -1e-40, 3.0, -3e38]
MARS = ["mars_adamw", "mars_lion", "mars_ademamix", "mars_came", "mars_m"]


def bits(tree):
    def of(x):
        x = np.asarray(x)
        return x.view(np.uint8).tolist() if x.ndim else x.tobytes()

    return jax.tree.map(of, tree)


def chain(dtype=None):
    return optimx.stages(
        correct=optimx.add_gradient_difference(0.5, accumulator_dtype=dtype),
        average=optimx.ema(0.9),
    )


def stored(tx, grads, state):
    return jax.jit(tx.update)(grads, state)[1]["correct"].previous


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("moment", [np.nan, np.inf, -1.0])
def test_what_is_stored_is_the_gradient_bit_for_bit(dtype, moment):
    grads = jnp.array(STRANGE).astype(dtype)
    tx = chain(dtype)
    state = tx.init(grads)
    average = jnp.full_like(state["average"].average, moment)
    state["average"] = state["average"]._replace(average=average)
    assert bits(stored(tx, grads, state)) == bits(grads)


@pytest.mark.parametrize("name", MARS)
def test_nothing_else_changes(name, monkeypatch):
    """The whole update, against the same chain written in any order."""
    params = {"w": jnp.ones((6, 8)), "b": jnp.ones(8), "s": jnp.ones(())}
    grads = [
        jax.tree.map(lambda p, i=i: jnp.sin(i + jnp.arange(p.size)).reshape(p.shape), p)
        for i, p in enumerate([params] * 3)
    ]

    def run():
        tx = optimx.registry.build(name, learning_rate=0.1)
        step, state = jax.jit(tx.update), tx.init(params)
        for g in grads:
            updates, state = step(g, state, params)
        return updates, state

    tied = run()
    monkeypatch.setattr(_order, "settled", lambda states: states)
    assert bits(tied) == bits(run())


def written(tx, params):
    """The optimized program of a donated step, and its temporaries in bytes."""

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(tx.init, params)
    jitted = jax.jit(step, donate_argnums=(0, 1))
    compiled = jitted.lower(params, state, params).compile()
    return compiled.as_text(), compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.skipif(
    jax.version.__version_info__ < (0, 8),
    reason="the compiler of jax 0.7 stores the squares of the norm",
)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: tx,
        optimx.matrices_only,
        lambda tx: optimx.per_layer(tx, "w"),
        lambda tx: optimx.in_float32(tx),
        lambda tx: optax.chain(optax.clip(1.0), tx),
    ],
    ids=["bare", "matrices_only", "per_layer", "in_float32", "chain"],
)
def test_nothing_is_copied(wrap):
    shape = (2, 256, 512)
    params = {"w": jax.ShapeDtypeStruct(shape, jnp.float32)}
    _, temporary = written(wrap(optimx.mars_adamw(0.1)), params)
    assert temporary < 0.01 * functools.reduce(operator.mul, shape) * 4


def test_the_tie_reads_nothing_elsewhere():
    """On a mesh each device waits for its own numbers."""
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)
    sharding = NamedSharding(mesh, P("fsdp", "tensor"))
    tx = chain()
    grads = jax.device_put(jnp.ones((64, 64)), sharding)
    state = jax.jit(tx.init, out_shardings=optimx.state_shardings(tx, grads))(grads)
    compiled = jax.jit(tx.update).lower(grads, state).compile()
    assert not collectives(compiled.as_text())


def test_gradients_laid_out_as_no_moment_is():
    """Explicit axes: replicated gradients beside sharded moments stay so."""
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Explicit,))
    shared, split = (NamedSharding(mesh, spec) for spec in (P(None), P("fsdp")))
    tx = chain()
    with jax.set_mesh(mesh):
        grads = jax.device_put(jnp.arange(64.0), shared)
        state = tx.init(grads)
        average = jax.device_put(state["average"].average, split)
        state["average"] = state["average"]._replace(average=average)
        new = stored(tx, grads, state)
    assert new.sharding.is_fully_replicated
    assert bits(new) == bits(grads)


def test_derivatives_pass():
    tx = chain()

    def final(x):
        state = tx.init(x)
        for _ in range(2):
            updates, state = jax.jit(tx.update)(x, state)
        return jnp.sum(state["correct"].previous * updates)

    x = jnp.array([2.0, -1.0])
    slope = jax.grad(final)(x)
    step = 1e-2
    for i in range(2):
        e = jnp.zeros(2).at[i].set(step)
        numeric = (final(x + e) - final(x - e)) / (2 * step)
        np.testing.assert_allclose(slope[i], numeric, rtol=1e-3)


def test_leaves_of_all_kinds():
    params = {
        "none": None,
        "empty": jnp.zeros((0, 3)),
        "scalar": jnp.ones(()),
        "complex": jnp.array([1 + 2j, -0.0 - 1j], jnp.complex64),
    }
    tx = chain()
    with jax.numpy_dtype_promotion("standard"):
        assert bits(stored(tx, params, tx.init(params))) == bits(params)


def test_without_a_trace_nothing_is_added():
    tx = chain()
    grads = jnp.ones(3)
    assert tx.update(grads, tx.init(grads))[1]["correct"].previous is grads
