"""Optimizers on blocks that are stacked for a scan: ``h/...`` with layers in front."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optimx import _tree
from optimx.wrappers.layers import per_layer

STACK = "h"


def each_layer(
    tx: optax.GradientTransformation, *, matrices: bool
) -> optax.GradientTransformationExtraArgs:
    """``tx``, to which each layer of a stack is a leaf of its own.

    Args:
      tx: any transformation.
      matrices: whether ``tx`` stacks matrices of one shape itself, and shares stacks
        among devices. It then sees layers by the names of a model that is not
        scanned, ``h_0/...`` and so on, and its state is that model's; otherwise it
        is mapped over the axis of layers.
    """
    return _taken_apart(tx) if matrices else per_layer(tx, f"{STACK}/*")


def _taken_apart(
    tx: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    tx = optax.with_extra_args_support(tx)

    def init(params):
        return tx.init(apart(_tree.materialized(params)))

    def update(updates, state, params=None, **extra_args):
        alike, others = _tree.matching(updates, extra_args)
        alike = {name: apart(value) for name, value in alike.items()}
        weights = None if params is None else apart(params)
        moved, state = tx.update(apart(updates), state, weights, **alike, **others)
        return together(moved, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def apart(tree: dict[str, Any]) -> dict[str, Any]:
    """``h_0``, ``h_1``, ... in place of ``h``."""
    parts = {name: part for name, part in tree.items() if name != STACK}
    count = len(jax.tree.leaves(tree[STACK])[0])
    for layer in range(count):
        parts[f"{STACK}_{layer}"] = jax.tree.map(lambda x, i=layer: x[i], tree[STACK])
    return parts


def together(tree: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """``h`` in place of ``h_0``, ``h_1``, ..., where ``like`` has it."""
    layers = [name for name in tree if name not in like]
    layers.sort(key=lambda name: int(name.removeprefix(f"{STACK}_")))
    stack = jax.tree.map(lambda *x: jnp.stack(x), *(tree[name] for name in layers))
    return {name: tree[name] for name in like if name != STACK} | {STACK: stack}
