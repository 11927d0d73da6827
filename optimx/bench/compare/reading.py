"""A comparison's file: the sections of a run, and ``[compare]`` beside them."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optimx.bench.compare.config import Comparison, Contender
from optimx.training.errors import InputError, nearest
from optimx.training.settings import (
    flatten,
    merge,
    read_file,
    read_overrides,
    read_table,
)

_SECTION = "compare"
_KEYS = ("label", "optimizer", "grid", "against")


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
    table = read_table(path).get(_SECTION)
    if not isinstance(table, dict):
        raise InputError(f"{path}: has no section [{_SECTION}]: nothing to compare")
    above = read_overrides(overrides)
    for key in above:
        if key.startswith("optimizer."):
            raise InputError(f"--{key}: contenders say that, in {path}")
    runs = merge([read_file(path, besides=(_SECTION,)), above])
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
        where = f"{path}: {_SECTION}.{key} = {value!r}"
        if key not in known:
            hint = nearest(key, known)
            raise InputError(f"{path}: [{_SECTION}] has no key {key}{hint}")
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
        raise InputError(f"{path}: has no [[{_SECTION}.contender]]: nothing to compare")
    labels = []
    for index, one in enumerate(given):
        where = f"{path}: contender {index + 1}"
        if not isinstance(one, dict):
            raise InputError(f"{where}: must be a table")
        for key in one:
            if key not in _KEYS:
                raise InputError(f"{where}: has no key {key}{nearest(key, _KEYS)}")
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
    return {key: _frozen(values) for key, values in grid.items()}


def _frozen(value: Any) -> Any:
    """Lists as tuples, lists in lists too: a point of a grid names its results."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _baseline(path: Path, table: dict[str, Any], labels: list[str]) -> str:
    if "baseline" not in table:
        raise InputError(
            f"{path}: {_SECTION}.baseline is missing: the label of the contender that "
            f"the others are held against; there are {', '.join(labels)}"
        )
    baseline = table["baseline"]
    if baseline not in labels:
        hint = nearest(str(baseline), labels)
        raise InputError(
            f"{path}: {_SECTION}.baseline = {baseline!r}: no contender has that label"
            f"{hint}"
        )
    return baseline
