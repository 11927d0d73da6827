"""Which device holds which part of a run's state: shardings over the mesh.

One table places the parameters; optimizer state follows them. These are where arrays
come to rest between steps; what moves within one, the compiler says.
"""

import fnmatch
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from optimx.sharding import state_shardings
from optimx.training import sections
from optimx.training.config import Config
from optimx.training.errors import InputError
from optimx.training.network import model
from optimx.training.parallel.offload import at_rest, bytes_on_host
from optimx.training.state import TrainState, abstract_state

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
