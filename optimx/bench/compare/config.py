"""What is compared: a file of a run's sections, and ``[compare]`` beside them."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from optimx.training.config import Config, resolve_layers
from optimx.training.errors import InputError, nearest
from optimx.training.settings import (
    Layer,
    Setting,
    flatten,
    merge,
    read_file,
    read_overrides,
    read_table,
)

SECTION = "compare"
_CONTENDER = ("label", "optimizer", "grid", "against")

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
        chosen = {f"optimizer.{k}": Setting(v, self._where(k)) for k, v in point}
        layers = [*self.layers, contender.layer, chosen]
        if seed is not None:
            layers.append({"train.seed": Setting(seed, str(self.path))})
        if shorter > 1:
            layers.append(_shortened(merge(layers), shorter))
        return resolve_layers(layers)

    def _where(self, key: str) -> str:
        return f"{self.path}: grid.{key}"


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


def read_comparison(
    path: Path, overrides: Iterable[tuple[str, str]] = ()
) -> Comparison:
    """Reads a comparison and resolves every run of it once.

    Args:
      path: a TOML file.
      overrides: dotted settings of the runs; they win over the file.

    Raises:
      InputError: as for a run; no contenders, no baseline among them, an empty grid.
    """
    table = read_table(path).get(SECTION)
    if not isinstance(table, dict):
        raise InputError(f"{path}: has no section [{SECTION}]: nothing to compare")
    above = read_overrides(overrides)
    for key in above:
        if key.startswith("optimizer."):
            raise InputError(f"--{key}: contenders say that, in {path}")
    runs = merge([read_file(path, besides=(SECTION,)), above])
    # Hyperparameters of an included file would reach some contenders and not others.
    runs = {k: v for k, v in runs.items() if not k.startswith("optimizer.")}
    labels = _labels(path, table)
    baseline = _baseline(path, table, labels)
    comparison = Comparison(
        path=path,
        layers=(runs,),
        contenders=tuple(
            _contender(path, label, given, baseline, labels)
            for label, given in zip(labels, table["contender"], strict=True)
        ),
        baseline=baseline,
        **_options(path, table),
    )
    for contender in comparison.contenders:
        for point in contender.points():
            comparison.config(contender, point)
    return comparison


def _options(path: Path, table: dict[str, Any]) -> dict[str, Any]:
    defaults = {f.name: f.default for f in dataclasses.fields(Comparison)[4:]}
    known = [*defaults, "baseline", "contender"]
    found = {}
    for key, value in table.items():
        where = f"{path}: {SECTION}.{key} = {value!r}"
        if key not in known:
            hint = nearest(key, known)
            raise InputError(f"{path}: [{SECTION}] has no key {key}{hint}")
        if key not in defaults:
            continue
        if type(value) is not type(defaults[key]):
            words = {int: "an integer", bool: "true or false", str: "text"}
            raise InputError(f"{where}: must be {words[type(defaults[key])]}")
        if type(value) is int and value < 1:
            raise InputError(f"{where}: must be at least 1")
        if key == "together" and value not in ("auto", "always", "never"):
            raise InputError(f"{where}: must be one of auto, always, never")
        found[key] = value
    return found


def _labels(path: Path, table: dict[str, Any]) -> list[str]:
    """Of the contenders, each of which is a table with an optimizer in it."""
    given = table.get("contender", [])
    if not isinstance(given, list) or not given:
        raise InputError(f"{path}: has no [[{SECTION}.contender]]: nothing to compare")
    labels = []
    for index, one in enumerate(given):
        where = f"{path}: contender {index + 1}"
        if not isinstance(one, dict):
            raise InputError(f"{where}: must be a table")
        for key in one:
            if key not in _CONTENDER:
                raise InputError(f"{where}: has no key {key}{nearest(key, _CONTENDER)}")
        optimizer = one.get("optimizer")
        if not isinstance(optimizer, dict) or "name" not in optimizer:
            raise InputError(f"{where}: optimizer = {optimizer!r}: must have a name")
        label = one.get("label", optimizer["name"])
        if not isinstance(label, str) or not label.strip():
            raise InputError(f"{where}: label = {label!r}: must be text")
        labels.append(label)
    for label in labels:
        if labels.count(label) > 1:
            raise InputError(
                f"{path}: label = {label!r}: {labels.count(label)} contenders have it; "
                "each needs its own"
            )
    return labels


def _contender(
    path: Path, label: str, given: dict[str, Any], baseline: str, labels: list[str]
) -> Contender:
    where = f"{path}: contender {label!r}"
    against = given.get("against", baseline)
    if against not in labels or (against == label != baseline):
        others = [other for other in labels if other != label]
        raise InputError(
            f"{where}: against = {against!r}: must be another contender's label"
            f"{nearest(str(against), others)}"
        )
    layer = flatten({"optimizer": given["optimizer"]}, where)
    return Contender(label, layer, _grid(where, given), against)


def _grid(where: str, given: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    if "grid" not in given:
        return {}
    grid = given["grid"]
    if not isinstance(grid, dict) or not grid:
        raise InputError(
            f"{where}: grid = {grid!r}: is empty; it must hold lists of values, or be "
            "left out for the optimizer as it is"
        )
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise InputError(
                f"{where}: grid.{key} = {values!r}: must be a list of one value or more"
            )
        if any(values.count(value) > 1 for value in values):
            raise InputError(f"{where}: grid.{key} = {values!r}: has a value twice")
        if key == "name" or key in given["optimizer"]:
            raise InputError(
                f"{where}: grid.{key}: the optimizer says it already"
                if key != "name"
                else f"{where}: grid.name: another optimizer is another contender"
            )
    return {key: tuple(values) for key, values in grid.items()}


def _baseline(path: Path, table: dict[str, Any], labels: list[str]) -> str:
    if "baseline" not in table:
        raise InputError(
            f"{path}: {SECTION}.baseline is missing: the label of the contender that "
            f"the others are held against; there are {', '.join(labels)}"
        )
    baseline = table["baseline"]
    if baseline not in labels:
        hint = nearest(str(baseline), labels)
        raise InputError(
            f"{path}: {SECTION}.baseline = {baseline!r}: no contender has that label"
            f"{hint}"
        )
    return baseline
