"""How steady a run was: a few numbers for what was recorded at each step."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BEFORE = 50  # losses that a spike is held against
SPIKE = 4.0  # standard deviations above their median


def summary(series: Mapping[str, Sequence[float]], warmup: int) -> dict[str, Any]:
    """A few numbers for each series.

    Args:
      series: by name, a number for each step.
      warmup: steps that medians leave out.
    """
    late = {key: np.asarray(values[warmup:]) for key, values in series.items()}
    rms = np.asarray(series["rms"])
    with np.errstate(divide="ignore", invalid="ignore"):
        changes = np.diff(np.log(late["rms"]))
    found = {f"{key}_median": np.median(late[key]) for key in late if key != "loss"}
    found |= {
        "rms_max": rms.max(),
        "rms_max_step": int(rms.argmax()) + 1,
        # How much longer or shorter a step is than the one before, typically.
        "rms_change": changes.std(),
        "last_loss": np.mean(series["loss"][-max(1, len(rms) // 10) :]),
        "spikes": spikes(series["loss"]),
    }
    return {key: plain(float(value)) for key, value in found.items()}


def spikes(losses: Sequence[float]) -> int:
    """How many losses stand out above those before them.

    A loss does that is more than four standard deviations above the median of the 50
    losses before it; their standard deviation is that of a normal distribution with
    the same median absolute deviation. What is not finite stands out, and is not held
    against what comes after it.
    """
    values, count = np.asarray(losses), 0
    for step in range(BEFORE, len(values)):
        before = values[step - BEFORE : step]
        before = before[np.isfinite(before)]
        if not len(before):
            count += not np.isfinite(values[step])
            continue
        median = np.median(before)
        deviation = 1.4826 * np.median(np.abs(before - median))
        # Not "more than the limit": what is not finite is neither more nor less.
        count += not values[step] <= median + SPIKE * deviation
    return count


def plain(value: float) -> float | None:
    """JSON has no word for what is not finite."""
    return value if np.isfinite(value) else None
