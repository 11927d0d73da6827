"""State of stacked matrices, saved on one number of devices and restored on another.

A stack of matrices is filled up to a multiple of the devices that share it, so the
first axis of its state depends on them. What fills it up means nothing.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from optimx.training.checkpoints.origin import form_of
from optimx.training.state import TrainState


def as_saved(like: TrainState, forms: Mapping[str, str]) -> TrainState:
    """``like``, with stacks as long as they were when they were saved.

    Everything else in the state of an optimizer follows from the parameters alone: a
    leaf of it that differs along its first axis only is of a stack.

    Args:
      like: shapes, dtypes and places of the state that is wanted.
      forms: of the leaves that were saved, by path.
    """

    def saved(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        form = forms.get(f"optimizer/{name}", "")
        if not leaf.ndim or form == form_of(leaf):
            return leaf
        length = form.partition("[")[2].partition("]")[0].partition(",")[0]
        if not length.isdigit():
            return leaf
        other = jax.ShapeDtypeStruct((int(length), *leaf.shape[1:]), leaf.dtype)
        if form_of(other) != form:
            return leaf
        where = getattr(leaf, "sharding", None)
        if isinstance(where, NamedSharding):
            where = NamedSharding(where.mesh, PartitionSpec())
        return jax.ShapeDtypeStruct(other.shape, other.dtype, sharding=where)

    optimizer = jax.tree_util.tree_map_with_path(saved, like.optimizer)
    return dataclasses.replace(like, optimizer=optimizer)


def fitted(found: TrainState, like: TrainState) -> TrainState:
    """The state that was found, its stacks as long as those of ``like``."""

    def fit(x: jax.Array, leaf: Any) -> jax.Array:
        if x.shape == leaf.shape:
            return x
        return _refill(leaf)(x)

    optimizer = jax.tree.map(fit, found.optimizer, like.optimizer)
    return dataclasses.replace(found, optimizer=optimizer)


def _refill(leaf: Any) -> Any:
    def refill(x):
        missing = max(0, leaf.shape[0] - len(x))
        ends = ((0, missing), *[(0, 0)] * (x.ndim - 1))
        return jnp.pad(x, ends, mode="edge")[: leaf.shape[0]]

    return jax.jit(refill, out_shardings=leaf.sharding)
