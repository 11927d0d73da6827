"""Where the keys of a configuration come from, and which of them counts.

A layer maps dotted keys to settings. The layers of a run, the later the stronger:
built-in defaults, the files a configuration file includes, the file itself, the
command line. Naming another optimizer than the layers below drops what they said
about theirs: hyperparameters do not carry over from one rule to another.
"""

import tomllib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from optimx.training.errors import InputError, nearest

SECTIONS = (
    "model",
    "optimizer",
    "schedule",
    "data",
    "train",
    "mesh",
    "checkpoint",
)
COMMAND_LINE = "command line"
_INCLUDE = "include"


class Setting(NamedTuple):
    """A value and where it was given, for error messages."""

    value: Any
    origin: str


Layer = dict[str, Setting]


def merge(layers: Iterable[Layer]) -> Layer:
    """One layer in which later ones have won."""
    merged: Layer = {}
    for layer in layers:
        for prefix in ("optimizer.", "optimizer.others."):
            old, new = merged.get(prefix + "name"), layer.get(prefix + "name")
            if old and new and old.value != new.value:
                merged = {k: v for k, v in merged.items() if _stays(k, prefix)}
        merged |= layer
    return merged


def _stays(key: str, prefix: str) -> bool:
    # Which parameters are not matrices has nothing to do with the rule for them.
    paths = prefix == "optimizer.others." and key == "optimizer.others.paths"
    return paths or not key.startswith(prefix)


def read_file(path: Path, besides: Collection[str] = ()) -> Layer:
    """The settings of a TOML file, on top of those of the files it includes.

    ``include = ["../model/small.toml", ...]`` at the top of a file names others,
    relative to its folder; they are files of the same kind.

    Args:
      path: of the file.
      besides: sections of the file that are no run's; they are passed over.

    Raises:
      InputError: a file that cannot be read, is not TOML, includes itself, or has
        an unknown section.
    """
    return merge(_layers(path, (), besides))


def read_text(text: str, origin: str) -> Layer:
    """The settings of what a file of a run's own says; it includes nothing.

    Raises:
      InputError: it is not TOML, or has an unknown section.
    """
    try:
        return flatten(tomllib.loads(text), origin)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{origin}: is not TOML: {error}") from error


def read_table(path: Path) -> dict[str, Any]:
    """What a TOML file says, unchecked.

    Raises:
      InputError: a file that cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not TOML: {error}") from error


def _layers(
    path: Path, above: tuple[Path, ...], besides: Collection[str] = ()
) -> list[Layer]:
    if path.resolve() in above:
        raise InputError(f"{path}: includes itself")
    table = {k: v for k, v in read_table(path).items() if k not in besides}
    included = table.pop(_INCLUDE, [])
    if not (isinstance(included, list) and all(isinstance(i, str) for i in included)):
        raise InputError(f"{path}: {_INCLUDE} = {included!r}: must be a list of files")
    layers = []
    for name in included:
        layers += _layers(path.parent / name, (*above, path.resolve()))
    return [*layers, flatten(table, str(path))]


def flatten(table: dict[str, Any], origin: str) -> Layer:
    """The settings of sections, by dotted keys.

    Raises:
      InputError: an unknown section, or one that is a value.
    """
    layer: Layer = {}
    for section, keys in table.items():
        if section not in SECTIONS:
            hint = nearest(section, SECTIONS)
            raise InputError(f"{origin}: there is no section [{section}]{hint}")
        if not isinstance(keys, dict):
            raise InputError(f"{origin}: {section} = {keys!r}: must be a section")
        for key, value in keys.items():
            if section == "optimizer" and key == "others" and isinstance(value, dict):
                for inner, setting in value.items():
                    layer[f"optimizer.others.{inner}"] = Setting(setting, origin)
            else:
                layer[f"{section}.{key}"] = Setting(value, origin)
    return layer


def read_overrides(pairs: Iterable[tuple[str, str]]) -> Layer:
    """The settings of dotted arguments such as ``("train.steps", "500")``.

    A value is read as TOML; what is not TOML is text: ``tiny`` and ``"tiny"`` are
    the same.

    Raises:
      InputError: a key whose first part is no section.
    """
    layer: Layer = {}
    for key, text in pairs:
        section = key.partition(".")[0]
        if section not in SECTIONS:
            hint = nearest(section, SECTIONS)
            raise InputError(f"--{key}: there is no section [{section}]{hint}")
        layer[key] = Setting(_value(text), COMMAND_LINE)
    return layer


def _value(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text


def section(layer: Layer, name: str) -> dict[str, Setting]:
    """The settings of one section, by key."""
    return {
        key.removeprefix(f"{name}."): setting
        for key, setting in layer.items()
        if key.startswith(f"{name}.")
    }
