"""The devices of a run as a mesh, and the batches that are dealt out over it.

Three axes. ``data`` repeats the parameters, ``fsdp`` splits them and gathers each where
it is used, ``tensor`` splits the arithmetic itself: heads, hidden units, vocabulary.
Sequences of a batch are split over ``data`` and ``fsdp``. Axes are Auto: the compiler
places the communication.
"""

import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from optimx.training import sections
from optimx.training.config import Config
from optimx.training.errors import InputError
from optimx.training.parallel.offload import check_offload

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")


def make_mesh(
    section: sections.Mesh, devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
    """The mesh of a ``[mesh]`` section.

    Args:
      section: with at most one axis of -1.
      devices: to share out; all of them, of all processes, if None.

    Raises:
      InputError: the axes do not multiply to the number of devices; these lack the
        memory that ``offload`` needs.
    """
    devices = jax.devices() if devices is None else devices
    sizes = axis_sizes(section, len(devices))
    check_offload(section.offload, devices)
    return jax.make_mesh(
        sizes,
        AXES,
        axis_types=(AxisType.Auto,) * len(AXES),
        devices=devices,
    )


def axis_sizes(section: sections.Mesh, devices: int) -> tuple[int, ...]:
    """The number of devices along each of ``AXES``.

    Raises:
      InputError: as :func:`make_mesh`.
    """
    sizes = [getattr(section, axis) for axis in AXES]
    said = ", ".join(f"mesh.{a} = {n}" for a, n in zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1:
        raise InputError(f"{said}: only one axis can be -1 and fill up")
    known = math.prod(size for size in sizes if size != -1)
    filled = [devices // known if size == -1 else size for size in sizes]
    if math.prod(filled) != devices:
        raise InputError(
            f"{said}: must multiply to the number of devices, {devices}"
            if -1 not in sizes
            else f"{said}: {known} must divide the number of devices, {devices}"
        )
    return tuple(filled)


def check_batch(config: Config, mesh: jax.sharding.Mesh) -> None:
    """Raises InputError unless sequences can be dealt out evenly."""
    parts = math.prod(mesh.shape[axis] for axis in ROWS)
    if config.train.batch_size % parts:
        raise InputError(
            f"train.batch_size = {config.train.batch_size}: must be a multiple of "
            f"{parts}, for sequences are split over mesh.data = {mesh.shape['data']} "
            f"and mesh.fsdp = {mesh.shape['fsdp']}"
        )


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Of a training batch, (accumulation, batch size, context + 1)."""
    return NamedSharding(mesh, P(None, ROWS, None))
