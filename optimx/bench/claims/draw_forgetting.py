"""The picture of ``forgetting``: what a batch gained, and weights by age."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optimx.bench.claims.layout import add_heading
from optimx.bench.compare.palette import MUTED, colours


def draw_forgetting(results: Mapping[str, Any]) -> Figure:
    """The gain of the injected batch above, the weights below."""
    runs = results["runs"]
    figure = Figure(figsize=(7.2, 6.6))
    above, below = figure.subplots(2, 1)
    by_rule = colours(list(dict.fromkeys(run["rule"] for run in runs)), "adamw")
    seen: set[str] = set()
    for run in runs:
        colour, again = by_rule[run["rule"]], run["rule"] in seen
        _gain(above, run, colour, "--" if again else "-")
        # Weights are the same at every learning rate.
        if run["weights"] and not again:
            _weights(below, run, colour)
        seen.add(run["rule"])
    above.axhline(0, color=MUTED, lw=0.8)
    above.set(
        xscale="log",
        xlabel="updates since the batch was seen (1: its own)",
        ylabel="gain: its loss without seeing it\nless that with (nats per token)",
    )
    seeds = len(runs[0]["gains"])
    above.set_title(
        f"Gain on a held-out batch seen once: mean and range over {seeds} seeds",
        loc="left",
    )
    below.set(
        xscale="log",
        yscale="log",
        xlabel="age of the gradient + 1 (updates)",
        ylabel="|weight in the step|",
    )
    below.set_title(
        "Weight of old gradients at the end of the run (dotted: at the injection)",
        loc="left",
    )
    top = max((line.get_ydata().max() for line in below.lines), default=1.0)
    below.set_ylim(top * 1e-5, top * 2)
    add_heading(figure, "How long a gradient is remembered", above, 3)
    return figure


def _gain(axes: Axes, run: Mapping[str, Any], colour: str, style: str) -> None:
    ages, gains = run["ages"], np.asarray(run["gains"])
    low, high = gains.min(axis=0), gains.max(axis=0)
    axes.fill_between(ages, low, high, color=colour, alpha=0.12, lw=0)
    label = f"{run['rule']}, learning rate {run['learning_rate']:g}"
    axes.plot(ages, gains.mean(axis=0), style, color=colour, lw=1.6, label=label)


def _weights(axes: Axes, run: Mapping[str, Any], colour: str) -> None:
    for when, style, width in (("at_end", "-", 1.6), ("at_injection", ":", 1.2)):
        size = np.abs(run["weights"][when]["weights"])
        axes.plot(np.arange(1, len(size) + 1), size, style, color=colour, lw=width)
