"""The picture of a run: loss.png."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


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
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    if train:
        axes.plot(*zip(*train, strict=True), lw=1, alpha=0.6, label="training")
    if validation:
        label = f"validation, {validation[-1][1]:.3f} at the end"
        axes.plot(*zip(*validation, strict=True), "o-", ms=4, label=label)
    axes.set(title=title, xlabel="step", ylabel="cross entropy (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
