"""The rules of ``instability``, and how spikes are counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.small import config

import optimx
from optimx.bench.claims.instability import ADAFACTOR, follow, rules
from optimx.bench.claims.trainee import Trainee, batches_of
from optimx.training.data import load_dataset

NUMBERS = optimx.registry.hyperparameters("came") | {"b3": 0.99, "weight_decay": 0.3}


def test_without_confidence_is_came_on_what_is_no_matrix():
    """There CAME takes the momentum itself; matrices differ."""
    made = rules(NUMBERS, 0.1)
    params = {"bias": jnp.ones(4), "kernel": jnp.ones((4, 6))}
    generator = np.random.default_rng(0)
    states = {name: tx.init(params) for name, tx in made.items()}
    for _ in range(3):
        grads = jax.tree.map(
            lambda p: jnp.asarray(generator.normal(size=p.shape), p.dtype), params
        )
        moved = {}
        for name, tx in made.items():
            moved[name], states[name] = tx.update(grads, states[name], params)
    same = [moved[name]["bias"] for name in ("came", ADAFACTOR)]
    np.testing.assert_allclose(*same, rtol=1e-6)
    assert not np.allclose(moved["came"]["kernel"], moved[ADAFACTOR]["kernel"])
    # No decay: all is proportional to the rate.
    again = optimx.came(0.1, b3=0.99)
    updates, _ = again.update(grads, again.init(params), params)
    first, _ = made["came"].update(grads, made["came"].init(params), params)
    np.testing.assert_allclose(first["kernel"], updates["kernel"], rtol=1e-6)


@pytest.mark.parametrize("name", ["adamw", ADAFACTOR, "came"])
def test_no_rule_decays_weights(name):
    tx = rules(NUMBERS, 0.1)[name]
    grads = {"bias": jnp.ones(4), "kernel": jnp.eye(4)}
    huge = jax.tree.map(lambda g: g + 1e6, grads)
    expected, _ = tx.update(grads, tx.init(grads), grads)
    updates, _ = tx.update(grads, tx.init(grads), huge)
    jax.tree.map(np.testing.assert_array_equal, updates, expected)


def test_a_followed_run_is_the_trainers(corpus):
    came = config(
        corpus, optimizer__name="came", optimizer__weight_decay=0.0, train__steps=8
    )
    data = load_dataset(came.data, came.model.vocab)
    found = follow("came", came, data, came.optimizer.rule.learning_rate)
    trainee = Trainee(came)
    batches = batches_of(came, data)
    losses = [
        float(metrics["loss"])
        for _, metrics in trainee.states(batches, trainee.begin(), range(8))
    ]
    np.testing.assert_allclose(found["series"]["loss"], losses, rtol=1e-6)
    rms = found["series"]["rms"]
    assert rms[0] == 0  # a learning rate of 0
    # Clipped to an rms of 1 and averaged, then amplified by 1 / sqrt(1 - b3^t).
    assert 1 < rms[1] < 1 / (1 - came.optimizer.rule.hyperparameters["b3"] ** 2) ** 0.5
    assert f"{ADAFACTOR}/rms" in found["series"]
    assert found["series"]["adamw/rms"][1] > 1


def test_a_direction_does_not_depend_on_the_rate(corpus):
    """The first update of two runs: the same gradients, another rate."""
    came = config(corpus, optimizer__name="came", schedule__warmup=0, train__steps=1)
    data = load_dataset(came.data, came.model.vocab)
    low, high = (follow(ADAFACTOR, came, data, rate) for rate in (1e-3, 4e-3))
    first = [run["series"]["rms"][0] for run in (low, high)]
    assert first[0] == pytest.approx(first[1], rel=1e-5)
    assert first[0] == pytest.approx(0.1, rel=0.1)  # 1 - b1 of rms 1 at most
