"""The picture of a comparison's estimates: each difference with its interval."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optimx.bench.compare.palette import INK, MUTED, colours
from optimx.bench.compare.table import tokens

_ROW, _REST = 0.27, 0.95  # inches
_WIDTH = 7.2
_FAR = 3.0  # times the reach of the others: what is worse than that leaves the picture


def draw_intervals(results: Mapping[str, Any]) -> Figure | None:
    """Final losses less those they are held against, the lowest at the top.

    A full dot is a difference whose interval leaves 0 out, an arrow one that lies to
    the right of the picture.
    """
    rows = [row for row in results["contenders"] if "loss_difference" in row]
    if not rows:
        return None
    rows.sort(key=lambda row: row["loss_difference"]["value"])
    by_label = colours([r["label"] for r in results["contenders"]], results["baseline"])
    figure = Figure(figsize=(_WIDTH, _REST + _ROW * len(rows)))
    axes = figure.subplots()
    height = figure.get_figheight()
    figure.subplots_adjust(
        left=0.3, right=0.78, bottom=0.55 / height, top=1 - 0.3 / height
    )
    axes.set_ylim(len(rows) - 0.5, -0.5)
    limit = _limit(rows)
    axes.axvline(0, color=INK, lw=1.4, zorder=1)
    for place, row in enumerate(rows):
        _draw(axes, place, row["loss_difference"], limit, by_label[row["label"]])
        _write(axes, place, row, results["baseline"])
    if limit is not None:
        axes.set_xlim(min(axes.get_xlim()[0], -0.05 * limit), limit)
    axes.set_yticks([])
    axes.grid(axis="x", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel(f"final loss less that of {results['baseline']} (nats per token)")
    _text(axes, 1.03, -0.95, "tokens to its loss", MUTED)
    return figure


def _draw(
    axes: Axes,
    place: int,
    found: Mapping[str, float | None],
    limit: float | None,
    colour: str,
) -> None:
    value, low, high = found["value"], found["low"], found["high"]
    if limit is not None and value > limit:
        axes.plot(limit, place, ">", color=colour, ms=6, clip_on=False)
        return
    sure = low is not None and not low <= 0 <= high
    if low is not None:
        axes.plot([low, high], [place, place], color=colour, lw=1.8)
    axes.plot(
        value,
        place,
        "o",
        ms=6,
        mec=colour,
        mew=1.5,
        color=colour if sure else "none",
    )


def _write(axes: Axes, place: int, row: Mapping[str, Any], baseline: str) -> None:
    label = row["label"]
    if row["against"] != baseline:
        label = f"{label} less\n{row['against']}"
    _text(axes, -0.03, place, label, INK, ha="right")
    _text(axes, 1.03, place, tokens(row), INK)


def _text(axes: Axes, x: float, y: float, text: str, colour: str, ha="left") -> None:
    axes.text(
        x,
        y,
        text,
        color=colour,
        ha=ha,
        va="center",
        fontsize=8.5,
        linespacing=0.95,
        transform=axes.get_yaxis_transform(),
    )


def _limit(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Where the picture ends, if some rows are far worse than most are different."""
    values = sorted(abs(row["loss_difference"]["value"]) for row in rows)
    usual = values[len(values) // 2]
    limit = _FAR * usual
    return (
        limit if 0 < limit < max(r["loss_difference"]["value"] for r in rows) else None
    )
