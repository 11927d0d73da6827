"""Which device holds which part of a run: the mesh, and the shardings over it.

Three axes. ``data`` repeats the parameters, ``fsdp`` splits them and gathers each where
it is used, ``tensor`` splits the arithmetic itself: heads, hidden units, vocabulary.
Sequences of a batch are split over ``data`` and ``fsdp``. Axes are Auto: the compiler
places the communication, and the shardings here say where arrays come to rest.
"""

import fnmatch
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from optimx.sharding import state_shardings
from optimx.training import sections
from optimx.training.config import Config
from optimx.training.errors import InputError
from optimx.training.network import model
from optimx.training.parallel.offload import at_rest, bytes_on_host, check_offload
from optimx.training.state import TrainState, abstract_state

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")

# The first pattern that fits; axes are those of one layer. Maps into a block are split
# by what they make (heads, hidden units), maps out of it by what they take, so that
# between the two nothing is communicated over ``tensor``.
PARAMETERS: tuple[tuple[str, P], ...] = (
    ("wte/embedding", P("tensor", "fsdp")),
    ("wpe/embedding", P(None, "fsdp")),
    ("*/qkv/kernel", P("fsdp", "tensor")),
    ("*/out/kernel", P("tensor", "fsdp")),
    ("*/up/kernel", P("fsdp", "tensor")),
    ("*/down/kernel", P("tensor", "fsdp")),
    ("*/qkv/bias", P("tensor")),
    ("*/up/bias", P("tensor")),
    ("*", P()),
)


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


def parameter_shardings(
    mesh: jax.sharding.Mesh,
    shapes: model.Params,
    *,
    stacked: bool = False,
    rules: Sequence[tuple[str, P]] = PARAMETERS,
) -> model.Params:
    """A tree of shardings, by the path of each parameter.

    Args:
      mesh: with the axes that ``rules`` name.
      shapes: the parameters, or their shapes.
      stacked: whether parameters below ``h/`` have an axis of layers in front.
      rules: pattern of a path, and how such a parameter is split.

    Raises:
      InputError: an axis does not divide a dimension.
    """

    def place(path, leaf):
        name = "/".join(str(key.key) for key in path)
        spec = next(spec for pattern, spec in rules if fnmatch.fnmatch(name, pattern))
        if stacked and name.startswith("h/"):
            spec = P(None, *spec)
        _require_even(name, leaf.shape, spec, mesh)
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, shapes)


def _require_even(
    name: str, shape: tuple[int, ...], spec: P, mesh: jax.sharding.Mesh
) -> None:
    for dimension, (size, axis) in enumerate(zip(shape, spec, strict=False)):
        if axis is not None and size % mesh.shape[axis]:
            raise InputError(
                f"mesh.{axis} = {mesh.shape[axis]}: does not divide dimension "
                f"{dimension} of parameter {name}, which has shape {shape}"
                + _remedy(name, dimension, size, mesh.shape[axis])
            )


def _remedy(name: str, dimension: int, size: int, parts: int) -> str:
    if name == "wte/embedding" and dimension == 0:
        return f"; model.vocab = {-(-size // parts) * parts} would do"
    return ""


def state_sharding(
    config: Config, tx: optax.GradientTransformation, mesh: jax.sharding.Mesh
) -> TrainState:
    """The sharding of every array of a run's state.

    Optimizer state follows the parameters; with ``mesh.zero1`` it is split over
    ``data`` besides, with ``mesh.offload`` it rests in the host's memory. As everything
    that traces a run on several devices, this is called inside ``jax.set_mesh(mesh)``.

    Raises:
      InputError: an axis does not divide a dimension; ``mesh.zero1`` splits nothing.
    """
    shapes = abstract_state(config, tx)
    _require_heads(config.model, mesh)
    where = parameter_shardings(mesh, shapes.params, stacked=config.model.scan)
    params = placed(shapes.params, where)
    optimizer = state_shardings(tx, params)
    if config.mesh.zero1:
        split = jax.tree.map(lambda leaf: _split_over_data(leaf, mesh), params)
        before, optimizer = optimizer, state_shardings(tx, split)
        _require_less(shapes.optimizer, before, optimizer, mesh)
    stale = None if shapes.stale_grads is None else where
    if config.mesh.offload == "state":
        optimizer = at_rest(shapes.optimizer, optimizer)
        stale = at_rest(shapes.stale_grads, stale)
    return TrainState(
        **dict.fromkeys(_counters(shapes), NamedSharding(mesh, P())),
        params=where,
        optimizer=optimizer,
        stale_grads=stale,
    )


