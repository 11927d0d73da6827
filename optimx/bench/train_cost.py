"""What a training step costs: ``python -m optimx bench train``.

The trainer's own compiled step, on the batches of its own data. Optimizers take
turns, a few steps each, so that a machine that is busy with other things slows all
of them; plain SGD is the step without an optimizer.
"""

import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from optimx.bench import minimal
from optimx.bench.update_cost import device_name
from optimx.training.config import Config
from optimx.training.data import Dataset, load_dataset
from optimx.training.network import flops
from optimx.training.network.attention import resolve_attention
from optimx.training.optimizer import build_optimizer
from optimx.training.parallel.feed import Feed
from optimx.training.parallel.layout import placed, state_sharding
from optimx.training.parallel.mesh import check_batch, make_mesh
from optimx.training.planning.chips import chip_of
from optimx.training.planning.memory import step_memory
from optimx.training.state import abstract_state, init_state
from optimx.training.step import make_train_step

SGD, BY_HAND = "sgd", "by hand"


@dataclasses.dataclass(frozen=True)
class TrainRow:
    """What a step with one optimizer costs.

    Attributes:
      name: of the optimizer; ``sgd`` is p <- p - a g, ``by hand`` the run's optimizer
        in a minimal step.
      seconds: of a step, in each round.
      tokens_per_second: by the median.
      utilization: model operations over the device's dense bfloat16 peak; None where
        that is not known.
      optimizer_share: of the step, by difference with ``sgd`` round by round, the
        median.
      input_wait: of the step, by difference between a loop that draws batches and one
        that has them; None where it was not measured.
      compile_seconds: to trace, lower and compile the step.
      temporary_bytes: that the compiled step allocates on a device.
      device_bytes: that the compiled step takes of a device's memory in all.
    """

    name: str
    seconds: Sequence[float]
    tokens_per_second: float
    utilization: float | None
    optimizer_share: float | None
    input_wait: float | None
    compile_seconds: float
    temporary_bytes: int
    device_bytes: int

    @property
    def median(self) -> float:
        """Seconds of a step in the round in the middle."""
        return statistics.median(self.seconds)


@dataclasses.dataclass(frozen=True)
class TrainReport:
    """All rows, and what they were measured on."""

    about: dict[str, Any]
    rows: Sequence[TrainRow]

    def as_json(self) -> str:
        """Everything, with each round's seconds."""
        rows = [dataclasses.asdict(row) | {"median": row.median} for row in self.rows]
        return json.dumps(self.about | {"rows": rows}, indent=2) + "\n"


def measure_training(
    configs: Sequence[Config],
    *,
    steps: int,
    rounds: int,
    by_hand: bool = False,
    notice: Callable[[str], None] = lambda text: None,
) -> TrainReport:
    """Measures the steps of runs that differ in their optimizer.

    Args:
      configs: of the runs.
      steps: of one measurement.
      rounds: measurements of each.
      by_hand: measure a minimal step with the first run's optimizer too; float32, one
        device.
      notice: told what happens.
    """
    first = configs[0]
    mesh = make_mesh(first.mesh)
    check_batch(first, mesh)
    with jax.set_mesh(mesh):
        notice("reading the data")
        data = load_dataset(first.data, first.model.vocab)
        subjects = [_Subject(SGD, first, mesh, data, optax.sgd(1e-3))]
        for config in configs:
            name = config.optimizer.rule.name
            notice(f"compiling {name}")
            subjects.append(_Subject(name, config, mesh, data))
        if by_hand:
            subjects.append(_ByHand(first, Feed(first, data, mesh)))
        for subject in subjects:
            subject.run(2)
        times: list[list[float]] = [[] for _ in subjects]
        waits: list[list[float]] = [[] for _ in subjects]
        for turn in range(rounds):
            notice(f"round {turn + 1} of {rounds}")
            for subject, seconds, wait in zip(subjects, times, waits, strict=True):
                seconds.append(subject.run(steps))
                wait.append(subject.run(steps, draw=True))
    rows = [
        _row(subject, first, seconds, times[0], wait, mesh.size)
        for subject, seconds, wait in zip(subjects, times, waits, strict=True)
    ]
    return TrainReport(_about(first, mesh, steps, rounds), rows)


