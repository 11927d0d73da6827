"""Shardings that are part of types, as those over Explicit mesh axes are.

There each change of a layout has to be said; over other axes the compiler sees to it.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def mesh_of(x: Any) -> Any:
    """The mesh of an array whose sharding is part of its type, else None."""
    mesh = jax.typeof(x).sharding.mesh
    return mesh if AxisType.Explicit in mesh.axis_types else None


def spec_of(x: Any) -> tuple[Any, ...] | None:
    """How each axis is split, where that is part of the type."""
    if mesh_of(x) is None:
        return None
    return (*jax.typeof(x).sharding.spec, *[None] * x.ndim)[: x.ndim]


def names_of(entry: Any) -> tuple[str, ...]:
    """The mesh axes that an entry of a partition spec names."""
    return (entry,) if isinstance(entry, str) else tuple(entry or ())


def without(entry: Any, axes: Sequence[str]) -> tuple[str, ...] | None:
    """An entry of a partition spec without some of its axes."""
    return tuple(name for name in names_of(entry) if name not in axes) or None


def placed(x: Any, mesh: Any, spec: Sequence[Any]) -> jax.Array:
    """``x``, split so; ``mesh`` is one with Explicit axes."""
    wanted = PartitionSpec(*spec)
    if spec_of(x) == tuple(wanted):
        return x
    return jax.sharding.reshard(x, NamedSharding(mesh, wanted))


def reshaped(
    x: jax.Array, shape: tuple[int, ...], spec: Sequence[Any] | None
) -> jax.Array:
    """``x`` in another shape, split so; None where its type says nothing of that."""
    if spec is None:
        return x.reshape(shape)
    sharding = NamedSharding(jax.typeof(x).sharding.mesh, PartitionSpec(*spec))
    return jax.lax.reshape(x, shape, out_sharding=sharding)
