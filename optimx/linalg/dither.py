"""Bits to round with: cheap, reproducible, and the same on one device as on many."""

import math

import jax
import jax.numpy as jnp


def mixed(x: jax.Array) -> jax.Array:
    """A bijection of uint32 in which each bit of the input moves every bit.

    Two multiplications and three shifts, where a cryptographic generator spends
    dozens: rounding needs bits that look independent, not bits nobody can guess.
    """
    x = x ^ (x >> 16)
    x = x * jnp.uint32(0x7FEB352D)
    x = x ^ (x >> 15)
    x = x * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def stream(seed: int, count: jax.Array, part: int) -> jax.Array:
    """The uint32 that tells the bits of one array at one step from all others."""
    key = mixed(jnp.uint32(seed & 0xFFFFFFFF) + jnp.uint32(0x9E3779B9))
    key = mixed(key ^ count.astype(jnp.uint32))
    return mixed(key + jnp.uint32(part * 0x85EBCA6B & 0xFFFFFFFF))


def bits_like(x: jax.Array, key: jax.Array) -> jax.Array:
    """32 bits for each number of ``x``, from its place in the whole array alone.

    An array that is split over devices gets the bits of the whole one.

    Args:
      x: an array; its shape and sharding count.
      key: a uint32, as :func:`stream` makes it.

    Returns:
      A uint32 array of the shape of ``x``.
    """
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis in range(x.ndim):
        stride = math.prod(x.shape[axis + 1 :]) & 0xFFFFFFFF
        index = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        place = place + index * jnp.uint32(stride)
    return mixed(place ^ key)


def unit(bits: jax.Array) -> jax.Array:
    """Numbers in [0, 1) of the upper 24 bits, float32."""
    # Signed integers become floats in one instruction, unsigned ones in several.
    return (bits >> 8).astype(jnp.int32).astype(jnp.float32) * jnp.float32(2**-24)
