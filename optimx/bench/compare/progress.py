"""What a person sees of a comparison while it runs."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from optimx.bench.compare.trials import Trial
from optimx.training.report import duration


class Progress:
    """A line for every finished trial and, in a terminal, a live one; a context.

    Args:
      console: where to write; standard output if None.
    """

    def __init__(self, console: Console | None = None):
        self._console = console or Console(highlight=False)
        self._left: dict[str, int] = {}
        self._count = self._done = self._total = 0
        # Seconds and steps so far, by label: rules differ in what a step takes.
        self._spent: dict[str, tuple[float, int]] = {}
        self._group: Sequence[Trial] = ()
        self._began, self._step = 0.0, 0
        self._bar: Bar | None = None

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.fields[now]}", markup=False),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[left]}", markup=False),
                console=self._console,
                expand=True,
                refresh_per_second=2,
            )
            self._task = self._bar.add_task("", total=self._total, now="", left="")
            self._bar.start()
        return self

    def __exit__(self, *exc_info) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def count(self, left: Mapping[str, int], count: int, done: int) -> None:
        """How much there is to do.

        Args:
          left: steps that are left of each contender, by its label.
          count: of all trials.
          done: trials that are finished.
        """
        self._left, self._count, self._done = dict(left), count, done
        self._total = max(self._total, self._steps_left())
        if self._bar is not None:
            self._bar.update(self._task, total=self._total)

    def say(self, text: str) -> None:
        """One line of text."""
        self._console.print(text, markup=False, soft_wrap=True)

    def begin(self, group: Sequence[Trial]) -> None:
        """Trials begin, all at once."""
        self._group, self._began, self._step = group, time.monotonic(), 0

    def of(self, index: int) -> "_OfTrial":
        """What a recorder reports to; the first of a group moves the line."""
        return _OfTrial(self, index)

    def stepped(self, step: int, loss: float | None) -> None:
        """The group has come to a step."""
        self._step = step
        if self._bar is None:
            return
        first, more = self._group[0], len(self._group) - 1
        names = f"{first}" + (f" and {more} more" if more else "")
        shown = "" if loss is None else f"  loss {loss:.3f}"
        steps = first.config.train.steps
        self._bar.update(
            self._task,
            completed=self._total - self._steps_left(),
            now=f"{self._done}/{self._count}  {names}  {step}/{steps}{shown}",
            left=self.left(),
        )

    def finished(self, trial: Trial, summary: Mapping[str, Any]) -> None:
        """One of the group is at its end."""
        label, steps = trial.contender.label, trial.config.train.steps
        seconds, before = self._spent.get(label, (0.0, 0))
        self._spent[label] = seconds + summary["seconds"], before + steps
        self._left[label] = self._left.get(label, 0) - steps
        self._step = 0
        self._done += 1
        loss = summary["final_val_loss"]
        ending = "diverged" if loss is None else f"validation loss {loss:.4f}"
        self.say(
            f"[{self._done}/{self._count}] {trial}, {steps} steps: {ending} "
            f"({duration(summary['seconds'])}), {self.left()}"
        )

    def left(self) -> str:
        """How long the rest will take, by the steps so far."""
        spent = self._spent
        if self._step:
            label = self._group[0].contender.label
            seconds, steps = spent.get(label, (0.0, 0))
            now = time.monotonic() - self._began, self._step * len(self._group)
            spent = spent | {label: (seconds + now[0], steps + now[1])}
        seconds, steps = (
            map(sum, zip(*spent.values(), strict=True)) if spent else (0, 0)
        )
        if not steps:
            return ""
        rates = {label: one / many for label, (one, many) in spent.items()}
        rest = sum(
            count * rates.get(label, seconds / steps)
            for label, count in self._left.items()
        )
        if self._step:
            label = self._group[0].contender.label
            rest -= self._step * len(self._group) * rates[label]
        return f"{duration(max(0, rest))} left"

    def _steps_left(self) -> int:
        return sum(self._left.values()) - self._step * len(self._group)


class _OfTrial:
    """Has the methods of the trainer's report that a recorder calls."""

    def __init__(self, progress: Progress, index: int):
        self._progress, self._first = progress, index == 0

    def start(self, step: int) -> None:
        pass

    def train_line(self, line: Mapping[str, Any]) -> None:
        if self._first:
            self._progress.stepped(line["step"], line["loss"])

    def evaluation_line(self, line: Mapping[str, Any]) -> None:
        pass

    def skipped(self, step: int, why: str, in_row: int, in_all: int) -> None:
        # A learning rate that is too high is what a sweep tries on purpose.
        pass
