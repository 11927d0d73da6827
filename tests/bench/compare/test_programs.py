"""Runs of one program are the runs that each would be by itself."""

import dataclasses

import jax
import numpy as np
import pytest
from training.small import config

from optimx.bench.compare.programs import alone, common, state_bytes, together
from optimx.training.data import load_dataset
from optimx.training.parallel.mesh import make_mesh

STEPS = 6


def runs(corpus, **more):
    """Two that differ in all that a program is given."""
    return [
        config(
            corpus,
            optimizer__learning_rate=rate,
            optimizer__weight_decay=decay,
            train__seed=seed,
            **more,
        )
        for rate, decay, seed in ((1e-3, 0.1, 0), (1e-2, 0.05, 7))
    ]


def losses(program):
    state, found = program.state(), []
    for index in range(STEPS):
        state, metrics = program.step(state, *program.inputs(index))
        found.append(
            [np.asarray(metrics[key]) for key in ("loss", "learning_rate", "grad_norm")]
        )
    return np.asarray(found), np.asarray(program.evaluate(state.params))


@pytest.mark.parametrize(
    "more",
    [
        {"optimizer__name": "mars_adamw_exact"},
        {"optimizer__name": "adamw", "train__accumulation": 2},
    ],
    ids=lambda more: more["optimizer__name"],
)
def test_a_run_among_others_is_the_run_by_itself(corpus, more):
    configs = runs(corpus, **more)
    data = load_dataset(configs[0].data, configs[0].model.vocab)
    assert common(configs[0]) == common(configs[1])
    metrics, last = losses(together(configs, data))
    mesh = make_mesh(configs[0].mesh)
    for index, one in enumerate(configs):
        with jax.set_mesh(mesh):
            expected, expected_last = losses(alone(one, data, mesh))
        np.testing.assert_allclose(metrics[:, 0, index], expected[:, 0], rtol=1e-5)
        np.testing.assert_allclose(metrics[:, 1, index], expected[:, 1], rtol=1e-6)
        np.testing.assert_allclose(metrics[:, 2, index], expected[:, 2], rtol=1e-3)
        np.testing.assert_allclose(last[index], expected_last, rtol=1e-5)
    # They differ, or the comparison would prove nothing.
    assert len(np.unique(metrics[-1, 0])) == len(configs)


def test_what_makes_another_program(corpus):
    usual = config(corpus, optimizer__name="adamw")
    for other in (
        config(corpus, optimizer__name="adamw", optimizer__b2=0.9),
        config(corpus, optimizer__name="adamw", optimizer__weight_decay=0.0),
        config(corpus, optimizer__name="adamw", train__steps=9),
    ):
        assert common(other) != common(usual)


def test_bytes_of_state(corpus):
    usual = config(corpus, optimizer__name="adamw")
    exact = config(corpus, optimizer__name="mars_adamw_exact")
    names = {"adamw": usual, "exact": exact}
    sizes = {name: state_bytes(one) for name, one in names.items()}
    # Two moments; and a stored gradient beside them.
    parameters = (sizes["exact"] - sizes["adamw"]) / 4
    assert sizes["adamw"] == pytest.approx(8 * parameters, rel=1e-2)
    assert dataclasses.asdict(usual.model) == dataclasses.asdict(exact.model)
