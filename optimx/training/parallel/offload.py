"""Optimizer state that rests in the host's memory and visits the device to be updated.

Only the update needs it: while forward and backward pass fill the device with
activations, the device does without it. An array whose sharding names the host's memory
rests there.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import SingleDeviceSharding

from optimx.training.errors import InputError

HOST = "pinned_host"
_DEVICE = "device"


def check_offload(offload: str, devices: Sequence[Any]) -> None:
    """Whether the devices can do what ``mesh.offload`` says.

    Args:
      offload: the setting.
      devices: of the run; they need not be there.

    Raises:
      InputError: they have no host memory that a program can write, or their compiler
        does not know it.
    """
    if offload == "none":
        return
    device, refused = devices[0], f'mesh.offload = "{offload}": '
    only = 'mesh.offload = "none" is all that they allow'
    kinds = sorted(memory.kind for memory in device.addressable_memories())
    if HOST not in kinds:
        raise InputError(
            f"{refused}needs memory of kind {HOST}; {device.platform} devices have "
            f"{', '.join(kinds) or 'none'}; {only}"
        )
    # Having the memory is not enough: JAX 0.7 on a CPU has it.
    near, far = (SingleDeviceSharding(device, memory_kind=k) for k in (_DEVICE, HOST))
    x = jax.ShapeDtypeStruct((8, 128), jnp.float32, sharding=near)
    try:
        jax.jit(jnp.negative, out_shardings=far).lower(x).compile()
    except Exception as error:  # whatever the backend raises
        line = next(iter(str(error).splitlines()), repr(error))
        raise InputError(
            f"{refused}{device.platform} devices of jax {jax.__version__} have memory "
            f"of kind {HOST} but compile nothing for it ({line}); {only}"
        ) from error


def at_rest(shapes: Any, shardings: Any) -> Any:
    """The shardings, those of matrices and larger in the host's memory.

    Counts and vectors stay on the device: they are small, and every transfer takes its
    time to begin.

    Args:
      shapes: a tree of shapes.
      shardings: of them.
    """
    return jax.tree.map(
        lambda leaf, where: where.with_memory_kind(HOST) if leaf.ndim > 1 else where,
        shapes,
        shardings,
    )


def fetch(tree: Any, shardings: Any) -> Any:
    """The tree on the device; inside a compiled step.

    Args:
      tree: of arrays.
      shardings: where they rest.
    """
    return _moved(tree, shardings, lambda where: where.with_memory_kind(_DEVICE))


def stow(tree: Any, shardings: Any) -> Any:
    """The tree where its arrays rest; inside a compiled step."""
    return _moved(tree, shardings, lambda where: where)


def _moved(tree: Any, shardings: Any, target: Any) -> Any:
    return jax.tree.map(
        lambda x, where: jax.device_put(x, target(where)) if _rests(where) else x,
        tree,
        shardings,
    )


def _rests(sharding: Any) -> bool:
    return sharding.memory_kind == HOST


def visiting(
    tx: optax.GradientTransformation, shardings: Any
) -> optax.GradientTransformationExtraArgs:
    """The transformation, whose state comes to the device for its update only.

    Each array is fetched and stowed by itself, so that the compiler can let it go
    before it fetches the next.

    Args:
      tx: any transformation.
      shardings: of its state, as it rests.
    """
    tx = optax.with_extra_args_support(tx)
    if not any(map(_rests, jax.tree.leaves(shardings))):
        return tx

    def update(updates, state, params=None, **extra):
        state = fetch(state, shardings)
        updates, state = tx.update(updates, state, params, **extra)
        return updates, stow(state, shardings)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def bytes_on_host(tree: Any) -> int:
    """What rests in the host's memory of a tree of arrays or shapes, for a device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
        if _rests(leaf.sharding)
    )


def copied(tree: Any) -> Any:
    """The tree, its arrays that rest on the host copied there.

    What reads such an array in place keeps a hold on it, and then the next step could
    not write into it.
    """

    def copy(x: Any) -> Any:
        if not _rests(x.sharding):
            return x
        parts = [
            jax.device_put(np.array(shard.data), shard.data.sharding)
            for shard in x.addressable_shards
        ]
        return jax.make_array_from_single_device_arrays(x.shape, x.sharding, parts)

    return jax.tree.map(copy, tree)
