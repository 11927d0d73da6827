"""In which order an update writes: what it only stores, it writes last.

The old contents of a buffer are read until the new moments are there. A stage that
stores its input (MARS's previous gradient) would let XLA overwrite that buffer at
any moment before, and XLA's CPU backend guards against it with a copy: two more
passes, a temporary of the parameters' size, and a step that takes twice as long.
Making the new contents wait for the new moments leaves nothing to copy.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from optimx.typing import PyTree


def stores(state: Any) -> bool:
    """Whether a state stores an input and can say what it is written after."""
    return hasattr(state, "written_after")


def settled(states: dict[str, PyTree]) -> dict[str, PyTree]:
    """New states of successive stages, whose stored inputs wait for later stages.

    The numbers are the same bit for bit. Outside of a trace nothing is in place and
    nothing changes.
    """
    held = jax.tree.leaves(states, is_leaf=stores)
    if not any(map(stores, held)) or not _traced(states):
        return states
    names = list(states)

    def wait(name: str) -> PyTree:
        later = [states[other] for other in names[names.index(name) + 1 :]]
        return jax.tree.map(
            lambda state: state.written_after(later) if stores(state) else state,
            states[name],
            is_leaf=stores,
        )

    return {name: wait(name) for name in names}


def after(tree: PyTree, later: PyTree) -> PyTree:
    """``tree``, each leaf of it available once its own leaf in ``later`` is.

    A leaf's own one is the first in ``later`` whose path ends with the leaf's path
    and whose shape and sharding are the same. A leaf without any stays as it is.
    """
    own: dict = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(later):
        for start in range(len(path) + 1):
            own.setdefault((path[start:], _kind(leaf)), leaf)
    flat, treedef = jax.tree_util.tree_flatten_with_path(tree)
    pairs = {}
    for index, (path, leaf) in enumerate(flat):
        if (path, _kind(leaf)) in own:
            pairs[index] = leaf, own[path, _kind(leaf)]
    # Other backends write several results in one loop, or prefetch: on a TPU,
    # waiting costs passes in place of saving them.
    waiting = jax.lax.platform_dependent(pairs, cpu=_wait, default=_pass)
    return treedef.unflatten(
        waiting.get(index, leaf) for index, (_, leaf) in enumerate(flat)
    )


def since(found: PyTree, tree: PyTree) -> PyTree:
    """``tree``, available as soon as all scalars that were found in it are."""
    scalars = [x.astype(jnp.float32) for x in jax.tree.leaves(found)]
    zero = nothing(jnp.sum(jnp.stack(scalars)))

    def delay(x):
        return x - zero.astype(x.dtype) if jnp.ndim(x) and _number(x) else x

    return jax.tree.map(delay, tree)


def _number(x: jax.Array) -> bool:
    """Not a truth value and not a random key."""
    return jnp.issubdtype(x.dtype, jnp.number)


def _wait(pairs: dict[int, tuple[jax.Array, jax.Array]]) -> dict[int, jax.Array]:
    return {i: x - nothing(m).astype(x.dtype) for i, (x, m) in pairs.items()}


def _pass(pairs: dict[int, tuple[jax.Array, jax.Array]]) -> dict[int, jax.Array]:
    return {i: x for i, (x, _) in pairs.items()}


def nothing(x: jax.Array) -> jax.Array:
    """Zeros that XLA takes for a function of ``x``.

    Integers, for zero times a NaN is not zero; element by element, for to hand one
    number around would be communication where ``x`` is sharded. XLA does not see
    through the bounds; LLVM does, so that nothing is read. To be *subtracted*, which
    keeps the sign of a zero.
    """
    zero = np.int32(0)
    return jax.lax.clamp(zero, jnp.real(x).astype(jnp.int32), zero)


def _kind(x: Any) -> tuple:
    """What of an array must agree where it meets another."""
    aval = jax.typeof(x)
    return jnp.shape(x), getattr(aval, "sharding", None), getattr(aval, "vma", None)


def _traced(tree: PyTree) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))
