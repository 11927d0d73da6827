"""Blocks of the last axis; where it is shorter than a block, it is one."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from optimx import _layout

# Scales stay in here: their inverses are normal numbers, and what is decoded finite.
_LEAST, _MOST = 2.0**-100, 2.0**126


def folded(x: jax.Array, block: int) -> jax.Array:
    """(..., n) as (..., blocks, block), the last one filled up with zeros."""
    width = x.shape[-1]
    block = min(block, width)
    missing = -width % block
    spec = _layout.spec_of(x)
    if spec is not None and spec[-1] is not None:
        # Shards of whole blocks stay where they are; others come together.
        mesh = jax.typeof(x).sharding.mesh
        last = spec[-1] if width % (block * _parts(mesh, spec[-1])) == 0 else None
        spec = (*spec[:-1], last)
        x = _layout.placed(x, mesh, spec)
    if missing:
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
    shape = (*x.shape[:-1], x.shape[-1] // block, block)
    return _layout.reshaped(x, shape, spec and (*spec, None))


def unfolded(blocks: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """What :func:`folded` was given, of that shape."""
    spec = _layout.spec_of(blocks)
    width = blocks.shape[-2] * blocks.shape[-1]
    flat = _layout.reshaped(blocks, (*shape[:-1], width), spec and spec[:-1])
    return flat[..., : shape[-1]] if width > shape[-1] else flat


def _parts(mesh: Any, axes: str | tuple[str, ...]) -> int:
    return math.prod(mesh.shape[name] for name in _layout.names_of(axes))


def spread(scales: jax.Array, shape: tuple[int, ...], block: int) -> jax.Array:
    """For each number the scale of its block."""
    block = min(block, shape[-1])
    each = jnp.broadcast_to(scales[..., None], (*scales.shape, block))
    return unfolded(each, shape)


def scales_of(x: jax.Array, block: int) -> jax.Array:
    """The largest modulus of each block, NaN where one of its numbers is NaN."""
    # Largest and smallest in one pass. XLA hands a reduction to a maximum alone to a
    # library, which wants its input, the whole decoded moment, written to memory.
    zero = jnp.zeros([], x.dtype)
    blocks = folded(x, block)
    most, least = jax.lax.reduce(
        (blocks, blocks),
        (zero, zero),
        lambda a, b: (jnp.maximum(a[0], b[0]), jnp.minimum(a[1], b[1])),
        (blocks.ndim - 1,),
    )
    return jnp.clip(jnp.maximum(most, -least), _LEAST, _MOST)
