"""What is said of gains over time: how large, how long, how sure."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from optimx.bench.compare.statistics import loss_difference

_LATE = 0.2  # of the updates after the injection: their mean is the late gain


def memory(ages: np.ndarray, gain: np.ndarray) -> dict[str, Any]:
    """Peak of a gain, when half of it is gone, what is left late in the run."""
    peak = int(np.argmax(gain))
    late = float(gain[ages > (1 - _LATE) * ages[-1]].mean())
    below = np.flatnonzero(gain[peak:] < gain[peak] / 2)
    return {
        "peak_gain": float(gain[peak]),
        "peak_age": int(ages[peak]),
        "half_gone_age": int(ages[peak + below[0]]) if len(below) else None,
        "late_gain": late,
        "kept": late / float(gain[peak]),
    }


def mean(values: Sequence[float], less: Sequence[float] | None = None) -> Any:
    """Over seeds with its 95 % interval; of differences where there are others."""
    others = np.zeros(len(values)) if less is None else np.asarray(less)
    return dataclasses.asdict(loss_difference(np.asarray(values), others))


def differences(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each other optimizer less the first one, at either of its learning rates."""
    firsts = [run for run in runs if run["rule"] == runs[0]["rule"]]
    found = []
    for run in runs:
        for base in () if run in firsts else firsts:
            pair = {"optimizer": run["optimizer"], "less": base["optimizer"]}
            for key in ("late_gain", "kept"):
                values = [[o[key] for o in one["by_seed"]] for one in (run, base)]
                pair[key] = mean(*values)
            found.append(pair)
    return found


def said(
    runs: Sequence[Mapping[str, Any]], against: Sequence[Mapping[str, Any]]
) -> list[str]:
    """What came out, in sentences."""
    return [_memory_of(run) for run in runs] + [_difference(one) for one in against]


def _memory_of(run: Mapping[str, Any]) -> str:
    mean, half = run["of_mean"], run["of_mean"]["half_gone_age"]
    when = f"half of it is gone after {half}" if half else "half of it is never gone"
    text = (
        f"{run['optimizer']}: the batch seen once gains at most "
        f"{mean['peak_gain']:.4f} nats, {mean['peak_age']} updates after it; {when}; "
        f"late in the run {_interval(run['late_gain'])} nats are left, "
        f"{_interval(run['kept'])} of the peak"
    )
    if run["weights"]:
        end = run["weights"]["at_end"]
        text += (
            f"; {end['share_old']:.1%} of its last step's weight is on gradients older "
            f"than {end['old']} updates"
        )
    return text + "."


def _difference(pair: Mapping[str, Any]) -> str:
    return (
        f"{pair['optimizer']} less {pair['less']}: {_interval(pair['late_gain'])} nats "
        f"late in the run; {_interval(pair['kept'])} of the peak."
    )


def _interval(estimate: Mapping[str, float | None]) -> str:
    value = f"{estimate['value']:.4f}"
    if estimate["low"] is None:
        return value
    return f"{value} ({estimate['low']:.4f} to {estimate['high']:.4f})"
