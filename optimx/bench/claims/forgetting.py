"""AdEMAMix: how long is a batch remembered that was seen once?"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from optimx.bench.claims.impulse import LINEAR, ramps, weights_by_age
from optimx.bench.claims.memory import differences, mean, memory, said
from optimx.bench.claims.progress import Progress
from optimx.bench.claims.request import Request, data_of
from optimx.bench.claims.twins import Twins, follow
from optimx.training.config import Config
from optimx.training.errors import InputError

DEFAULT = ("adamw", "ademamix")
_OLD = 50  # updates: a gradient of this age counts as old


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
      steps: of a run.
      at: the step of the injection, as a share of the run.
      seeds: runs of each optimizer.
      every: steps between looks at the batch; near the injection all are looked at.
    """

    steps: int
    seeds: int
    every: int
    at: float = 0.5


FULL = Size(steps=280, seeds=4, every=5)
QUICK = Size(steps=60, seeds=2, every=3)


@dataclasses.dataclass(frozen=True)
class Arm:
    """An optimizer at a learning rate.

    Attributes:
      optimizer: its name.
      label: for tables.
      settings: of its runs.
    """

    optimizer: str
    label: str
    settings: Mapping[str, object]


def forgetting(request: Request, progress: Progress) -> dict[str, Any]:
    """Measures, and returns numbers by name.

    Args:
      request: what to measure.
      progress: told what happens, in steps.

    Raises:
      InputError: a run that is too short to inject anything.
    """
    size = QUICK if request.quick else FULL
    chosen = arms(request, request.only or DEFAULT, size.steps)
    base = request.config(chosen[0].optimizer, size.steps)
    data, steps = data_of(base), base.train.steps
    at = round(size.at * steps)
    if steps - at < 2 or at < 1:
        raise InputError(f"train.steps = {steps}: must be at least 4")
    progress.expect(len(chosen) * size.seeds * (at + 2 * (steps - at)))
    runs = []
    for arm in chosen:
        pairs = []
        for offset in range(size.seeds):
            seed = base.train.seed + offset
            settings = {**arm.settings, "train.seed": seed}
            config = request.config(arm.optimizer, size.steps, settings)
            pairs.append(follow(config, data, at, size.every, progress.did))
            peak = float((pairs[-1].without - pairs[-1].injected).max())
            progress.say(f"{arm.label}, seed {seed}: largest gain {peak:.4f} nats")
        config = request.config(arm.optimizer, size.steps, arm.settings)
        runs.append(_run(arm, config, at, pairs))
    against = differences(runs)
    return {
        "size": dataclasses.asdict(size),
        "injected_at": at,
        "runs": runs,
        "differences": against,
        "conclusion": said(runs, against),
    }


def arms(request: Request, names: Sequence[str], steps: int) -> list[Arm]:
    """Each optimizer by its recipe, and the first one at the others' learning rates.

    Larger steps write over more, whatever the memory: hence the first one again.
    """
    rates = {n: request.config(n, steps).optimizer.rule.learning_rate for n in names}
    chosen = [Arm(name, name, {}) for name in names]
    first = names[0]
    for rate in dict.fromkeys(rates.values()):
        if rate != rates[first]:
            settings = {"optimizer.learning_rate": rate}
            chosen.append(Arm(first, f"{first} at {rate:g}", settings))
    return chosen


def _run(arm: Arm, config: Config, at: int, pairs: Sequence[Twins]) -> dict[str, Any]:
    ages = pairs[0].ages
    gains = np.array([pair.without - pair.injected for pair in pairs])
    each = [memory(ages, gain) for gain in gains]
    return {
        "optimizer": arm.label,
        "rule": arm.optimizer,
        "learning_rate": config.optimizer.rule.learning_rate,
        "ramps": ramps(config.optimizer.rule),
        "ages": ages.tolist(),
        "gains": gains.tolist(),
        "losses_without": [pair.without.tolist() for pair in pairs],
        "of_mean": memory(ages, gains.mean(axis=0)),
        "by_seed": each,
        "late_gain": mean([one["late_gain"] for one in each]),
        "kept": mean([one["kept"] for one in each]),
        "weights": _weights(config, at),
    }


def _weights(config: Config, at: int) -> dict[str, Any] | None:
    """Weight by age at the injection and at the end; None where it is no sum."""
    rule = config.optimizer.rule
    if rule.name not in LINEAR:
        return None
    found = {}
    for name, step in (("at_injection", at), ("at_end", config.train.steps)):
        weights = weights_by_age(rule, step)
        size = np.abs(weights)
        half = int(np.searchsorted(np.cumsum(size), size.sum() / 2))
        found[name] = {
            "step": step,
            "weights": weights.tolist(),
            "sum": float(weights.sum()),
            "median_age": half,
            "old": _OLD,
            "share_old": float(size[_OLD + 1 :].sum() / size.sum()),
        }
    return found
