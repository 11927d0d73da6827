"""The table of a comparison: a row for each contender."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from optimx.bench.compare.config import shown
from optimx.bench.compare.verdict import ratio, signed

HEADINGS = (
    "contender",
    "chosen",
    "final loss",
    "spread",
    "less the baseline's",
    "tokens to its loss",
    "state B/par",
    "step ms",
    "step / baseline",
)


def wide(console: Console) -> Console:
    """Where the output is no terminal, rich would squeeze tables into 80 columns."""
    if console.is_terminal:
        return console
    return Console(file=console.file, width=180, highlight=False)


def cells(row: Mapping[str, Any], results: Mapping[str, Any]) -> list[str]:
    """A row as the table shows it."""
    if "optimizer" not in row:
        return [row["label"], "-", "diverged", *["-"] * 6]
    state = row["state_bytes"] / results["parameters"]
    timing = row["timing"]
    last = [
        f"{state:.2f}",
        f"{timing['step_ms']:.1f}" if timing else "-",
        f"{timing['over_baseline']:.2f}" if timing else "-",
    ]
    chosen = ", ".join(f"{k} {shown(v)}" for k, v in row["point"].items())
    if not chosen:
        chosen = f"learning_rate {row['optimizer']['learning_rate']:g}"
    first = [row["label"], chosen]
    if "mean" not in row:
        ended = f"{row['diverged']} of {len(row['losses'])} diverged"
        return [*first, ended, "-", "-", "-", *last]
    spread = "-" if row["spread"] is None else f"{row['spread']:.4f}"
    numbers = [f"{row['mean']:.4f}", spread]
    if row["label"] == results["baseline"]:
        return [*first, *numbers, "the baseline", "1", *last]
    other = "" if row["against"] == results["baseline"] else f" to {row['against']}"
    return [*first, *numbers, difference(row) + other, tokens(row), *last]


def difference(row: Mapping[str, Any]) -> str:
    """Of final losses, with its interval."""
    found = row["loss_difference"]
    if found["low"] is None:
        return signed(found["value"])
    return (
        f"{signed(found['value'])} ({signed(found['low'])} to {signed(found['high'])})"
    )


def tokens(row: Mapping[str, Any]) -> str:
    """Tokens to the baseline's final loss, with their interval."""
    found = row["token_ratio"]
    value, low, high = (_or_more(found[key]) for key in ("value", "low", "high"))
    if row["loss_difference"]["low"] is None or value == low == high:
        return value
    return f"{value} ({low} to {high})"


def _or_more(value: float | None) -> str:
    """In results.json what is never reached is null."""
    return ratio(float("inf") if value is None else value)
