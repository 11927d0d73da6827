"""What a measurement found: numbers, and the table that shows them."""

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH = 100  # columns that the table needs at most

_HEADINGS = (
    "\noptimizer",
    "step\nms",
    "min\nms",
    "max\nms",
    "step /\nadamw",
    "\npasses",
    "pass /\nadamw",
    "pass /\naxpy",
    "state\nB/par",
    "temp\nB/par",
    "temp\nGB",
    "compile\ns",
)


_REFRESH_HEADINGS = (
    "\noptimizer",
    "refresh\nevery",
    "steps\ntimed",
    "mean\nms",
    "median\nms",
    "worst\nms",
    "worst /\nmedian",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """What one update of an optimizer costs.

    Attributes:
      name: of the optimizer.
      passes: leaf passes that it must make, whatever the dtype of what is passed
        over; None where products take the time.
      seconds: of every timed step, in order.
      adamw_median: seconds of the AdamW yardstick's steps around these.
      axpy_median: seconds of the in-place axpy's steps around these.
      adamw_passes: of that yardstick.
      axpy_passes: of that yardstick.
      state_bytes_per_parameter: of the optimizer's state.
      temporary_bytes: what the compiled step allocates beside arguments and results.
      temporary_bytes_per_parameter: the same for each parameter.
      compile_seconds: to trace, lower and compile the step, nothing cached.
      warm_up_steps: steps before the first timed one.
      update_every: updates between two refreshes; None where all are alike.
    """

    name: str
    passes: int | None
    seconds: Sequence[float]
    adamw_median: float
    axpy_median: float
    adamw_passes: int
    axpy_passes: int
    state_bytes_per_parameter: float
    temporary_bytes: int
    temporary_bytes_per_parameter: float
    compile_seconds: float
    warm_up_steps: int
    update_every: int | None

    @property
    def median(self) -> float:
        """Seconds of the step in the middle."""
        return statistics.median(self.seconds)

    @property
    def step_over_adamw(self) -> float:
        """Time of a step, as a multiple of AdamW's."""
        return self.median / self.adamw_median

    @property
    def pass_over_adamw(self) -> float | None:
        """Time of a leaf pass, as a multiple of AdamW's."""
        return self._pass_over(self.adamw_median, self.adamw_passes)

    @property
    def pass_over_axpy(self) -> float | None:
        """Time of a leaf pass, as a multiple of the in-place axpy's."""
        return self._pass_over(self.axpy_median, self.axpy_passes)

    def _pass_over(self, median: float, passes: int) -> float | None:
        if self.passes is None:
            return None
        return (self.median / self.passes) / (median / passes)

    def as_dict(self) -> dict[str, Any]:
        """All numbers, those that follow from others too."""
        return dataclasses.asdict(self) | {
            "seconds": list(self.seconds),
            "median": self.median,
            "mean": statistics.fmean(self.seconds),
            "min": min(self.seconds),
            "max": max(self.seconds),
            "worst_over_median": max(self.seconds) / self.median,
            "step_over_adamw": self.step_over_adamw,
            "pass_over_adamw": self.pass_over_adamw,
            "pass_over_axpy": self.pass_over_axpy,
        }

    def cells(self) -> list[str]:
        """The row as the table shows it."""
        return [
            self.name,
            *map(_milliseconds, (self.median, min(self.seconds), max(self.seconds))),
            f"{self.step_over_adamw:.2f}",
            "-" if self.passes is None else str(self.passes),
            *map(_ratio, (self.pass_over_adamw, self.pass_over_axpy)),
            f"{self.state_bytes_per_parameter:.2f}",
            f"{self.temporary_bytes_per_parameter:.2f}",
            f"{self.temporary_bytes / 1e9:.2f}",
            f"{self.compile_seconds:.1f}",
        ]

    def refresh_cells(self) -> list[str]:
        """The row as the table of refreshing optimizers shows it."""
        mean, worst = statistics.fmean(self.seconds), max(self.seconds)
        return [
            self.name,
            str(self.update_every),
            str(len(self.seconds)),
            *map(_milliseconds, (mean, self.median, worst)),
            f"{worst / self.median:.2f}",
        ]


@dataclasses.dataclass(frozen=True)
class Report:
    """Rows, and the circumstances under which they hold.

    Attributes:
      about: device, versions, sizes and settings by name.
      rows: one for each optimizer.
    """

    about: Mapping[str, Any]
    rows: Sequence[Row]

    def as_dict(self) -> dict[str, Any]:
        """Circumstances by name, and ``optimizers``: the rows."""
        return {**self.about, "optimizers": [row.as_dict() for row in self.rows]}

    def as_json(self) -> str:
        """The text of the JSON file."""
        return json.dumps(self.as_dict(), indent=2) + "\n"

    def caption(self) -> str:
        """One sentence about what was measured, and where."""
        about = self.about
        part = "block matrices of the " if about["matrices_only"] else ""
        return (
            f"One update of the {part}{about['preset']} preset, "
            f"{about['parameters']:,} parameters in {about['dtype']}, on "
            f"{about['device']}, {about['cpu_cores']} CPU cores, jax {about['jax']}."
        )

    def tables(self) -> list[tuple[Sequence[str], list[list[str]]]]:
        """Headings and rows: of all optimizers; of those timed over whole cycles."""
        tables = [(_HEADINGS, [row.cells() for row in self.rows])]
        cycles = [
            row.refresh_cells()
            for row in self.rows
            if row.update_every and len(row.seconds) >= 2 * row.update_every
        ]
        return [*tables, (_REFRESH_HEADINGS, cycles)] if cycles else tables

    def show(self, console: Console) -> None:
        """Prints the tables."""
        console.print(self.caption())
        for headings, rows in self.tables():
            table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
            for heading in headings:
                justify = "left" if heading == headings[0] else "right"
                table.add_column(heading, justify=justify, no_wrap=True)
            for row in rows:
                table.add_row(*row)
            console.print()
            console.print(table)

    def markdown(self) -> str:
        """The tables as a page of the documentation holds them."""
        parts = [self.caption()]
        for headings, rows in self.tables():
            rules = ["---", *["---:"] * (len(headings) - 1)]
            lines = [[" ".join(text.split()) for text in headings], rules, *rows]
            parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in lines))
        return "\n\n".join(parts) + "\n"


def _milliseconds(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:.{0 if value >= 1000 else 1 if value >= 10 else 2}f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
