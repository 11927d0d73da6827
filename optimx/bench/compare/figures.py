"""The pictures of a report, drawn from the contents of results.json."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from optimx.bench.compare.intervals import draw_intervals
from optimx.bench.compare.monitors import draw_monitors
from optimx.bench.compare.palette import GRID, INK, MUTED, colours

Results = Mapping[str, Any]

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "optimx",
    "font.size": 10,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": GRID,
}
_UNITS = {"hours": 3600, "minutes": 60, "seconds": 1}
_SHOWN_FROM = 0.15  # of the run: before, curves are steep and all alike


def draw(results: Results) -> dict[str, Figure]:
    """The pictures by name."""
    with matplotlib.rc_context(_STYLE):
        per_step = results["tokens_per_step"]
        found = {
            "loss_tokens": _losses(
                results, "tokens", lambda row, steps: steps * per_step
            ),
            "loss_steps": _losses(results, "steps", lambda row, steps: steps),
            "loss_time": _losses(results, *_time(results)),
        }
        if any(row["sweep"] for row in results["contenders"]):
            found["learning_rates"] = _learning_rates(results)
        intervals = draw_intervals(results)
        if intervals is not None:
            found = {"differences": intervals} | found
        monitors = draw_monitors(results)
        if monitors is not None:
            found["monitors"] = monitors
        return found


def as_svg(figure: Figure) -> str:
    """The picture as text; the same picture is the same text."""
    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _time(results: Results) -> tuple[str, Callable]:
    """The unit in which the longest run is a readable number, and how to get there."""
    steps = [row["timing"]["step_ms"] for row in results["contenders"] if _timed(row)]
    longest = max(steps, default=0.0) * results["steps"] / 1e3
    fitting = [name for name, size in _UNITS.items() if longest >= 2 * size]
    name = fitting[0] if fitting else "seconds"

    def elapsed(row: Mapping[str, Any], steps: np.ndarray) -> np.ndarray | None:
        return (
            steps * row["timing"]["step_ms"] / (1e3 * _UNITS[name])
            if _timed(row)
            else None
        )

    return f"{name} of training steps", elapsed


def _timed(row: Mapping[str, Any]) -> bool:
    return row.get("timing") is not None


def _losses(results: Results, unit: str, x_of: Callable) -> Figure:
    figure, axes = _figure(unit, "validation loss (nats per token)")
    rows = [row for row in results["contenders"] if "curve" in row]
    by_label = colours([r["label"] for r in results["contenders"]], results["baseline"])
    ends, low, high = [], [], []
    for row in rows:
        steps = np.asarray(row["curve"]["steps"], float)
        losses = np.asarray(row["curve"]["losses"])
        x = x_of(row, steps)
        if x is None:
            continue
        mean, colour = losses.mean(axis=0), by_label[row["label"]]
        front = row["label"] == results["baseline"]
        if len(losses) > 1:
            axes.fill_between(
                x,
                losses.min(axis=0),
                losses.max(axis=0),
                color=colour,
                alpha=0.15,
                lw=0,
            )
        axes.plot(x, mean, color=colour, lw=2.2 if front else 1.4, zorder=3 + front)
        axes.plot(x[-1:], mean[-1:], "o", ms=3.5, color=colour, zorder=4)
        ends.append((float(mean[-1]), row["label"], colour))
        late = mean[steps >= _SHOWN_FROM * results["steps"]]
        low.append(losses[:, -1].min())
        high.append(late.max())
    if low:
        # What is far worse than the others may leave the picture at its top.
        top = max(np.median(high), max(end for end, *_ in ends))
        margin = 0.04 * (top - min(low)) or 0.01
        axes.set_ylim(min(low) - margin, top + margin)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(FuncFormatter(_count))
    _name_at_the_right(axes, ends)
    return figure


def _learning_rates(results: Results) -> Figure:
    figure, axes = _figure("learning rate", "validation loss after the sweep's run")
    by_label = colours([r["label"] for r in results["contenders"]], results["baseline"])
    ends = []
    for row in results["contenders"]:
        best = _best_by_rate(row)
        if len(best) < 2:
            continue
        rates = sorted(best)
        losses = [best[rate] for rate in rates]
        colour = by_label[row["label"]]
        axes.plot(rates, losses, "o-", color=colour, lw=1.4, ms=3.5)
        lowest = int(np.argmin(losses))
        axes.plot(
            rates[lowest], losses[lowest], "o", ms=8, mfc="none", color=colour, mew=1.4
        )
        ends.append((losses[lowest], row["label"], colour))
    if ends:
        losses = [end for end, *_ in ends]
        drawn = np.concatenate([line.get_ydata() for line in axes.lines])
        reach = 3 * (max(losses) - min(losses)) or 0.1
        axes.set_ylim(top=min(drawn.max() * 1.01, max(losses) + max(reach, 0.3)))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter(FuncFormatter(_power))
    axes.xaxis.set_minor_locator(NullLocator())
    _name_at_the_right(axes, ends)
    return figure


def _best_by_rate(row: Mapping[str, Any]) -> dict[float, float]:
    """Mean loss of each learning rate, the best over what else was tried.

    Of the first rung: later ones have fewer rates and longer runs.
    """
    best: dict[float, float] = {}
    for one in row["sweep"][0]["points"] if row["sweep"] else []:
        rate, losses = one["point"].get("learning_rate"), one["losses"]
        if rate is None or None in losses:
            continue
        mean = float(np.mean(losses))
        best[rate] = min(mean, best.get(rate, mean))
    return best


def _figure(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.2, 4.3))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.09, right=0.73, bottom=0.12, top=0.97)
    axes.grid(lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(xlabel=x, ylabel=y)
    return figure, axes


def _name_at_the_right(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Labels in the order of their losses, apart, each led to from its own."""
    if not ends:
        return
    low, high = axes.get_ylim()
    ends = sorted(ends)
    wanted = [min(1.0, max(0.0, (loss - low) / (high - low))) for loss, *_ in ends]
    places = _apart(wanted, min(0.055, 1 / max(1, len(ends) - 1)))
    for (loss, label, colour), at, place in zip(ends, wanted, places, strict=True):
        axes.annotate(
            f"{loss:.3f} {label}",
            xy=(1.005, at),
            xytext=(1.05, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=colour,
            fontsize=8.5,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "lw": 0.6,
                "alpha": 0.6,
                "relpos": (0, 0.5),
                "shrinkA": 2,
                "shrinkB": 0,
            },
        )


def _apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Places near the wanted ones, in their order, at least a gap from each other."""
    shifted = [place - index * gap for index, place in enumerate(wanted)]
    # The nearest rising sequence: neighbours that fall are pooled at their mean.
    pools: list[list[float]] = []
    for place in shifted:
        pools.append([place])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    level = [float(np.mean(pool)) for pool in pools for _ in pool]
    room = 1 - gap * (len(wanted) - 1)
    return [min(max(at, 0), room) + i * gap for i, at in enumerate(level)]


def _power(value: float, _: object) -> str:
    """``3e-4``, as configurations say it."""
    digits, power = f"{value:.0e}".split("e")
    return f"{digits}e{int(power)}"


def _count(value: float, _: object) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
