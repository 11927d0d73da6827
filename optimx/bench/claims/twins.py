"""Two runs that are the same but for one batch."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from optimx.bench.claims.trainee import (
    Batches,
    Trainee,
    batches_of,
    copied,
    make_loss,
)
from optimx.training.config import Config
from optimx.training.data import Dataset
from optimx.training.state import TrainState

HELD_OUT_SEED = 300_000  # after the run's own
_NEAR = 20


class Twins(NamedTuple):
    """The loss of a held-out batch in a run that sees it once, and in its twin.

    Attributes:
      ages: updates since the injection; 1 is the one that it made.
      injected: losses after them in the run that sees it.
      without: those in the twin that does not.
    """

    ages: np.ndarray
    injected: np.ndarray
    without: np.ndarray


def follow(
    config: Config,
    data: Dataset,
    at: int,
    every: int,
    did: Callable[[int], None] = lambda count: None,
) -> Twins:
    """A run that sees a held-out batch once, and the same one that does not.

    Args:
      config: of the run.
      data: that it learns.
      at: the step, from 0, whose batch is replaced by the held-out one.
      every: steps between looks, beyond the first ones after the injection.
      did: told how many steps were taken.
    """
    trainee = Trainee(config)
    ordinary = batches_of(config, data)
    seed = config.train.seed + HELD_OUT_SEED
    held = batches_of(config, data, seed=seed, held_out=True)(0)
    state = trainee.begin()
    # Exact MARS looks a step ahead: the twins part before the step that does.
    shared = max(0, at - 1)
    for now, _ in trainee.states(ordinary, state, range(shared)):
        state = now
        did(1)
    loss = jax.jit(make_loss(config))

    def losses(state: TrainState, batches: Batches) -> dict[int, float]:
        found = {}
        steps = range(shared, config.train.steps)
        for step, (now, _) in zip(
            steps, trainee.states(batches, state, steps), strict=True
        ):
            did(1)
            done = step + 1
            age = done - at
            last = done == config.train.steps
            if age > 0 and (age <= _NEAR or age % every == 0 or last):
                found[age] = float(loss(now.params, held))
        return found

    without = losses(copied(state), ordinary)
    injected = losses(state, lambda index: held if index == at else ordinary(index))
    both = (np.asarray(list(one.values())) for one in (injected, without))
    return Twins(np.asarray(list(without)), *both)
