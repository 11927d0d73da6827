"""What a step of each contender takes, in turns with the baseline's.

Runs that shared a program, or a machine with somebody else, do not tell: so steps are
timed by themselves at the end, a few of the contender and a few of the baseline, again
and again.
"""

import dataclasses
import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax

from optimx.bench.compare.programs import Program, alone
from optimx.training.config import Config
from optimx.training.data import Dataset
from optimx.training.errors import InterruptedRunError
from optimx.training.interrupt import StopRequest
from optimx.training.parallel.mesh import make_mesh


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of a step, in each round, beside the baseline's.

    Attributes:
      seconds: of the contender's steps.
      baseline_seconds: of the baseline's, in the same rounds.
    """

    seconds: Sequence[float]
    baseline_seconds: Sequence[float]

    @property
    def over_baseline(self) -> float:
        """The median over rounds of the one over the other."""
        pairs = zip(self.seconds, self.baseline_seconds, strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)

    def as_dict(self) -> dict[str, Any]:
        """Every round, and what follows."""
        return {
            "seconds": list(self.seconds),
            "baseline_seconds": list(self.baseline_seconds),
            "step_ms": statistics.median(self.seconds) * 1e3,
            "over_baseline": self.over_baseline,
        }


class Stopwatch:
    """Times contenders against a baseline.

    Args:
      baseline: its configuration.
      data: that is learned.
      stop: looked at after every step.
      rounds: of each.
      steps: of a round; more where either does something every so many.
    """

    def __init__(
        self,
        baseline: Config,
        data: Dataset,
        stop: StopRequest,
        rounds: int = 5,
        steps: int = 4,
    ):
        self._data, self._stop = data, stop
        self._rounds, self._steps = rounds, steps
        self._cycle = _cycle(baseline)
        self._baseline = self._subject(baseline)

    def time(self, config: Config) -> Timing:
        """Times one contender."""
        steps = max(self._steps, self._cycle, _cycle(config))
        mine, theirs = [], []
        subject = self._subject(config)
        for _ in range(self._rounds):
            theirs.append(self._baseline.seconds(steps, self._stop))
            mine.append(subject.seconds(steps, self._stop))
        return Timing(mine, theirs)

    def _subject(self, config: Config) -> "_Subject":
        mesh = make_mesh(config.mesh)
        with jax.set_mesh(mesh):
            return _Subject(alone(config, self._data, mesh), mesh)


def _cycle(config: Config) -> int:
    """After how many steps the optimizer has done everything that it does."""
    rules = config.optimizer.rules
    return max(rule.hyperparameters.get("update_every", 1) for rule in rules)


class _Subject:
    """A program, and the state that its steps go on from."""

    def __init__(self, program: Program, mesh: jax.sharding.Mesh):
        self._step, self._mesh = program.step, mesh
        self._state, self._batch = program.state(), program.inputs(0)
        self._run(1)

    def seconds(self, steps: int, stop: StopRequest) -> float:
        """Of a step, of so many in a row."""
        if stop.received:
            raise InterruptedRunError("interrupted")
        began = time.perf_counter()
        self._run(steps)
        return (time.perf_counter() - began) / steps

    def _run(self, steps: int) -> None:
        with jax.set_mesh(self._mesh):
            for _ in range(steps):
                self._state, _ = self._step(self._state, *self._batch)
            jax.block_until_ready(self._state)
