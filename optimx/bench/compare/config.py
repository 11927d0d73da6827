"""What is compared: contenders, and the runs that they are given."""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimx.training.config import Config, resolve_layers
from optimx.training.settings import Layer, Setting, merge

Point = tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class Contender:
    """An optimizer that is compared, and what is tried for it.

    Attributes:
      label: what it is called in the report.
      layer: its ``optimizer`` settings.
      grid: values to try of settings below ``optimizer``; empty where there is
        nothing to choose.
      against: label of the contender that this one is held against.
    """

    label: str
    layer: Layer
    grid: Mapping[str, tuple[Any, ...]]
    against: str

    def points(self) -> list[Point]:
        """Every combination of the grid's values."""
        keys = self.grid.keys()
        values = itertools.product(*self.grid.values())
        return [tuple(zip(keys, chosen, strict=True)) for chosen in values]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A comparison as its file describes it.

    Attributes:
      path: of the file.
      layers: settings of the runs, but their optimizer.
      contenders: what is compared.
      baseline: the label of the one that the others are held against, unless they
        name another.
      seeds: of the final comparison, none of them seen before.
      sweep_seeds: for each point of a grid.
      halving: whether the sweep drops the worse half of a grid again and again.
      together: whether runs share a program: ``auto`` (where that is measured to be
        faster), ``always``, ``never``.
    """

    path: Path
    layers: tuple[Layer, ...]
    contenders: tuple[Contender, ...]
    baseline: str
    seeds: int = 3
    sweep_seeds: int = 1
    halving: bool = False
    together: str = "auto"

    @property
    def base(self) -> Config:
        """A run of the baseline, for what all runs share."""
        first = next(c for c in self.contenders if c.label == self.baseline)
        return self.config(first, first.points()[0])

    def config(
        self,
        contender: Contender,
        point: Point,
        *,
        seed: int | None = None,
        shorter: int = 1,
    ) -> Config:
        """The configuration of one run.

        Args:
          contender: whose.
          point: of its grid.
          seed: of the run; the file's own if None.
          shorter: divides the steps; a warmup or decay in steps shrinks with them.
        """
        chosen = {
            f"optimizer.{key}": Setting(_thawed(value), self._where(key))
            for key, value in point
        }
        layers = [*self.layers, contender.layer, chosen]
        if seed is not None:
            layers.append({"train.seed": Setting(seed, str(self.path))})
        if shorter > 1:
            layers.append(_shortened(merge(layers), shorter))
        return resolve_layers(layers)

    def _where(self, key: str) -> str:
        return f"{self.path}: grid.{key}"


def _thawed(value: Any) -> Any:
    """Tuples as the lists that settings are."""
    return [_thawed(one) for one in value] if isinstance(value, tuple) else value


def shown(value: Any) -> str:
    """A value of a grid, as the file has it but for what can be said shorter."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _shortened(layer: Layer, shorter: int) -> Layer:
    found = {}
    for key in ("train.steps", "schedule.warmup", "schedule.decay"):
        value, origin = layer.get(key, Setting(None, "default"))
        if type(value) is int:
            found[key] = Setting(math.ceil(value / shorter), origin)
        elif key == "train.steps":
            steps = resolve_layers([layer]).train.steps
            found[key] = Setting(math.ceil(steps / shorter), origin)
    return found
