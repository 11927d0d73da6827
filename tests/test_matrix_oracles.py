"""Every optimizer of matrices beside its box in numpy."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimx
from optimx import registry
from tests import runs
from tests.boxes import (
    ADAM,
    DOUBLE,
    MARS,
    MEMORIES,
    SINGLE,
    Case,
    cooling,
    deviation,
    fading,
    fading_gamma,
    signals,
    warmups,
)
from tests.oracles import ademamix, matrices, shampoo, soap

# Two shapes of matrices, one tall and one wide, and no more: each is compiled for
# itself, and that takes the time of these tests.
OBLONG = {
    "scalar": (),
    "norm": {"scale": (5,), "still": (3,)},
    "block": {"kernel": (6, 4), "still": (6, 4)},
    "stack": (3, 6, 4),
    "attention": (2, 3, 2, 4),
}

# SOAP's first basis comes from one gradient. Where a side is longer than the other
# by two or more it has eigenvectors of a repeated eigenvalue zero, of which one
# choice is as good as another and leads elsewhere; by one, there is no choice but
# the sign.
ALMOST_SQUARE = {
    "scalar": (),
    "norm": {"scale": (5,), "still": (3,)},
    "block": {"kernel": (4, 4), "still": (4, 4)},
    "stack": (3, 4, 5),
    "attention": (2, 2, 4, 4),
}

EVERY = {"update_every": 5}

# The boxes know no names of leaves, and refresh every matrix at the first step of
# a cycle and on both of its sides.
BY_RANK = {"labels": optimx.by_rank}
AT_ONCE = BY_RANK | {"spread": False}
BOTH_SIDES = AT_ONCE | {"max_aspect": math.inf}

CASES = {
    "mars_shampoo": Case(
        matrices.mars_shampoo,
        {**MARS, **ADAM},
        fading_gamma,
        ours=BY_RANK,
        shapes=OBLONG,
    ),
    "mars_m": Case(matrices.mars_m, MARS, fading_gamma, ours=BY_RANK, shapes=OBLONG),
    "muon": Case(matrices.muon, {"b1": 0.95}, ours=BY_RANK, shapes=OBLONG),
    "ademamix_muon": Case(
        matrices.ademamix_muon, MEMORIES, warmups, ours=BY_RANK, shapes=OBLONG
    ),
    "mars_ademamix_muon": Case(
        matrices.mars_ademamix_muon,
        {**MEMORIES, **MARS},
        lambda papers: {**warmups(papers), "gamma": fading},
        ours=BY_RANK,
        shapes=OBLONG,
    ),
    "shampoo": Case(
        shampoo.shampoo,
        {"b1": 0.9, "b2": 0.95, "eps": 1e-8, "root_eps": 1e-6, **EVERY},
        ours=AT_ONCE,
        # The first factors are singular. Rounding of 6e-8 of the largest eigenvalue
        # beside a ridge of 1e-6 of it is a percent of the root, whoever takes it;
        # beside one of 1e-3 it is 2e-5.
        single={"root_eps": 1e-3},
        shapes=OBLONG,
    ),
    "soap": Case(
        soap.soap,
        {"b1": 0.9, "b2": 0.95, "eps": 1e-8, **EVERY},
        ours=BOTH_SIDES,
        shapes=ALMOST_SQUARE,
    ),
    "mars_soap": Case(
        soap.mars_soap,
        {**MARS, **ADAM, **EVERY},
        fading_gamma,
        ours=BOTH_SIDES,
        shapes=ALMOST_SQUARE,
    ),
    "ademamix_soap": Case(
        soap.ademamix_soap,
        {**MEMORIES, "b2": 0.95, "eps": 1e-8, **EVERY},
        warmups,
        ours=BOTH_SIDES,
        shapes=ALMOST_SQUARE,
    ),
}

SCHEDULED = [name for name, case in CASES.items() if case.scheduled(ademamix)]


@pytest.mark.parametrize("name", CASES)
def test_optimizer_in_double_precision(name):
    with runs.double_precision():
        assert deviation(name, CASES[name], jnp.float64) <= DOUBLE


@pytest.mark.parametrize("name", SCHEDULED)
def test_optimizer_with_schedules(name):
    with runs.double_precision():
        found = deviation(name, CASES[name], jnp.float64, seed=1, scheduled=True)
    assert found <= DOUBLE


# Newton-Schulz multiplies the rounding of small singular values by up to 3.4^5, 500,
# and bases that of small eigenvalues by the largest over the gap. Matrices of normal
# numbers and these sizes have condition numbers of tens, and keep within SINGLE.
@pytest.mark.parametrize("name", CASES)
def test_optimizer_in_single_precision(name):
    scheduled = name in SCHEDULED
    found = deviation(name, CASES[name], jnp.float32, seed=1, scheduled=scheduled)
    assert found <= SINGLE


@pytest.mark.parametrize("name", ["mars_shampoo", "muon"])
def test_optimizer_of_transposed_kernels(name):
    """Kernels as PyTorch keeps them, outputs first."""
    axes = {"in_axis": -1, "out_axis": -2}
    case = CASES[name]
    case = dataclasses.replace(case, hyper=case.hyper | axes)
    with runs.double_precision():
        assert deviation(name, case, jnp.float64, seed=2) <= DOUBLE


def in_turns(name, shapes):
    """Our trajectory where matrices take turns, the turns, and the oracle's."""
    case = CASES[name]
    params, gradients = signals(3, shapes)
    hyper = case.hyper | {"learning_rate": cooling, "weight_decay": 0.1}
    tx = registry.build(name, **hyper, **case.ours | {"spread": True})
    # The turns are those of stacks: every leaf here is the only one of its shape.
    turn = optax.tree_utils.tree_get(tx.init(runs.as_tree(params, jnp.float64)), "turn")
    turn = jax.tree.map(lambda x: np.asarray(x).reshape(-1), turn)
    expected = jax.tree.map(
        lambda x, g, turn: case.oracle(x, g, phase=turn, **hyper),
        params,
        gradients,
        turn,
    )
    path = runs.trajectory(tx, params, gradients, jnp.float64)
    return params, path, expected, turn


