"""Codecs: float32 arrays in fewer bits and back. Arrays in, arrays out."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from optimx import _checks
from optimx.linalg.blocks import scales_of, spread
from optimx.linalg.dither import unit

SIGNED = "signed"
POSITIVE = "positive"

NEAREST = "nearest"
STOCHASTIC = "stochastic"


class Coded(NamedTuple):
    """An array in fewer bits; it stands where the array stood.

    Attributes:
      codes: one for each number, with the shape of the array.
      scales: float32, the largest modulus of each block of the last axis, shape
        ``shape[:-1] + (blocks,)``; None where codes need no scale.
    """

    codes: jax.Array
    scales: jax.Array | None


class Codec(NamedTuple):
    """How to code arrays and how to read them.

    Attributes:
      name: as configurations call it.
      rounding: ``"stochastic"`` or ``"nearest"``.
      encode: ``encode(x, kind, bits)``, a :class:`Coded` of float32 numbers of either
        sign (``kind="signed"``) or of none below zero (``"positive"``); ``bits`` are
        32 random bits for each number, or None to round to the nearest code.
      decode: ``decode(coded, kind)``, the float32 numbers again.
    """

    name: str
    rounding: str
    encode: Callable[[jax.Array, str, jax.Array | None], Coded]
    decode: Callable[[Coded, str], jax.Array]


def int8_blockwise(block: int = 256, *, rounding: str = STOCHASTIC) -> Codec:
    r"""Eight bits a number, with a float32 scale for each block of the last axis.

    With s the largest modulus in the block, signed numbers are squares and positive
    ones (second moments, whose roots are what counts) fourth powers of the code q:

    .. math::
        x = \operatorname{sign}(q)\,(q/127)^2\, s,\; -127 \le q \le 127, \qquad
        v = (q/255)^4\, s,\; 0 \le q \le 255

    so that small numbers keep relative accuracy. A positive number never becomes 0,
    which would stand below a fraction.

    Args:
      block: numbers that share a scale, at least 1. Where the last axis is sharded,
        one that divides each shard needs no communication.
      rounding: ``"stochastic"``: to one of the two codes around the number, such
        that its expectation is the number; or ``"nearest"``.

    Returns:
      The codec.

    Raises:
      ValueError: where ``block`` is no whole number of at least 1, or ``rounding``
        not one of the two.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> codec = optimx.int8_blockwise(rounding='nearest')
      >>> coded = codec.encode(jnp.array([1.0, -0.25, 0.01]), 'signed', None)
      >>> print(coded.codes, coded.scales)
      [127 -63  13] [1.]
      >>> print(codec.decode(coded, 'signed').round(4))
      [ 1.     -0.2461  0.0105]

    References:
      Dettmers et al., *8-bit Optimizers via Block-wise Quantization*, 2021,
      https://arxiv.org/abs/2110.02861: blocks and codes that are not linear.
    """
    _require("int8_blockwise", block, rounding)

    def encode(x, kind, bits):
        scales = scales_of(x, block)
        part = jnp.abs(x) * spread(1 / scales, x.shape, block)
        if kind == POSITIVE:
            code = _at_least(1, x, _fourth_root(part * 255.0**4, bits), 255)
            return Coded(code.astype(jnp.uint8), scales)
        code = jnp.minimum(_square_root(part * 127.0**2, bits), 127)
        return Coded(jnp.where(x < 0, -code, code).astype(jnp.int8), scales)

    def decode(coded, kind):
        # Codes in their own shape: what reads them so can be written in their place.
        code = coded.codes.astype(jnp.float32)
        scale = spread(coded.scales, code.shape, block)
        if kind == POSITIVE:
            square = (code * (1 / 255)) ** 2
            return square * square * scale
        # The largest code is the scale itself, to the last bit: nothing wanders.
        return code * jnp.abs(code) * (1 / 127.0**2) * scale

    return Codec("int8", rounding, encode, decode)


def float8_e4m3(block: int = 256, *, rounding: str = STOCHASTIC) -> Codec:
    r"""Eight bits a number as float8 (four of exponent, three of fraction), scaled.

    With s the largest modulus in the block and q a float8 number,

    .. math::
        x = (q/448)\, s, \qquad v = (q/448)^2\, s,\; q \ge 0

    for signed and for positive numbers. Coarser than :func:`int8_blockwise` near the
    largest number of a block (one part in sixteen) and finer far below it.

    Args:
      block: numbers that share a scale, at least 1.
      rounding: ``"stochastic"`` or ``"nearest"``, as in :func:`int8_blockwise`.

    Returns:
      The codec.

    Raises:
      ValueError: where an argument is out of range, or JAX has no such dtype.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> codec = optimx.float8_e4m3(rounding='nearest')
      >>> coded = codec.encode(jnp.array([1.0, -0.25, 0.01]), 'signed', None)
      >>> print(coded.codes.dtype, codec.decode(coded, 'signed').round(4))
      float8_e4m3fn [ 1.   -0.25  0.01]
    """
    _require("float8_e4m3", block, rounding)
    dtype = getattr(jnp, "float8_e4m3fn", None)
    if dtype is None:
        raise ValueError("float8_e4m3: this JAX has no dtype float8_e4m3fn.")

    def encode(x, kind, bits):
        scales = scales_of(x, block)
        part = jnp.minimum(jnp.abs(x) * spread(1 / scales, x.shape, block), 1)
        if kind == POSITIVE:
            code = _at_least(2.0**-9, x, _float8(jnp.sqrt(part) * 448, bits, 2), 448)
            return Coded(code.astype(dtype), scales)
        code = jnp.minimum(_float8(part * 448, bits, 1), 448)
        return Coded(jnp.where(x < 0, -code, code).astype(dtype), scales)

    def decode(coded, kind):
        code = coded.codes.astype(jnp.float32) * (1 / 448)
        if kind == POSITIVE:
            code = code * code
        return code * spread(coded.scales, code.shape, block)

    return Codec("float8", rounding, encode, decode)


def bfloat16(*, rounding: str = STOCHASTIC) -> Codec:
    """Sixteen bits a number: the upper half of a float32.

    Args:
      rounding: ``"stochastic"`` or ``"nearest"``, as in :func:`int8_blockwise`.

    Returns:
      The codec; its arrays have no scales.

    Raises:
      ValueError: where ``rounding`` is not one of the two.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> codec = optimx.bfloat16(rounding='nearest')
      >>> print(codec.encode(jnp.array([0.1]), 'signed', None).codes)
      [0.100098]
    """
    _require("bfloat16", 1, rounding)

    def encode(x, kind, bits):
        del kind
        if bits is not None:
            # What is cut off carries into what stays as often as it is large.
            whole = jax.lax.bitcast_convert_type(x, jnp.uint32)
            whole = (whole + (bits >> 16)) & jnp.uint32(0xFFFF0000)
            carried = jax.lax.bitcast_convert_type(whole, jnp.float32)
            x = jnp.where(jnp.isfinite(x), carried, x)
        return Coded(x.astype(jnp.bfloat16), None)

    def decode(coded, kind):
        del kind
        return coded.codes.astype(jnp.float32)

    return Codec("bfloat16", rounding, encode, decode)


NAMED = {"int8": int8_blockwise, "float8": float8_e4m3, "bfloat16": bfloat16}


def _require(where: str, block: int, rounding: str) -> None:
    _checks.whole(where, "block", block)
    if rounding not in (STOCHASTIC, NEAREST):
        raise ValueError(
            f"{where}: rounding must be {STOCHASTIC!r} or {NEAREST!r}, got "
            f"{rounding!r}."
        )


# Codes: the lower of the two around a number, and the upper one where a draw says so.
# With p the number's place between their values, the upper one has probability p.


def _draw(bits: jax.Array | None) -> jax.Array | float:
    return 0.5 if bits is None else unit(bits)


def _square_root(y: jax.Array, bits: jax.Array | None) -> jax.Array:
    """One of the two whole numbers whose squares are around y."""
    low = jnp.floor(jnp.sqrt(y))
    gap = 2 * low + 1
    return jnp.where(_draw(bits) * gap < y - low * low, low + 1, low)


def _fourth_root(y: jax.Array, bits: jax.Array | None) -> jax.Array:
    """One of the two whole numbers whose fourth powers are around y."""
    low = jnp.floor(jnp.sqrt(jnp.sqrt(y)))
    square = low * low
    gap = (2 * low + 1) * (2 * square + 2 * low + 1)
    return jnp.where(_draw(bits) * gap < y - square * square, low + 1, low)


def _float8(y: jax.Array, bits: jax.Array | None, power: int) -> jax.Array:
    """One of the two float8 numbers around y, drawn by their powers."""
    exponent = jax.lax.bitcast_convert_type(y, jnp.int32) & 0x7F800000
    binade = jax.lax.bitcast_convert_type(exponent, jnp.float32)
    step = jnp.maximum(binade * 2.0**-3, 2.0**-9)
    low = jnp.floor(y / step) * step
    gap = (low + step) ** power - low**power
    return jnp.where(_draw(bits) * gap < y**power - low**power, low + step, low)


def _at_least(least: float, x: jax.Array, code: jax.Array, most: float) -> jax.Array:
    """The code of a positive number, none of which becomes 0; of others, 0."""
    return jnp.where(x > 0, jnp.clip(code, least, most), 0 * code)
