import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimx.training.network import model
from optimx.training.network.layers import apart, together
from optimx.training.optimizer import build_optimizer
from training.small import config


def tokens(chosen):
    rng = np.random.default_rng(0)
    shape = (4, chosen.data.context + 1)
    return rng.integers(0, chosen.model.vocab, shape).astype(np.int32)


def scanned(chosen):
    return dataclasses.replace(
        chosen, model=dataclasses.replace(chosen.model, scan=True)
    )


def loss_and_gradient(chosen, params):
    def loss(params):
        return model.mean_loss(chosen.model, params, tokens(chosen), jnp.float32)

    return jax.jit(jax.value_and_grad(loss))(params)


def close(ours, theirs, **tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **tolerance), ours, theirs
    )


def test_a_scanned_model_is_the_same_model(corpus):
    chosen = config(corpus, model__layers=3)
    params, stacked = (model.init(c.model, 0) for c in (chosen, scanned(chosen)))
    close(apart(stacked), params, rtol=0)
    close(together(params, stacked), stacked, rtol=0)
    loss, gradient = loss_and_gradient(chosen, params)
    again, other = loss_and_gradient(scanned(chosen), stacked)
    np.testing.assert_allclose(again, loss, rtol=1e-6)
    close(apart(other), gradient, atol=1e-6)


@pytest.mark.parametrize("remat", ["dots", "full"])
@pytest.mark.parametrize("scan", ["false", "true"])
def test_computing_again_changes_nothing(corpus, scan, remat):
    plain = config(corpus, model__layers=2, model__scan=scan)
    again = config(corpus, model__layers=2, model__scan=scan, model__remat=remat)
    params = model.init(plain.model, 0)
    for ours, theirs in zip(
        loss_and_gradient(again, params), loss_and_gradient(plain, params), strict=True
    ):
        close(ours, theirs, atol=1e-6)


def test_computing_again_takes_less_memory(corpus):
    def temporary(remat):
        chosen = config(
            corpus,
            model__layers=8,
            model__scan="true",
            model__remat=remat,
            model__context=64,
            model__width=64,
        )
        params = model.parameter_shapes(chosen.model)
        batch = jax.ShapeDtypeStruct((32, 65), jnp.int32)

        def loss(params, batch):
            return model.mean_loss(chosen.model, params, batch, jnp.float32)

        step = jax.jit(jax.grad(loss)).lower(params, batch).compile()
        return step.memory_analysis().temp_size_in_bytes

    none, dots, full = map(temporary, ("none", "dots", "full"))
    assert full < dots < none


@pytest.mark.parametrize("name", ["mars_adamw", "came", "muon", "soap"])
def test_layers_of_a_scan_are_leaves_of_their_own(corpus, name):
    chosen = config(corpus, model__layers=3, optimizer__name=name)
    params = model.init(chosen.model, 0)
    stacked = model.init(scanned(chosen).model, 0)

    def run(params, stacked):
        tx = build_optimizer(chosen.optimizer, chosen.schedule, 8, stacked=stacked)

        @jax.jit
        def step(params, state):
            # Any gradients will do that are not the same at each step.
            gradients = jax.tree.map(jnp.cos, params)
            updates, state = tx.update(gradients, state, params)
            return jax.tree.map(jnp.add, params, updates), state

        state = tx.init(params)
        for _ in range(4):
            params, state = step(params, state)
        return params

    ours, theirs = apart(run(stacked, True)), run(params, False)
    close(ours, theirs, atol=1e-6)
    moved = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), theirs, params)
    assert min(jax.tree.leaves(moved)) > 1e-5
