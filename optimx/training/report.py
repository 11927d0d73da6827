"""What a person sees of a run: a live line in a terminal, plain lines elsewhere."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

_PLAIN_SECONDS = 10.0


class Report:
    """Shows the progress of one run on standard output; a context manager.

    Args:
      steps: of the whole run.
      console: where to write; standard output if None.
    """

    def __init__(self, steps: int, console: Console | None = None):
        self._steps = steps
        self._console = console or Console(highlight=False)
        self._first: tuple[int, float] | None = None
        self._last_plain = 0.0
        self._fields: dict[str, str] = {"loss": "-", "val": "-", "rate": "", "left": ""}
        self._progress: Progress | None = None

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, *exc_info) -> None:
        self._stop()

    def say(self, text: str) -> None:
        """One line of text."""
        self._console.print(text, markup=False, soft_wrap=True)

    def start(self, step: int) -> None:
        """Training begins (or goes on) after ``step`` updates."""
        self._first = (step, time.monotonic())
        self._last_plain = time.monotonic()
        if not self._console.is_terminal:
            return
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("validation {task.fields[val]}"),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            expand=True,
            # A quicker refresh would take time from the training step on a CPU.
            refresh_per_second=2,
        )
        self._task = self._progress.add_task(
            "", total=self._steps, completed=step, **self._fields
        )
        self._progress.start()

    def train_line(self, line: dict[str, Any]) -> None:
        """Shows a training line of metrics.jsonl."""
        self._fields |= {
            "loss": "-" if line["loss"] is None else f"{line['loss']:.3f}",
            "rate": f"{line['tokens_per_second']:,.0f} tokens/s",
            "left": self._left(line["step"]),
        }
        recent = time.monotonic() - self._last_plain < _PLAIN_SECONDS
        self._show(line["step"], quiet=recent)

    def evaluation_line(self, line: dict[str, Any]) -> None:
        """Shows an evaluation line of metrics.jsonl."""
        self._fields["val"] = f"{line['val_loss']:.3f}"
        self._show(line["step"], quiet=False)

    def skipped(self, step: int, why: str, in_row: int, in_all: int) -> None:
        """An update was skipped; the last one of ``in_row`` in a row."""
        self.say(
            f"step {step}/{self._steps}  {why}, the update is skipped "
            f"({in_row} in a row, {in_all} in all)"
        )

    def finish(
        self, summary: dict[str, Any], sample: str | None, folder: object
    ) -> None:
        """The end of a run: its result, what the model writes, where it all is."""
        self._stop()
        loss, seconds = summary["final_val_loss"], summary["seconds"]
        self.say(
            f"\n{summary['optimizer']}: validation loss {loss:.4f} after "
            f"{summary['steps']} steps, {summary['tokens']:,} tokens, "
            f"{duration(seconds)}"
        )
        if sample is not None:
            self.say("\nThe model writes:\n")
            for row in sample.splitlines():
                self.say(f"  {row}")
        self.say(f"\nThe run is in {folder}")

    def _show(self, step: int, quiet: bool) -> None:
        if self._progress is not None:
            self._progress.update(self._task, completed=step, **self._fields)
        elif not quiet:
            self._last_plain = time.monotonic()
            shown = self._fields
            self.say(
                f"step {step}/{self._steps}  loss {shown['loss']}  "
                f"validation {shown['val']}  {shown['rate']}  {shown['left']}"
            )

    def _left(self, step: int) -> str:
        first, start = self._first
        per_step = (time.monotonic() - start) / max(1, step - first)
        return f"{duration(per_step * (self._steps - step))} left"

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def duration(seconds: float) -> str:
    """As a clock shows it: ``1:02:03``, or ``2:03`` below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
