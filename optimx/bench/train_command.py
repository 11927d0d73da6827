"""``optimx bench train``, behind the command line."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from optimx.bench.compare.table import wide
from optimx.bench.train_cost import TrainReport, TrainRow, measure_training
from optimx.training.config import load_config
from optimx.training.errors import InputError, InterruptedRunError
from optimx.training.files import require_writable

_HEADINGS = (
    "optimizer",
    "step ms",
    "min ms",
    "tokens/s",
    "MFU",
    "optimizer",
    "input",
    "temp GB",
    "device GB",
    "compile s",
)


def bench_train(
    config: Path | None,
    overrides: Sequence[tuple[str, str]],
    *,
    only: Sequence[str],
    steps: int,
    rounds: int,
    by_hand: bool,
    out: Path | None,
    markdown: bool,
) -> None:
    """Measures, and prints the table.

    Args:
      config: a run's file; the default run if None.
      overrides: dotted settings.
      only: optimizers; the run's own if empty.
      steps: of one measurement.
      rounds: measurements of each.
      by_hand: measure a minimal step too.
      out: a file for all the numbers, as JSON.
      markdown: print the table as Markdown.

    Raises:
      InputError: a setting or an argument that cannot be used.
      InterruptedRunError: Ctrl-C.
    """
    for name, value in (("--steps", steps), ("--rounds", rounds)):
        if value < 1:
            raise InputError(f"{name} {value}: must be at least 1")
    named = [[("optimizer.name", name)] for name in only] or [[]]
    configs = [load_config(config, [*overrides, *name]) for name in named]
    first = configs[0]
    if by_hand and (
        first.train.precision != "float32"
        or first.train.accumulation != 1
        or first.model.scan
        or first.optimizer.needs
    ):
        raise InputError(
            "--by-hand: the minimal step is float32, without accumulation, scan and "
            f"stale gradients; train.precision is {first.train.precision}, "
            f"train.accumulation {first.train.accumulation}, model.scan "
            f"{str(first.model.scan).lower()}, optimizer {first.optimizer.rule.name}"
        )
    if out is not None:
        require_writable("--out", out)
    try:
        report = measure_training(
            configs,
            steps=steps,
            rounds=rounds,
            by_hand=by_hand,
            notice=lambda text: print(text, file=sys.stderr),
        )
    except KeyboardInterrupt:
        raise InterruptedRunError("interrupted before the last round") from None
    if out is not None:
        out.write_text(report.as_json(), encoding="utf-8")
    if markdown:
        print(as_markdown(report), end="")
    else:
        show(report, wide(Console(highlight=False)))


def title(report: TrainReport) -> str:
    """What was measured, on what."""
    about = report.about
    peak = about["peak_bytes"]
    most = f" At most a device held {peak / 1e9:.2f} GB, of all rows." if peak else ""
    return (
        f"A step of {about['tokens_per_step']:,} tokens, {about['precision']}, context "
        f"{about['context']}, attention {about['attention']}, on {about['device']}, "
        f"jax {about['jax']}.{most}"
    )


def as_markdown(report: TrainReport) -> str:
    """The table, as Markdown."""
    lines = [
        title(report) + "\n",
        "| " + " | ".join(_HEADINGS) + " |",
        "| --- |" + " ---: |" * (len(_HEADINGS) - 1),
        *("| " + " | ".join(_cells(row)) + " |" for row in report.rows),
    ]
    return "\n".join(lines) + "\n"


def show(report: TrainReport, console: Console) -> None:
    """The table, for a terminal."""
    table = Table(box=None)
    for index, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="right" if index else "left")
    for row in report.rows:
        table.add_row(*_cells(row))
    console.print(title(report), soft_wrap=True)
    console.print(table)


def _cells(row: TrainRow) -> list[str]:
    return [
        row.name,
        f"{row.median * 1e3:.2f}",
        f"{min(row.seconds) * 1e3:.2f}",
        f"{row.tokens_per_second:,.0f}",
        _percent(row.utilization),
        _percent(row.optimizer_share),
        _percent(row.input_wait),
        f"{row.temporary_bytes / 1e9:.2f}",
        f"{row.device_bytes / 1e9:.2f}",
        f"{row.compile_seconds:.1f}",
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
