"""What the commands share."""

import datetime
from pathlib import Path

# Dotted settings, as ``("train.steps", "500")``.
Overrides = list[tuple[str, str]]


class UsageError(Exception):
    """Words that the command line cannot use."""


def new_folder(name: str) -> Path:
    """A folder for a run, by the clock."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{now}-{name}"


def names(text: str) -> tuple[str, ...]:
    """The names in a list with commas."""
    return tuple(name.strip() for name in text.split(",")) if text else ()
