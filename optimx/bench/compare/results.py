"""Everything that a comparison found, as one table of plain values: results.json."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from optimx.bench.circumstances import hardware, versions
from optimx.bench.compare.config import Comparison, Contender, Point
from optimx.bench.compare.monitors import monitored_values
from optimx.bench.compare.statistics import (
    Estimate,
    loss_difference,
    spread,
    token_ratio,
)
from optimx.bench.compare.sweep import Choice
from optimx.bench.compare.timing import Timing
from optimx.bench.compare.trials import Result, Trial
from optimx.bench.compare.verdict import verdict
from optimx.training.config import Config, tables
from optimx.training.errors import DivergedError
from optimx.training.network.model import parameter_count


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is known of one contender in the end.

    Attributes:
      choice: of its sweep.
      finals: trials and what they left; none where every run of the sweep diverged.
      timing: of its step; None where there is no final.
    """

    choice: Choice
    finals: Sequence[tuple[Trial, Result]]
    timing: Timing | None

    @property
    def contender(self) -> Contender:
        """Whom it is about."""
        return self.choice.contender

    @property
    def diverged(self) -> int:
        """Final runs that did not come to their end."""
        return sum(not math.isfinite(result.loss) for _, result in self.finals)

    @property
    def losses(self) -> np.ndarray:
        """Final losses, one for each seed."""
        return np.asarray([result.loss for _, result in self.finals])

    @property
    def curves(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps of the evaluations, and losses of each seed at them."""
        steps = [step for step, _ in self.finals[0][1].curve]
        losses = [[loss for _, loss in result.curve] for _, result in self.finals]
        return np.asarray(steps, np.float64), np.asarray(losses)

    def at_edge(self) -> list[str]:
        """Numbers of the grid of which the smallest or the largest value won."""
        edges = []
        for key, chosen in self.choice.point or ():
            values = self.contender.grid[key]
            numbers = all(type(value) in (int, float) for value in values)
            if numbers and len(values) > 1 and chosen in (min(values), max(values)):
                edges.append(key)
        return edges


def assemble(
    comparison: Comparison,
    entries: Sequence[Entry],
    trials: Sequence[tuple[Trial, Result]],
    command: str,
) -> dict[str, Any]:
    """The contents of results.json.

    Args:
      comparison: that was made.
      entries: one for each contender, in their order.
      trials: all of them, and what they left.
      command: that made it.

    Raises:
      DivergedError: the baseline has no final loss to be compared with.
    """
    base = comparison.base
    by_label = {entry.contender.label: entry for entry in entries}
    for label in dict.fromkeys(entry.contender.against for entry in entries):
        if not by_label[label].finals or by_label[label].diverged:
            raise DivergedError(
                f"{label}: others are held against it, and it diverged; lower learning "
                "rates in its grid may help"
            )
    baseline = by_label[comparison.baseline]
    rows = [_row(entry, by_label[entry.contender.against], base) for entry in entries]
    return {
        "command": command,
        "versions": versions(),
        "hardware": hardware(),
        "data_sha256": trials[0][1].summary["data_sha256"],
        "parameters": parameter_count(base.model),
        "steps": base.train.steps,
        "tokens_per_step": base.tokens_per_step,
        "tokens": base.train.steps * base.tokens_per_step,
        "run": {k: v for k, v in tables(base).items() if k != "optimizer"},
        "baseline": comparison.baseline,
        "seeds": [trial.config.train.seed for trial, _ in baseline.finals],
        "sweep_seeds": comparison.sweep_seeds,
        "halving": comparison.halving,
        "contenders": rows,
        "shared_programs": _shared(trials),
        "trial_seconds": sum(result.summary["seconds"] for _, result in trials),
        "conclusion": _conclusion(rows, comparison.baseline),
        "trials": [
            # A run has the same name whatever it is for: that may have changed.
            {"folder": trial.name, **result.summary, "stage": trial.stage}
            for trial, result in trials
        ],
    }


def _row(entry: Entry, baseline: Entry, base: Config) -> dict[str, Any]:
    contender, choice = entry.contender, entry.choice
    row: dict[str, Any] = {
        "label": contender.label,
        "against": contender.against,
        "grid": {key: list(values) for key, values in contender.grid.items()},
        "point": _point(choice.point),
        "at_edge": entry.at_edge(),
        "sweep": [
            {
                "steps": rung.steps,
                "points": [
                    {"point": dict(point), "losses": _finite(losses)}
                    for point, losses in rung.losses.items()
                ],
            }
            for rung in choice.rungs
        ],
        "diverged": entry.diverged,
    }
    if not entry.finals:
        return row | {"verdict": f"{contender.label}: every run of its sweep diverged."}
    first, result = entry.finals[0]
    row |= {
        "optimizer": tables(first.config)["optimizer"],
        "losses": _finite(entry.losses),
        "state_bytes": result.summary["state_bytes"],
        "timing": entry.timing and entry.timing.as_dict(),
    }
    if entry.diverged:
        return row | {
            "verdict": f"{contender.label}: {entry.diverged} of {len(entry.finals)} "
            "final runs diverged, so it is not compared."
        }
    steps, losses = entry.curves
    row |= {
        "mean": float(entry.losses.mean()),
        "spread": spread(entry.losses),
        "curve": {"steps": steps.tolist(), "losses": losses.tolist()},
        "monitor": monitored_values([result for _, result in entry.finals]),
    }
    if entry is baseline:  # of all, or it would have another one
        return row
    difference = loss_difference(entry.losses, baseline.losses)
    tokens = token_ratio(steps, losses, baseline.losses, base.train.steps)
    return row | {
        "loss_difference": _estimate(difference),
        "token_ratio": _estimate(tokens),
        "verdict": verdict(
            contender.label, baseline.contender.label, difference, tokens
        ),
    }


def _conclusion(rows: Sequence[Mapping[str, Any]], baseline: str) -> list[str]:
    sentences = [row["verdict"] for row in rows if row["label"] != baseline]
    edges = [row["label"] for row in rows if row["at_edge"]]
    if edges:
        sentences.append(
            "The best value stands at the edge of its grid for "
            f"{', '.join(edges)}: a wider grid may find a better one."
        )
    return sentences


def _shared(trials: Sequence[tuple[Trial, Result]]) -> list[dict[str, Any]]:
    """How much faster runs in one program were measured to be, each once."""
    found: dict[str, dict[str, Any]] = {}
    for trial, result in trials:
        shared = result.summary.get("shared")
        if shared:
            one = {"label": trial.contender.label, "stage": trial.stage, **shared}
            found[repr(one)] = one
    return list(found.values())


def _point(point: Point | None) -> dict[str, Any] | None:
    return None if point is None else dict(point)


def _finite(values: Sequence[float] | np.ndarray) -> list[float | None]:
    return [float(v) if math.isfinite(v) else None for v in values]


def _estimate(estimate: Estimate) -> dict[str, float | None]:
    """JSON has no word for infinity: ``null`` in place of a ratio is "not reached"."""
    return {
        key: value if value is not None and math.isfinite(value) else None
        for key, value in dataclasses.asdict(estimate).items()
    }
