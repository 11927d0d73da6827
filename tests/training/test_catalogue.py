import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimx import registry
from optimx.training import catalogue
from optimx.training.optimizer import build_optimizer, resolve_optimizer
from optimx.training.resolve import resolve_schedule
from optimx.training.sections import Schedule
from optimx.training.settings import Setting

PARAMS = {
    "wte": {"embedding": jnp.linspace(-1, 1, 40).reshape(10, 4)},
    "h_0": {"up": {"kernel": jnp.linspace(-1, 1, 24).reshape(4, 6)}},
}


def build(steps=4, **given):
    settings = {key: Setting(value, "test") for key, value in given.items()}
    schedule = resolve_schedule(Schedule(kind="cosine", warmup=1), steps)
    return build_optimizer(resolve_optimizer(settings, steps), schedule, steps)


def test_the_registry_is_in_it_and_stays_as_it_is():
    assert catalogue.names()[: len(registry.names())] == registry.names()
    assert not set(catalogue.PEERS) & set(registry.names())
    assert catalogue.get("lion") is registry.get("lion")


@pytest.mark.parametrize("name", catalogue.PEERS)
def test_optaxs_optimizers_train_with_a_schedule(name):
    tx = build(name=name, learning_rate=0.1)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    # The first step of a warmup is none.
    assert all((np.asarray(u) == 0).all() for u in jax.tree.leaves(updates))


def test_a_keyword_of_optaxs_is_a_key():
    first = Setting("optax.adamw", "test")
    given = {"name": first, "b1": Setting(0.5, "test")}
    rule = resolve_optimizer(given, 10).rule
    ours = catalogue.build(rule.name, learning_rate=0.1, **rule.hyperparameters)
    theirs = optax.adamw(0.1, b1=0.5, b2=0.95, weight_decay=0.1)
    states = [tx.init(PARAMS) for tx in (ours, theirs)]
    found = [
        tx.update(PARAMS, state, PARAMS)[0]
        for tx, state in zip((ours, theirs), states, strict=True)
    ]
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_muons_matrices_are_those_of_the_blocks():
    numbers = catalogue.block_matrices(PARAMS)
    assert numbers["wte"]["embedding"] is None
    assert numbers["h_0"]["up"]["kernel"] == optax.contrib.MuonDimensionNumbers()


def test_a_traced_peak_scales_the_schedule():
    from optimx.training.optimizer import learning_rate_schedule

    for kind in ("cosine", "warmup_stable_decay"):
        schedule = resolve_schedule(Schedule(kind=kind), 20)
        steps = jnp.arange(20)
        known = jax.vmap(learning_rate_schedule(schedule, 3e-3, 20))(steps)

        def traced(peak, schedule=schedule, steps=steps):
            return jax.vmap(learning_rate_schedule(schedule, peak, 20))(steps)

        with jax.numpy_dtype_promotion("standard"):
            found = jax.jit(traced)(3e-3)
        np.testing.assert_allclose(found, known, rtol=1e-6)
