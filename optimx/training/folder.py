"""A run's folder: which files it holds, and how its metrics are kept."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from optimx.training.checkpoints.manifest import write_text
from optimx.training.errors import InputError
from optimx.training.lock import exclusive
from optimx.training.parallel.processes import agreed, is_first


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

    @contextlib.contextmanager
    def claimed(self, check: Callable[[], None]) -> Iterator[None]:
        """The folder for one run alone; its first process locks it for all of them.

        Args:
          check: raises InputError where the folder cannot be used: before the lock,
            for there may be no folder yet, and behind it, for another run may have
            been there in between.

        Raises:
          InputError: in every process of the run, where it cannot be used.
        """
        with contextlib.ExitStack() as held:
            with agreed():
                if is_first():
                    check()
                    held.enter_context(exclusive(self.path, "another run"))
                    check()
            yield

    def begin(self, tokenizer: str | None, config: str) -> None:
        """Writes what makes the folder one of a run, whole files only.

        The configuration comes last: a run that dies before it is there has not
        begun and can be started again, one that dies after can be resumed.
        """
        if tokenizer is not None:
            write_text(self.tokenizer, tokenizer)
        write_text(self.config, config)

    def require(self) -> None:
        """Raises InputError unless the folder holds a run, with a tokenizer or not."""
        if not self.config.is_file():
            theirs = (self.path / "config.json").is_file()
            hint = "; optimx import-gpt2 makes one from it" if theirs else ""
            raise InputError(
                f"{self.path}: is not a run's folder: no config.toml{hint}"
            )

    def require_tokenizer(self) -> None:
        """Raises InputError unless the run's model can read and write text."""
        if not self.tokenizer.is_file():
            raise InputError(
                f"{self.path}: has no tokenizer.json; put the one there that made the "
                "tokens which the model has learned"
            )

    def open_metrics(self, last_step: int) -> TextIO:
        """The metrics file, open for the lines after ``last_step``.

        Lines beyond it, which an interrupted run wrote after its last checkpoint,
        are dropped, as is a last line that was cut short: the resumed run writes
        them again.
        """
        lines = [line for line in self.read_metrics() if line["step"] <= last_step]
        write_text(self.metrics, "".join(map(as_line, lines)))
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


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which becomes ``path`` once everything is in it.

    Raises:
      InputError: ``path`` exists and is no empty folder, or cannot be written.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{path}: exists already; name a new folder")
    made = path.parent / f".{path.name}.{os.getpid()}"
    try:
        made.mkdir(parents=True)
        yield made
        made.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def as_line(record: dict[str, Any]) -> str:
    """One line of metrics.jsonl."""
    return json.dumps(record) + "\n"
