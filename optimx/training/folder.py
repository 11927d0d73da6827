"""A run's folder: which files it holds, and how its metrics are kept."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from optimx.training.errors import InputError


class RunFolder:
    """The paths inside a run's folder.

    Args:
      path: of the folder; it need not exist.
    """

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.toml"
        self.metrics = path / "metrics.jsonl"
        self.summary = path / "summary.json"
        self.plot = path / "loss.png"
        self.tokenizer = path / "tokenizer.json"
        self.checkpoints = path / "checkpoints"

    def create(self) -> None:
        """Makes the folder for a new run.

        Raises:
          InputError: it holds another run, or cannot be made.
        """
        if self.config.exists() or self.checkpoints.exists():
            raise InputError(
                f"{self.path}: holds another run; optimx resume {self.path} continues "
                "it, --out names another folder"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be made: {error.strerror}"
            ) from error

    def require(self) -> None:
        """Raises InputError unless the folder holds a run."""
        for file in (self.config, self.tokenizer):
            if not file.is_file():
                raise InputError(f"{self.path}: is not a run's folder: no {file.name}")

    def open_metrics(self, last_step: int) -> TextIO:
        """The metrics file, open for the lines after ``last_step``.

        Lines beyond it, which an interrupted run wrote after its last checkpoint,
        are dropped, as is a last line that was cut short: the resumed run writes
        them again.
        """
        lines = [line for line in self.read_metrics() if line["step"] <= last_step]
        kept = self.metrics.with_suffix(".tmp")
        kept.write_text("".join(map(as_line, lines)), encoding="utf-8")
        os.replace(kept, self.metrics)
        return self.metrics.open("a", encoding="utf-8", buffering=1)

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        """The lines of metrics.jsonl; none if there is no such file."""
        if not self.metrics.exists():
            return
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                return


def as_line(record: dict[str, Any]) -> str:
    """One line of metrics.jsonl."""
    return json.dumps(record) + "\n"
