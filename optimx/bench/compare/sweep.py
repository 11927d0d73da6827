"""Which runs there are: those that choose from a grid, and those that are compared.

Every run has a whole schedule. Runs that choose and runs that are compared have
different seeds, or the winner's luck would be counted as its merit.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from optimx.bench.compare.config import Comparison, Contender, Point
from optimx.bench.compare.trials import FINAL, SWEEP, Trial, Trials


@dataclasses.dataclass(frozen=True)
class Rung:
    """Points of a grid, tried for the same number of steps.

    Attributes:
      steps: of each run.
      losses: final validation losses by point, one for each seed; infinite where a
        run diverged.
    """

    steps: int
    losses: Mapping[Point, tuple[float, ...]]

    def ranked(self) -> list[Point]:
        """The points, the best mean loss first; those that diverge are left out."""
        means = {p: sum(each) / len(each) for p, each in self.losses.items()}
        finite = [point for point, mean in means.items() if math.isfinite(mean)]
        return sorted(finite, key=lambda point: means[point])


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a contender's sweep found.

    Attributes:
      contender: whose sweep.
      rungs: in their order; none where there was nothing to choose.
      point: the winner; None if every run diverged.
    """

    contender: Contender
    rungs: tuple[Rung, ...]
    point: Point | None


class Plan:
    """The trials of a comparison.

    Args:
      comparison: that is made.
      data_sha256: of the data, for the configurations of the trials.
    """

    def __init__(self, comparison: Comparison, data_sha256: str):
        self.comparison = comparison
        self._sha256 = data_sha256
        first = comparison.base.train.seed
        self._sweep_seeds = range(first, first + comparison.sweep_seeds)
        self._seeds = range(self._sweep_seeds.stop, first + self._total_seeds)

    @property
    def _total_seeds(self) -> int:
        return self.comparison.sweep_seeds + self.comparison.seeds

    def _trial(
        self, contender: Contender, point: Point, seed: int, stage: str, shorter=1
    ) -> Trial:
        config = self.comparison.config(contender, point, seed=seed, shorter=shorter)
        data = dataclasses.replace(config.data, sha256=self._sha256)
        config = dataclasses.replace(config, data=data)
        return Trial(contender, point, config, stage)

    def rung(
        self, contender: Contender, points: Sequence[Point], shorter: int
    ) -> list[Trial]:
        """The runs that try these points."""
        return [
            self._trial(contender, point, seed, SWEEP, shorter)
            for point in points
            for seed in self._sweep_seeds
        ]

    def finals(self, contender: Contender, point: Point) -> list[Trial]:
        """The runs of a winner that are compared."""
        return [self._trial(contender, point, seed, FINAL) for seed in self._seeds]

    def rungs(self, contender: Contender) -> list[tuple[int, int]]:
        """Of each rung, by what its steps are divided and how many points it has."""
        count = len(contender.points())
        if count == 1:
            return []
        if not self.comparison.halving:
            return [(1, count)]
        rungs = math.ceil(math.log2(count))
        return [(2 ** (rungs - k), math.ceil(count / 2**k)) for k in range(rungs)]

    def possible(self) -> Iterator[Trial]:
        """Every trial that may be run, whatever wins."""
        for contender in self.comparison.contenders:
            yield from self.possible_of(contender)

    def possible_of(self, contender: Contender) -> Iterator[Trial]:
        """Those of one contender."""
        points = contender.points()
        for shorter, _ in self.rungs(contender):
            yield from self.rung(contender, points, shorter)
        for point in points:
            yield from self.finals(contender, point)

    def steps(self, contender: Contender) -> tuple[int, int]:
        """How many trials a contender has, and how many steps they have in all."""
        points, trials, steps = contender.points(), 0, 0
        stages = [
            (count * len(self._sweep_seeds), self.rung(contender, points[:1], shorter))
            for shorter, count in self.rungs(contender)
        ]
        stages.append((len(self._seeds), self.finals(contender, points[0])))
        for count, some in stages:
            trials += count
            steps += count * some[0].config.train.steps
        return trials, steps

    def choose(
        self,
        contender: Contender,
        trials: Trials,
        run: Callable[[Sequence[Trial]], None],
    ) -> Choice:
        """Runs a contender's sweep and picks its winner.

        Args:
          contender: whose.
          trials: the folder that has the results.
          run: makes sure that trials are done.
        """
        points = contender.points()
        rungs = []
        for shorter, count in self.rungs(contender):
            points = points[:count]
            if not points:  # every run of the rung before has diverged
                break
            wanted = self.rung(contender, points, shorter)
            run(wanted)
            losses: dict[Point, tuple[float, ...]] = {point: () for point in points}
            for trial in wanted:
                losses[trial.point] += (trials.result(trial).loss,)
            rungs.append(Rung(wanted[0].config.train.steps, losses))
            points = rungs[-1].ranked()
        return Choice(contender, tuple(rungs), points[0] if points else None)