def _counters(shapes: TrainState) -> list[str]:
    names = vars(shapes).keys()
    return [n for n in names if n not in ("params", "optimizer", "stale_grads")]


def _require_heads(config: sections.Model, mesh: jax.sharding.Mesh) -> None:
    if config.heads % mesh.shape["tensor"]:
        raise InputError(
            f"mesh.tensor = {mesh.shape['tensor']}: does not divide model.heads = "
            f"{config.heads}"
        )


def placed(shapes: Any, shardings: Any) -> Any:
    """A tree of shapes and dtypes with a tree of shardings in them."""
    return jax.tree.map(_placed, shapes, shardings)


def _placed(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _split_over_data(leaf: Any, mesh: jax.sharding.Mesh) -> jax.ShapeDtypeStruct:
    """The leaf, split over ``data`` besides, where it is longest and that allows it."""
    spec = list(leaf.sharding.spec) + [None] * (leaf.ndim - len(leaf.sharding.spec))
    part = leaf.sharding.shard_shape(leaf.shape)
    even = [axis for axis in range(leaf.ndim) if part[axis] % mesh.shape["data"] == 0]
    if even:
        longest = max(even, key=part.__getitem__)
        before = spec[longest]
        spec[longest] = "data" if before is None else (before, "data")
    return _placed(leaf, NamedSharding(mesh, P(*spec)))


def bytes_per_device(shapes: Any, shardings: Any) -> int:
    """What a device holds of arrays of these shapes."""
    sizes = jax.tree.map(
        lambda leaf, sharding: (
            math.prod(sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize
        ),
        shapes,
        shardings,
    )
    return sum(jax.tree.leaves(sizes))


def describe(
    config: Config,
    tx: optax.GradientTransformation,
    shapes: TrainState,
    mesh: jax.sharding.Mesh,
) -> list[str]:
    """Lines about the devices of a run, none where one holds everything.

    Args:
      config: of the run.
      tx: its optimizer.
      shapes: of its state, with shardings.
      mesh: of its devices.
    """
    rests = bytes_on_host((shapes.optimizer, shapes.stale_grads))
    hosted = [f"{rests / 1e6:,.1f} MB of optimizer state rest in the host's memory"]
    if config.mesh.offload == "none":
        hosted = []
    if mesh.size == 1:
        return hosted
    axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    lines = [f"{mesh.size} devices of {jax.process_count()} processes: {axes}"]
    where = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    state = bytes_per_device(shapes.optimizer, where.optimizer)
    params = bytes_per_device(shapes.params, where.params)
    lines.append(
        f"Each holds {params / 1e6:,.1f} MB of parameters and {state / 1e6:,.1f} MB of "
        "optimizer state"
    )
    if config.mesh.zero1:
        whole = bytes_per_device(shapes.optimizer, state_shardings(tx, shapes.params))
        lines[-1] += f"; mesh.zero1 saves {(whole - state) / 1e6:,.1f} MB"
    return [*lines, *(f"Of each device, {line}" for line in hosted)]


def _require_less(
    shapes: Any, before: Any, after: Any, mesh: jax.sharding.Mesh
) -> None:
    if bytes_per_device(shapes, after) >= bytes_per_device(shapes, before):
        raise InputError(
            "mesh.zero1 = true: splits nothing of the optimizer's state over "
            f"mesh.data = {mesh.shape['data']}; more devices along data, or parameters "
            "with a dimension that they divide, would let it"
        )