class _Subject:
    """An optimizer's compiled step, its state, and batches."""

    def __init__(self, name, config: Config, mesh, data: Dataset, tx=None):
        config = resolve_attention(config, jax.devices()[0].platform)
        if tx is None:
            tx = build_optimizer(
                config.optimizer,
                config.schedule,
                config.train.steps,
                stacked=config.model.scan,
            )
        else:
            rule = dataclasses.replace(config.optimizer.rule, name="adamw")
            config = dataclasses.replace(
                config, optimizer=dataclasses.replace(config.optimizer, rule=rule)
            )
        tx = optax.with_extra_args_support(tx)
        # Each draws what its own optimizer needs, the next batch or not.
        self.name, self._feed = name, Feed(config, data, mesh)
        shardings = state_sharding(config, tx, mesh)
        shapes = placed(abstract_state(config, tx), shardings)
        self._batch = self._feed.inputs(0)
        step = make_train_step(config, tx, shardings)
        began = time.perf_counter()
        self._step = step.lower(shapes, *self._batch).compile()
        self.compile_seconds = time.perf_counter() - began
        self.memory = step_memory(self._step)
        self._state = init_state(config, tx, shardings)

    def run(self, steps: int, *, draw: bool = False) -> float:
        """Seconds of a step, of so many in a row; with or without drawing batches."""
        began = time.perf_counter()
        for index in range(steps):
            batch = self._feed.inputs(index) if draw else self._batch
            self._state, _ = self._step(self._state, *batch)
        jax.block_until_ready(self._state)
        return (time.perf_counter() - began) / steps


class _ByHand:
    """The minimal step, in the place of the trainer's."""

    def __init__(self, config: Config, feed: Feed):
        tx = build_optimizer(config.optimizer, config.schedule, config.train.steps)
        state = init_state(config, tx)
        self.name, self._feed = BY_HAND, feed
        self._state = state.params, state.optimizer
        self._batch = feed.inputs(0)[0][0]
        began = time.perf_counter()
        step = minimal.make_step(config.model, tx)
        self._step = step.lower(*self._state, self._batch).compile()
        self.compile_seconds = time.perf_counter() - began
        self.memory = step_memory(self._step)

    def run(self, steps: int, *, draw: bool = False) -> float:
        """As a subject's."""
        began = time.perf_counter()
        for index in range(steps):
            batch = self._feed.inputs(index)[0][0] if draw else self._batch
            *self._state, _ = self._step(*self._state, batch)
        jax.block_until_ready(self._state)
        return (time.perf_counter() - began) / steps


def _row(
    subject: Any,
    config: Config,
    seconds: list[float],
    without: list[float],
    drawing: list[float],
    devices: int,
) -> TrainRow:
    median = statistics.median(seconds)
    rate = config.tokens_per_step / median
    work = flops.per_token(config.model, config.data.context)
    chip = chip_of(jax.devices()[0].device_kind)
    share = statistics.median(1 - w / s for w, s in zip(without, seconds, strict=True))
    wait = statistics.median(1 - s / d for s, d in zip(seconds, drawing, strict=True))
    return TrainRow(
        name=subject.name,
        seconds=seconds,
        tokens_per_second=rate,
        utilization=chip and rate * work / (chip.flops * devices),
        optimizer_share=None if subject.name == SGD else share,
        input_wait=wait,
        compile_seconds=subject.compile_seconds,
        temporary_bytes=subject.memory.temporary,
        device_bytes=subject.memory.device,
    )


def _about(config: Config, mesh: Any, steps: int, rounds: int) -> dict[str, Any]:
    model, train = config.model, config.train
    return {
        "model": dataclasses.asdict(model),
        "attention": resolve_attention(
            config, jax.devices()[0].platform
        ).model.attention,
        "precision": train.precision,
        "batch_size": train.batch_size,
        "accumulation": train.accumulation,
        "context": config.data.context,
        "tokens_per_step": config.tokens_per_step,
        "flops_per_token": flops.per_token(model, config.data.context),
        "mesh": dict(mesh.shape),
        "offload": config.mesh.offload,
        "peak_bytes": _peak_bytes(mesh),
        "steps": steps,
        "rounds": rounds,
        "device": device_name(),
        "cpu_cores": os.cpu_count(),
        "jax": jax.__version__,
        "optax": optax.__version__,
    }


def _peak_bytes(mesh: Any) -> int | None:
    """The most that a device has held so far; None where it does not count."""
    known = [(device.memory_stats() or {}) for device in mesh.local_devices]
    return max(stats.get("peak_bytes_in_use") or 0 for stats in known) or None