def test_shampoo_in_turns():
    """Each matrix has the roots that the box gives it at the matrix's own step."""
    with runs.double_precision():
        params, path, expected, turn = in_turns(
            "shampoo", {"kernel": (6, 4), "stack": (9, 4, 4)}
        )
    assert {*turn["kernel"], *turn["stack"]} == {*range(5)}
    assert runs.error(params, path, expected) <= DOUBLE


@pytest.mark.parametrize("name", ["soap", "mars_soap"])
def test_soap_in_turns(name):
    with runs.double_precision():
        params, path, expected, turn = in_turns(name, {"stack": (7, 4, 4)})
    assert set(turn["stack"]) == {*range(5)}
    assert runs.error(params, path, expected) <= DOUBLE


def test_soap_of_oblong_matrices_in_turns():
    """From the second step on factors have full rank, and the basis no choice."""
    with runs.double_precision():
        params, path, expected, turn = in_turns("soap", {"stack": (7, 6, 4)})
    late = turn["stack"] > 0
    assert late.sum() == 5
    params, path, expected = params["stack"], path["stack"], expected["stack"]
    found = runs.error(params[late], path[:, late], expected[:, late])
    assert found <= DOUBLE


@pytest.mark.parametrize(
    ("shape", "limits", "sides"),
    [
        ((5, 4), {"max_dim": 4}, (False, True)),
        ((4, 5), {"max_dim": 4}, (True, False)),
        ((8, 4), {"max_aspect": 2.0}, (False, True)),
    ],
)
def test_soap_on_one_side(shape, limits, sides):
    """A side that is too long, or too long beside the other, is not turned."""
    params, gradients = signals(4, {"kernel": shape})
    hyper = CASES["soap"].hyper | {"learning_rate": 0.05, "weight_decay": 0.1}
    expected = jax.tree.map(
        lambda x, g: soap.soap(x, g, sides=sides, **hyper), params, gradients
    )
    tx = optimx.soap(**hyper, **AT_ONCE, **limits)
    with runs.double_precision():
        path = runs.trajectory(tx, params, gradients, jnp.float64)
    assert runs.error(params, path, expected) <= DOUBLE
