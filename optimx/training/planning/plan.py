"""A training step compiled for devices that need not be there, and what it tells."""

import dataclasses
import math
import time
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optimx.training.config import Config
from optimx.training.monitoring import optimizer_of
from optimx.training.network import flops
from optimx.training.network.attention import resolve_attention
from optimx.training.parallel.layout import (
    bytes_per_device,
    placed,
    state_sharding,
)
from optimx.training.parallel.mesh import (
    batch_sharding,
    check_batch,
    make_mesh,
)
from optimx.training.parallel.offload import fetch, visiting
from optimx.training.planning.chips import Chip
from optimx.training.planning.collectives import collectives
from optimx.training.planning.memory import step_memory
from optimx.training.planning.topologies import devices_of
from optimx.training.planning.traffic import bytes_moved
from optimx.training.state import TrainState, abstract_state
from optimx.training.step import make_train_step


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one device holds and does in a step. Sizes are bytes, times seconds.

    Attributes:
      optimizer: its name, and its state's codec if it has one, as ``adamw:int8``.
      topology: as it was asked for.
      mesh: devices of each axis.
      offload: what rests in the host's memory, ``none`` or ``state``.
      parameters: of the model, in all.
      parameter_bytes: of parameters, on a device.
      state_bytes: of optimizer state, wherever it rests.
      gradient_bytes: of the gradient, which is among the temporaries.
      temporary_bytes: that the step allocates besides arguments and results.
      total_bytes: that the step needs, at its largest.
      host_bytes: that it needs of the host's memory besides; 0 for CPU devices.
      memory_bytes: that the device has; None where that is not known.
      flops: of the model, on a device, by its sizes.
      bytes_moved: between memory and arithmetic, by the compiled program.
      sent_bytes: to other devices, by kind of collective.
      collectives: how many of each kind run in a step.
      roofline: the longest of arithmetic, memory and communication, each at the most
        that the device can do; None where that is not known.
      tokens_per_second: of all devices, at that speed.
      optimizer_flops: of the update alone, as the compiler counts them.
      optimizer_bytes: that the update alone moves.
      optimizer_sent: that it alone sends.
      optimizer_share: of the roofline time, at most 1; None where that is not known.
      seconds_to_compile: on this machine.
    """

    optimizer: str
    topology: str
    mesh: dict[str, int]
    offload: str
    parameters: int
    parameter_bytes: int
    state_bytes: int
    gradient_bytes: int
    temporary_bytes: int
    total_bytes: int
    host_bytes: int
    memory_bytes: float | None
    flops: float
    bytes_moved: float
    sent_bytes: dict[str, float]
    collectives: dict[str, int]
    roofline: float | None
    tokens_per_second: float | None
    optimizer_flops: float
    optimizer_bytes: float
    optimizer_sent: float
    optimizer_share: float | None
    seconds_to_compile: float

    @property
    def fits(self) -> bool | None:
        """Whether the device has the memory; None where that is not known."""
        if self.memory_bytes is None:
            return None
        return self.total_bytes <= self.memory_bytes


def plan(config: Config, topology: str) -> Plan:
    """Compiles the step of a run for a topology.

    Raises:
      InputError: as :func:`devices_of`, or a mesh, a batch or an attention that the
        devices do not allow.
    """
    devices, chip = devices_of(topology)
    mesh = make_mesh(config.mesh, devices)
    check_batch(config, mesh)
    config = resolve_attention(config, devices[0].platform, probe=False)
    tx = optimizer_of(config)
    with jax.set_mesh(mesh):
        shardings = state_sharding(config, tx, mesh)
        shapes = placed(abstract_state(config, tx), shardings)
        begun = time.perf_counter()
        step = _compile_step(config, tx, shapes, shardings, mesh)
        seconds = time.perf_counter() - begun
        update = _compile_update(tx, shapes, shardings, config)
    return _read(config, topology, mesh, chip, shapes, shardings, step, update, seconds)


def _compile_step(
    config: Config,
    tx: optax.GradientTransformation,
    shapes: TrainState,
    shardings: TrainState,
    mesh: jax.sharding.Mesh,
) -> Any:
    tokens = jax.ShapeDtypeStruct(
        (*config.batch_shape, config.data.context + 1),
        jnp.int32,
        sharding=batch_sharding(mesh),
    )
    upcoming = tokens if "stale_grads" in config.optimizer.needs else None
    step = make_train_step(config, tx, shardings)
    return step.lower(shapes, tokens, upcoming).compile()


def _compile_update(
    tx: optax.GradientTransformation,
    shapes: TrainState,
    shardings: TrainState,
    config: Config,
) -> Any:
    tx = visiting(tx, shardings.optimizer)

    def update(optimizer, params, grads, stale):
        stale = fetch(stale, shardings.stale_grads)
        extra = {} if stale is None else {"stale_grads": stale}
        updates, optimizer = tx.update(grads, optimizer, params, **extra)
        return optimizer, optax.apply_updates(params, updates)

    compiled = jax.jit(
        update,
        donate_argnums=(0, 1),
        out_shardings=(shardings.optimizer, shardings.params),
    )
    grads = shapes.params
    return compiled.lower(
        shapes.optimizer, shapes.params, grads, shapes.stale_grads
    ).compile()


def _read(
    config: Config,
    topology: str,
    mesh: jax.sharding.Mesh,
    chip: Chip | None,
    shapes: TrainState,
    shardings: TrainState,
    step: Any,
    update: Any,
    seconds: float,
) -> Plan:
    memory = step_memory(step)
    text, update_text = step.as_text(), update.as_text()
    moved, alone_moved = bytes_moved(text), bytes_moved(update_text)
    sent = Counter()
    count = Counter()
    for one in collectives(text):
        sent[one.kind] += one.sent
        count[one.kind] += one.times
    work = flops.per_token(config.model, config.data.context) * config.tokens_per_step
    work /= mesh.size
    alone_work = float((update.cost_analysis() or {}).get("flops", np.nan))
    alone_sent = sum(one.sent for one in collectives(update_text))
    roofline = chip and _roofline(chip, work, moved, sum(sent.values()))
    alone_time = chip and _roofline(chip, alone_work, alone_moved, alone_sent)
    return Plan(
        optimizer=config.optimizer.rule.label,
        topology=topology,
        mesh=dict(mesh.shape),
        offload=config.mesh.offload,
        parameters=sum(math.prod(p.shape) for p in jax.tree.leaves(shapes.params)),
        parameter_bytes=bytes_per_device(shapes.params, shardings.params),
        state_bytes=bytes_per_device(shapes.optimizer, shardings.optimizer)
        + bytes_per_device(shapes.stale_grads, shardings.stale_grads),
        gradient_bytes=bytes_per_device(shapes.params, shardings.params),
        temporary_bytes=memory.temporary,
        total_bytes=memory.device,
        host_bytes=memory.host,
        memory_bytes=chip and chip.memory,
        flops=work,
        bytes_moved=moved,
        sent_bytes=dict(sent),
        collectives=dict(count),
        roofline=roofline,
        tokens_per_second=roofline and config.tokens_per_step / roofline,
        optimizer_flops=alone_work,
        optimizer_bytes=alone_moved,
        optimizer_sent=alone_sent,
        # A small update by itself may move what the whole step keeps on the chip.
        optimizer_share=roofline and min(1.0, alone_time / roofline),
        seconds_to_compile=round(seconds, 1),
    )


def _roofline(chip: Chip, work: float, moved: float, sent: float) -> float:
    """The least time: each part at full speed, all at once."""
    return max(work / chip.flops, moved / chip.bandwidth, sent / chip.link)
