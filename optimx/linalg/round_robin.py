"""Whose turn it is: work on stacks spread evenly over the steps of a cycle."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def turns(
    stacks: Sequence[tuple[int, float]], every: int, *, spread: bool = True
) -> list[np.ndarray]:
    """Deals the items of several stacks out to the steps of a cycle.

    Dear items go first, each to the step with the least to do so far, so that no step
    costs much more than another, and every item has one turn in a cycle. Neighbours in
    a stack have different turns, except in a step that dearer stacks left behind:
    where a stack is split over devices, each has about its share in every step.

    Args:
      stacks: for each stack, how many items it has and what one costs.
      every: the number of steps in a cycle, at least 1.
      spread: whether work is spread; otherwise the first step has all of it.

    Returns:
      For each stack the step of every item, int32, (items,), in [0, every).

    Examples:
      >>> from optimx.linalg.round_robin import turns
      >>> small, large = turns([(4, 1.0), (2, 3.0)], every=3)
      >>> print(large, small)
      [0 1] [2 2 2 0]
    """
    load = np.zeros(every)
    out = [np.zeros(items, np.int32) for items, _ in stacks]
    if not spread:
        return out
    for index in sorted(range(len(stacks)), key=lambda i: -stacks[i][1]):
        for item in range(stacks[index][0]):
            step = int(np.argmin(load))
            out[index][item] = step
            load[step] += stacks[index][1]
    return out


def sweep(
    body: Callable[..., tuple],
    inputs: tuple[Any, ...],
    outputs: tuple[Any, ...],
    chosen: jax.Array,
) -> tuple[Any, ...]:
    """Replaces the chosen items of stacks, in place and one by one.

    There are as many iterations as chosen items: a step that has nothing to do costs
    nothing, and there is no branch.

    Args:
      body: a function of one item of every input and output that gives the new item
        of every output.
      inputs: trees of arrays with the items in front; they are read.
      outputs: the same; they are replaced.
      chosen: which items, booleans, (items,).

    Returns:
      The outputs.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optimx.linalg.round_robin import sweep
      >>> squares, = sweep(
      ...     lambda x, old: (x * x,), (jnp.arange(4),), (jnp.zeros(4, int),),
      ...     jnp.array([False, True, True, False]))
      >>> print(squares)
      [0 1 4 0]
    """
    order = jnp.argsort(~chosen, stable=True)  # The chosen ones first.

    def item(tree, index):
        return jax.tree.map(
            lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), tree
        )

    def replace(place, outputs):
        index = order[place]
        new = body(*item(inputs, index), *item(outputs, index))
        return jax.tree.map(
            lambda x, y: jax.lax.dynamic_update_index_in_dim(x, y, index, 0),
            outputs,
            new,
        )

    count = jnp.sum(chosen, dtype=jnp.int32)
    return jax.lax.fori_loop(jnp.zeros_like(count), count, replace, outputs)
