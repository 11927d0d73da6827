"""The twins are runs of the trainer, alike up to the injection."""

import jax
import numpy as np
import pytest
from training.small import config

from optimx.bench.claims import twins
from optimx.bench.claims.trainee import Trainee, batches_of, copied, make_loss
from optimx.bench.claims.twins import HELD_OUT_SEED, follow
from optimx.training.data import load_dataset

STEPS, AT, EVERY = 8, 4, 2


def whole(config, batches):
    """Parameters after each step of a run from its start."""
    trainee = Trainee(config)
    states = trainee.states(batches, trainee.begin(), range(config.train.steps))
    return [copied(state.params) for state, _ in states]


@pytest.mark.parametrize("name", ["ademamix", "mars_adamw_exact"])
def test_twins_are_identical_before_the_injection(corpus, name, monkeypatch):
    monkeypatch.setattr(twins, "_NEAR", 1)
    run = config(corpus, optimizer__name=name, train__steps=STEPS)
    data = load_dataset(run.data, run.model.vocab)
    ordinary = batches_of(run, data)
    seed = run.train.seed + HELD_OUT_SEED
    held = batches_of(run, data, seed=seed, held_out=True)(0)
    plain = whole(run, ordinary)
    other = whole(run, lambda index: held if index == AT else ordinary(index))
    for done in range(1, STEPS + 1):
        equal = [
            np.array_equal(*both)
            for both in zip(
                *(jax.tree.leaves(one[done - 1]) for one in (plain, other)), strict=True
            )
        ]
        # The step AT, from 0, is the first that differs.
        assert all(equal) if done <= AT else not any(equal), done

    ages, with_it, without = follow(run, data, AT, EVERY)
    assert ages.tolist() == [1, 2, 4]
    loss = jax.jit(make_loss(run))
    for losses, params in ((with_it, other), (without, plain)):
        expected = [float(loss(params[AT + age - 1], held)) for age in ages]
        assert losses.tolist() == expected


def test_the_batch_is_held_out_and_its_own_update_helps(corpus):
    run = config(corpus, optimizer__name="adamw", train__steps=STEPS)
    data = load_dataset(run.data, run.model.vocab)
    held = batches_of(run, data, seed=9, held_out=True)(0)
    window = held[0, 0]
    known = np.lib.stride_tricks.sliding_window_view(data.validation, len(window))
    assert (known == window).all(axis=1).any()
    _, with_it, without = follow(run, data, AT, EVERY)
    assert without[0] - with_it[0] > 0
