"""``train.monitor``: a run's optimizer, which may measure what it does."""

import math
from typing import Any

import optax

from optimx.monitor import monitored
from optimx.training.config import Config
from optimx.training.optimizer import build_optimizer

EVERY = 100
"""Updates between two measurements: each is worth some updates, no training step."""


def optimizer_of(config: Config) -> optax.GradientTransformationExtraArgs:
    """The transformation of a run, monitored where it says so.

    Args:
      config: of the run.
    """
    tx = build_optimizer(
        config.optimizer,
        config.schedule,
        config.train.steps,
        stacked=config.model.scan,
    )
    if not config.train.monitor:
        return tx
    return monitored(tx, every=EVERY, needs=config.optimizer.needs)


def measured_lately(
    metrics: dict[str, Any], step: int, log_every: int
) -> dict[str, Any]:
    """What a training line says of a measurement in the steps before it, if there was.

    It depends on the step alone, so that a resumed run writes the same lines.

    Args:
      metrics: of the step.
      step: its number.
      log_every: steps between two training lines.
    """
    found = {name: float(value) for name, value in metrics["monitor"].items()}
    skipped = int(metrics["skipped"])
    # Of a step that is skipped the optimizer knows nothing.
    update = int(found.pop("measured"))
    if update <= max(0, step - skipped - log_every):
        return {}
    values = {k: v if math.isfinite(v) else None for k, v in found.items()}
    return {"monitor": {"update": update, "skipped_steps": skipped} | values}
