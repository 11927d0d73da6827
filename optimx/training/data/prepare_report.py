"""What a person sees of a preparation: a live line in a terminal, else plain ones."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_PLAIN_SECONDS = 10.0


class PrepareReport:
    """Shows how far a source has been read; a context manager.

    Args:
      console: where to write; standard output if None.
    """

    def __init__(self, console: Console | None = None):
        self._console = console or Console(highlight=False)
        self._progress: Progress | None = None
        self._done, self._tokens = 0, 0

    def __enter__(self) -> "PrepareReport":
        return self

    def __exit__(self, *exc_info) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def say(self, text: str) -> None:
        """One line of text."""
        self._console.print(text, markup=False, soft_wrap=True)

    def start(self, total: int | None, unit: str, done: int) -> None:
        """Reading begins.

        Args:
          total: of all that there is to read, or None if nobody knows.
          unit: that it is counted in.
          done: how much of it an earlier attempt has read.
        """
        self._total, self._unit, self._done = total, unit, done
        self._begun = self._last_plain = time.monotonic()
        if not self._console.is_terminal:
            return
        self._progress = Progress(
            TextColumn("{task.fields[words]}"),
            BarColumn(bar_width=None),
            TimeRemainingColumn(),
            console=self._console,
            expand=True,
        )
        self._task = self._progress.add_task("", total=total, words="")
        self._progress.start()

    def advance(self, size: int, tokens: int) -> None:
        """So much more has been read, and so many tokens were made of it."""
        self._done, self._tokens = self._done + size, self._tokens + tokens
        now = time.monotonic()
        if self._progress is not None:
            words = self._words(now)
            self._progress.update(self._task, completed=self._done, words=words)
        elif now - self._last_plain >= _PLAIN_SECONDS:
            self._last_plain = now
            self.say(self._words(now))

    def _words(self, now: float) -> str:
        of = f" of {self._total:,}" if self._total else ""
        rate = self._tokens / max(now - self._begun, 1e-9)
        return (
            f"{self._done:,}{of} {self._unit}, {self._tokens:,} tokens, "
            f"{rate:,.0f} tokens/s"
        )
