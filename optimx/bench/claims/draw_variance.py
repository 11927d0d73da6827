"""The picture of ``variance``: error, bias and variance over gamma."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from optimx.bench.claims.errors import MODES
from optimx.bench.claims.layout import add_heading
from optimx.bench.compare.palette import INK, MUTED, colours

_COLOURS = colours(MODES, "")
_PARTS = {
    "error": ("-", 1.8, "error = variance + bias²"),
    "variance": ("--", 1.1, "its variance (other batches)"),
    "bias2": (":", 1.4, "its bias² (old parameters)"),
}
_SHOWN = (0.0, 0.025, 0.1, 0.4, 1.0)


def draw_variance(results: Mapping[str, Any]) -> Figure:
    """A row for each run, a column for each checkpoint."""
    runs, gammas = results["runs"], results["gammas"]
    columns = max(len(run["checkpoints"]) for run in runs)
    figure = Figure(figsize=(7.2, 2.4 * len(runs) + 1.4))
    every = figure.subplots(len(runs), columns, squeeze=False, sharex=True, sharey=True)
    for run, row in zip(runs, every, strict=True):
        for found, axes in zip(run["checkpoints"], row, strict=True):
            _panel(axes, found["all"], gammas, results["size"]["replays"])
            axes.set_title(f"{run['optimizer']}, step {found['step']}", loc="left")
        row[0].set_ylabel("squared error\nover |full gradient|²")
    for axes in every[-1]:
        axes.set_xlabel("gamma (0: plain average)")
    _legend(every[0][0])
    add_heading(
        figure, "How far MARS's momentum is from the full gradient", every[0][0], 2
    )
    return figure


def _panel(
    axes: Axes, found: Mapping[str, Any], gammas: list[float], replays: int
) -> None:
    for mode, colour in _COLOURS.items():
        one = found[mode]
        # What of a squared bias is less than chance alone makes tells nothing.
        lost = np.asarray(one["bias2"]) < np.asarray(one["variance"]) / replays
        for part, (style, width, _) in _PARTS.items():
            values = np.asarray(one[part])
            shown = np.where(lost, np.nan, values) if part == "bias2" else values
            axes.plot(gammas, shown, style, lw=width, color=colour)
    axes.axhline(found["approximate"]["error"][0], color=MUTED, lw=0.8, zorder=1)
    axes.set_yscale("log")
    axes.set_xscale("symlog", linthresh=0.0125, linscale=0.5)
    axes.set_xlim(0, 1)
    axes.set_xticks(_SHOWN, [f"{gamma:g}" for gamma in _SHOWN])
    axes.xaxis.set_minor_locator(NullLocator())


def _legend(axes: Axes) -> None:
    """Entries for what all panels share."""
    for mode, colour in _COLOURS.items():
        axes.plot([], [], color=colour, lw=2, label=f"{mode} correction")
    axes.plot([], [], lw=0.8, color=MUTED, label="error without correction")
    for style, width, label in _PARTS.values():
        axes.plot([], [], style, lw=width, color=INK, label=label)
