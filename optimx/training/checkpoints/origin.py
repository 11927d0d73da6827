"""Where a checkpoint comes from: which model and optimizer, data, configuration."""

import tomllib
from collections.abc import Mapping
from typing import Any

import jax

from optimx.training.errors import InputError

_SHOWN = 3


def leaves_of(state: Any) -> dict[str, str]:
    """Path -> dtype and shape of each leaf, as in ``float32[300,16]``."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): form_of(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def form_of(leaf: Any) -> str:
    """Dtype and shape, as in ``float32[300,16]``."""
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def require_leaves(found: Mapping[str, str], like: Any, where: str) -> None:
    """Whether the state that was saved has the leaves of the one that is expected.

    Args:
      found: :func:`leaves_of` the state that was saved.
      like: the state that is expected, or its shapes.
      where: names the checkpoint in the error.

    Raises:
      InputError: how many leaves differ, and the first three.
    """
    expected = leaves_of(like)
    names = [*expected, *(name for name in found if name not in expected)]
    other = [name for name in names if expected.get(name) != found.get(name)]
    if not other:
        return
    listed = "; ".join(
        f"{name}: expected {expected.get(name, 'none')}, "
        f"found {found.get(name, 'none')}"
        for name in other[:_SHOWN]
    )
    more = f"; and {len(other) - _SHOWN} more" if len(other) > _SHOWN else ""
    raise InputError(
        f"{where} is of another model or optimizer: {len(other)} of {len(names)} "
        f"leaves differ: {listed}{more}"
    )


def require_data(found: str | None, expected: str | None, where: str) -> None:
    """Whether the checkpoint learned from the data that the run has.

    Raises:
      InputError: another fingerprint.
    """
    # An imported model has not learned here.
    if found and found != expected:
        raise InputError(
            f"{where} learned from other data: its SHA-256 is {found}, "
            f"that of the run's data {expected}"
        )


def changed_keys(before: str, after: str) -> list[str]:
    """The keys whose values differ between two configurations, as TOML texts."""
    one, other = (_flat(tomllib.loads(text)) for text in (before, after))
    return sorted(key for key in one | other if one.get(key) != other.get(key))


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
