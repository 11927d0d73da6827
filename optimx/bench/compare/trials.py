"""One run of a comparison, and the folder that keeps it."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import re
import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TextIO

from optimx.bench.compare.config import Contender, Point, shown
from optimx.training.checkpoints.manifest import write_text
from optimx.training.config import Config, dump_config
from optimx.training.errors import InputError
from optimx.training.folder import RunFolder

SWEEP, FINAL = "sweep", "final"
_DIGITS = 12


@dataclasses.dataclass(frozen=True)
class Trial:
    """A run of one contender, named by all that it depends on.

    Attributes:
      contender: whose run it is.
      point: of the contender's grid.
      config: of the run, the hash of its data filled in.
      stage: ``sweep`` or ``final``.
    """

    contender: Contender
    point: Point
    config: Config
    stage: str

    @functools.cached_property
    def name(self) -> str:
        """Of the folder: the label, and a hash of the configuration."""
        text = dump_config(self.config)
        digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
        words = re.sub(r"[^A-Za-z0-9.]+", "-", self.contender.label).strip("-")
        # Labels may differ in what a file's name cannot hold.
        other = hashlib.sha256(self.contender.label.encode()).hexdigest()[:4]
        return f"{words}-{other}-{digest}"

    def __str__(self) -> str:
        said = [f"{key}={shown(value)}" for key, value in self.point]
        return " ".join([self.contender.label, *said, f"seed={self.config.train.seed}"])


@dataclasses.dataclass(frozen=True)
class Result:
    """What a finished trial left.

    Attributes:
      summary: of its summary.json.
      curve: (step, validation loss) of every evaluation.
      monitor: what the optimizer measured, each time.
    """

    summary: dict[str, Any]
    curve: tuple[tuple[int, float], ...]
    monitor: tuple[dict[str, Any], ...] = ()

    @property
    def loss(self) -> float:
        """The last validation loss; infinite where the run diverged."""
        final = self.summary["final_val_loss"]
        return float("inf") if final is None else final


class Trials:
    """The folder of a comparison's trials; each has one below it.

    Args:
      path: of the comparison's folder.
    """

    def __init__(self, path: Path):
        self.path = path / "trials"

    def folder(self, trial: Trial) -> RunFolder:
        """Where the trial is kept."""
        return RunFolder(self.path / trial.name)

    def done(self, trial: Trial) -> bool:
        """Whether the trial is finished; the summary is written last."""
        return self.folder(trial).summary.exists()

    def result(self, trial: Trial) -> Result:
        """What a finished trial left.

        Raises:
          InputError: its files lack a number that the comparison needs.
        """
        folder = self.folder(trial)
        again = f"; remove {folder.path} to run it again"
        try:
            summary = json.loads(folder.summary.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{folder.summary}: cannot be read{again}") from error
        for key in ("final_val_loss", "steps", "tokens", "state_bytes"):
            if not isinstance(summary, dict) or key not in summary:
                raise InputError(f"{folder.summary}: has no {key}{again}")
        lines = list(folder.read_metrics())
        curve = tuple(
            (line["step"], line["val_loss"]) for line in lines if "val_loss" in line
        )
        complete = curve and curve[-1][0] == summary["steps"]
        if summary["final_val_loss"] is not None and not complete:
            raise InputError(
                f"{folder.metrics}: has no val_loss of step {summary['steps']}{again}"
            )
        monitor = tuple(line["monitor"] for line in lines if "monitor" in line)
        return Result(summary, curve, monitor)

    @contextlib.contextmanager
    def begin(self, trial: Trial) -> Iterator[TextIO]:
        """The trial's metrics.jsonl, empty; what an interrupted run left is gone."""
        folder = self.folder(trial)
        folder.path.mkdir(parents=True, exist_ok=True)
        write_text(folder.config, dump_config(trial.config))
        with folder.metrics.open("w", encoding="utf-8", buffering=1) as log:
            yield log

    def finish(self, trial: Trial, summary: dict[str, Any]) -> None:
        """Makes the trial a finished one."""
        write_text(self.folder(trial).summary, json.dumps(summary, indent=2) + "\n")

    def require_only(self, possible: Collection[Trial]) -> None:
        """Whether all trials in the folder are of this comparison.

        Raises:
          InputError: the first one that is not, and what it has that differs.
        """
        names = {trial.name for trial in possible}
        found = sorted(self.path.iterdir()) if self.path.is_dir() else []
        for folder in found:
            if folder.name in names or not (folder / "config.toml").is_file():
                continue
            difference = _difference(folder, possible)
            raise InputError(
                f"{folder}: is a trial of another comparison{difference}; --out names "
                "another folder"
            )


def _difference(folder: Path, possible: Collection[Trial]) -> str:
    """How it differs from the trial here that is most like it."""
    with contextlib.suppress(OSError, ValueError):
        theirs = _flat(tomllib.loads((folder / "config.toml").read_text("utf-8")))
        differences = []
        for trial in possible:
            ours = _flat(tomllib.loads(dump_config(trial.config)))
            keys = sorted(ours.keys() | theirs.keys(), key=_follows)
            differences.append([k for k in keys if ours.get(k) != theirs.get(k)])
            if len(differences[-1]) == min(map(len, differences)):
                nearest, mine = differences[-1], ours
        if nearest:
            key = nearest[0]
            return f" ({key} = {theirs.get(key)!r} there, {mine.get(key)!r} here)"
    return ""


def _follows(key: str) -> tuple[bool, str]:
    """What a person has said comes before what follows from it, such as a warmup."""
    return key.startswith(("schedule.", "optimizer.")), key


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
