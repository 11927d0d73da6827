"""The picture of a run: loss.png."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# What is drawn of a monitor, by the ends of the names: one panel each, those with
# decades on a logarithmic axis. The file has the rest.
_PANELS = (
    ("update RMS", ("update_rms",), True),
    (
        "cosines and shares",
        ("cosine", "correct/change", "clip/shrunk", "confidence"),
        False,
    ),
    ("age of averages (updates)", ("age",), True),
    ("condition of factors", ("condition",), True),
)


def plot_losses(lines: Iterable[dict[str, Any]], title: str, path: Path) -> None:
    """Draws training and validation loss over the steps.

    Args:
      lines: of metrics.jsonl.
      title: says which optimizer and which model.
      path: of the PNG file.
    """
    lines = list(lines)
    # Of a skipped update the loss may be unknown: a gap in the line.
    train = [
        (line["step"], math.nan if line["loss"] is None else line["loss"])
        for line in lines
        if "loss" in line
    ]
    validation = [
        (line["step"], line["val_loss"]) for line in lines if "val_loss" in line
    ]
    monitored = [line for line in lines if "monitor" in line]
    panels = [(*panel, names) for panel in _PANELS if (names := _of(panel, monitored))]
    figure, axes, below = _figure(len(panels))
    if train:
        axes.plot(*zip(*train, strict=True), lw=1, alpha=0.6, label="training")
    if validation:
        label = f"validation, {validation[-1][1]:.3f} at the end"
        axes.plot(*zip(*validation, strict=True), "o-", ms=4, label=label)
    axes.set(title=title, ylabel="cross entropy (nats per token)")
    axes.legend()
    for one, (what, _, decades, names) in zip(below, panels, strict=True):
        _plot_monitor(one, monitored, names)
        one.set(ylabel=what, yscale="log" if decades else "linear")
    for one in (axes, *below):
        one.grid(alpha=0.3)
    (axes, *below)[-1].set(xlabel="step")
    figure.align_ylabels()
    figure.savefig(path, dpi=150)


def _figure(panels: int) -> tuple[Figure, Axes, list[Axes]]:
    """A large panel, and small ones below it over the same steps."""
    if not panels:
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        return figure, figure.subplots(), []
    figure = Figure(figsize=(9, 4.5 + 2 * panels), layout="constrained")
    heights = [2.2] + [1] * panels
    axes, *below = figure.subplots(
        1 + panels, sharex=True, gridspec_kw={"height_ratios": heights}
    )
    return figure, axes, below


def _of(panel: tuple, lines: list[dict[str, Any]]) -> list[str]:
    """Names of the values in a panel."""
    _, ends, _ = panel
    names = dict.fromkeys(name for line in lines for name in line["monitor"])
    return [n for n in names if any(f"/{n}".endswith(f"/{end}") for end in ends)]


def _plot_monitor(axes: Axes, lines: list[dict[str, Any]], names: list[str]) -> None:
    for name in names:
        steps = [line["monitor"]["update"] for line in lines]
        values = [line["monitor"].get(name) for line in lines]
        values = [math.nan if value is None else value for value in values]
        axes.plot(steps, values, ".-", lw=1, label=name)
    # The names are long and the curves many: beside the panel, not over it.
    axes.legend(
        loc="upper left", bbox_to_anchor=(1, 1), fontsize="x-small", frameon=False
    )
