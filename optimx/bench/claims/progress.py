"""What a person sees of a claim while it is tried."""

import time

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from optimx.training.report import duration

_PLAIN_SECONDS = 30.0


class Progress:
    """A bar with the time left in a terminal, a line now and then elsewhere; a context.

    Args:
      console: where to write; standard error if None, which keeps it out of results.
    """

    def __init__(self, console: Console | None = None):
        self._console = console or Console(stderr=True, highlight=False)
        self._total, self._done = 0, 0
        self._said = time.monotonic()
        # When the first piece was done, in which all is compiled, and how large it was.
        self._first: tuple[float, int] | None = None
        self._bar: Bar | None = None

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._bar = Bar(
                BarColumn(bar_width=None),
                TextColumn("{task.fields[left]}"),
                console=self._console,
                expand=True,
                # A quicker refresh would take time from the steps on a CPU.
                refresh_per_second=2,
            )
            self._task = self._bar.add_task("", total=None, left="")
            self._bar.start()
        return self

    def __exit__(self, *exc_info) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def say(self, text: str) -> None:
        """One line of text."""
        self._console.print(text, markup=False, soft_wrap=True)

    def expect(self, total: int) -> None:
        """So much work, in pieces of about the same length, begins now."""
        self._total, self._done, self._first = total, 0, None

    def did(self, count: int = 1) -> None:
        """A piece of it is done, or more."""
        self._done += count
        self._first = self._first or (time.monotonic(), self._done)
        if self._bar is not None:
            self._bar.update(
                self._task, total=self._total, completed=self._done, left=self.left()
            )
        elif time.monotonic() - self._said > _PLAIN_SECONDS:
            self._said = time.monotonic()
            self.say(f"{self._done / self._total:.0%}, {self.left()}")

    def left(self) -> str:
        """How long the rest will take, by the pieces so far."""
        if self._first is None or self._done == self._first[1]:
            return "compiling"
        began, first = self._first
        each = (time.monotonic() - began) / (self._done - first)
        return f"{duration(max(0, self._total - self._done) * each)} left"
