"""What optimizers are given beside their boxes in numpy, and how far they stray."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import optimx
from optimx import registry
from tests import runs
from tests.oracles import ademamix

STEPS = 50
WEIGHT_DECAY = 0.1

# Both sides in float64 and fifty steps long: 2e-16 a step, times what the
# algorithms amplify (CAME's residual is a difference of near numbers, 1e3).
DOUBLE = 1e-10

# Single precision rounds at 6e-8. Fifty additions to parameters of order 1 leave
# 2e-6 of a leaf's travel whatever the optimizer; CAME's residuals, differences of
# near numbers, ten times as much. The rest is room for other orders of summation.
SINGLE = 1e-4

SHAPES = {
    "scalar": (),
    "norm": {"scale": (5,), "still": (3,)},
    "block": {"kernel": (6, 4), "still": (4, 3)},
    "stack": (3, 4, 5),
    "attention": (2, 3, 4, 2),
}


def is_shape(x):
    return isinstance(x, tuple)


def signals(seed, shapes=SHAPES):
    """Parameters and gradients; the leaves named `still` have zero gradients.

    Gradients have a mean, noise, and a size that changes by two orders of magnitude
    from step to step, so that clipping is at work in some steps and not in others.
    All numbers are float32 numbers, so that both precisions start from the same.
    """
    rng = np.random.default_rng(seed)
    size = np.exp(rng.uniform(np.log(0.02), np.log(2.0), STEPS))

    def gradient(path, shape):
        if path[-1].key == "still":
            return np.zeros((STEPS, *shape))
        noise = rng.normal(size=(STEPS, *shape))
        steady = rng.normal(size=shape)
        return size.reshape(-1, *[1] * len(shape)) * (steady + noise)

    params = jax.tree.map(lambda s: rng.normal(size=s), shapes, is_leaf=is_shape)
    gradients = jax.tree_util.tree_map_with_path(gradient, shapes, is_leaf=is_shape)
    return jax.tree.map(lambda x: np.float64(np.float32(x)), (params, gradients))


def decayed(params):
    """The leaves whose weights decay: some matrices, and nothing else."""
    return jax.tree_util.tree_map_with_path(
        lambda path, p: jnp.ndim(p) >= 2 and path[0].key != "stack", params
    )


def cooling(count):
    # A different number at every count, so that an offset of one shows.
    return 0.05 / (1 + 0.1 * runs.real(count))


def fading(t):
    # Infinite at t = 0: a schedule that is asked there is found out.
    return 0.1 / runs.real(t)


MARS = {"b1": 0.95, "gamma": 0.025, "max_norm": 1.0}
ADAM = {"b2": 0.99, "eps": 1e-8}
MEMORIES = {"b1": 0.9, "b3": 0.999, "alpha": 5.0}


def warmups(papers):
    return {
        "b3": papers.half_life_warmup(0.9, 0.999, 30),
        "alpha": papers.linear_warmup(5.0, 30),
    }


def fading_gamma(papers):
    del papers
    return {"gamma": fading}


@dataclasses.dataclass(frozen=True)
class Case:
    """An optimizer's box, its hyperparameters, and those that may be schedules.

    `scheduled` is given the module that makes the schedules: ours, or the oracle's.
    `ours` are the arguments that the box does not know, and `single` the
    hyperparameters that differ in float32.
    """

    oracle: Callable[..., np.ndarray]
    hyper: dict
    scheduled: Callable = lambda papers: {}
    exact: bool = False
    ours: dict = dataclasses.field(default_factory=dict)
    single: dict = dataclasses.field(default_factory=dict)
    shapes: dict = dataclasses.field(default_factory=lambda: SHAPES)


def deviation(name, case, dtype, *, seed=0, scheduled=False):
    """How far an optimizer strays from its oracle, in units of the travel."""
    params, gradients = signals(seed, case.shapes)
    extra, stale = {}, jax.tree.map(lambda g: None, gradients)
    if case.exact:
        # Any other gradients serve; those of the previous step would hide an
        # implementation that keeps its own. There is none before the first step.
        _, stale = signals(seed + 1000, case.shapes)
        stale = jax.tree.map(lambda g: np.concatenate([0 * g[:1], g[1:]]), stale)
        extra = {"stale_grads": stale}

    hyper = {**case.hyper, "learning_rate": cooling}
    if dtype == jnp.float32:
        hyper |= case.single
    ours = hyper | (case.scheduled(optimx) if scheduled else {}) | case.ours
    theirs = hyper | (case.scheduled(ademamix) if scheduled else {})

    def oracle(x, g, stale, decays):
        given = {} if stale is None else {"stale": stale}
        decay = WEIGHT_DECAY if decays else 0.0
        return case.oracle(x, g, **theirs, **given, weight_decay=decay)

    expected = jax.tree.map(oracle, params, gradients, stale, decayed(params))
    transformation = registry.build(
        name, **ours, weight_decay=WEIGHT_DECAY, mask=decayed
    )
    path = runs.trajectory(transformation, params, gradients, dtype, **extra)
    return runs.error(params, path, expected)
