"""The picture of ``instability``: lengths of steps, and losses."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optimx.bench.claims.layout import add_heading
from optimx.bench.compare.palette import MUTED, colours

_SMOOTH = 10  # steps that a smoothed loss is the mean of


def draw_instability(results: Mapping[str, Any]) -> Figure:
    """A column for each learning rate; rows: length, length over Adam's, loss."""
    runs = results["runs"]
    rates = list(dict.fromkeys(run["times_recipe"] for run in runs))
    by_name = colours(list(dict.fromkeys(run["optimizer"] for run in runs)), "adamw")
    figure = Figure(figsize=(7.2, 8.0))
    every = figure.subplots(3, len(rates), squeeze=False, sharex=True, sharey="row")
    for times, (length, ratio, loss) in zip(rates, every.T, strict=True):
        for run in runs:
            if run["times_recipe"] != times:
                continue
            colour, series = by_name[run["optimizer"]], run["series"]
            label = f"{run['optimizer']} ({run['state_bytes_per_parameter']:.2f} B)"
            _lines(length, series, "rms", _positive, colour, label)
            _lines(ratio, series, "adamw/rms", _positive, colour)
            _lines(loss, series, "loss", _smoothed, colour)
        length.set_yscale("log")
        ratio.set_yscale("log")
        ratio.axhline(1, color=MUTED, lw=0.8)
        length.set_title(f"{times:g} x the recipe's learning rate", loc="left")
        loss.set_xlabel("step")
    names = (
        "rms of the step\n/ learning rate",
        "rms of the step / rms of\nAdam's, same gradients",
        f"training loss, mean of\n{_SMOOTH} steps (nats per token)",
    )
    for axes, name in zip(every[:, 0], names, strict=True):
        axes.set_ylabel(name)
    heading = "CAME with and without confidence, AdamW (bytes of state per parameter)"
    add_heading(figure, heading, every[0][0], 3)
    return figure


def _lines(
    axes: Axes,
    series: Sequence[Mapping[str, Any]],
    key: str,
    shown: Callable[[Any], np.ndarray],
    colour: str,
    label: str | None = None,
) -> None:
    """A line for each seed that has such a series; the first strong and named."""
    for index, one in enumerate(series):
        if key in one:
            values = shown(one[key])
            axes.plot(
                np.arange(1, len(values) + 1),
                values,
                color=colour,
                lw=0.7 if index else 1.3,
                alpha=0.6 if index else 1.0,
                label=None if index else label,
            )


def _positive(values: Any) -> np.ndarray:
    found = np.asarray(values, float)
    return np.where(found > 0, found, np.nan)


def _smoothed(values: Any) -> np.ndarray:
    found = np.asarray(values, float)
    ends = np.arange(1, len(found) + 1)
    starts = np.maximum(0, ends - _SMOOTH)
    return np.array([found[a:b].mean() for a, b in zip(starts, ends, strict=True)])
