"""Causal attention by the fastest implementation that a device has.

Array names carry their axes: B batch, L sequence, H heads, K size of a head.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from optimx.training.config import Config
from optimx.training.errors import InputError

_ROWS_BY_HEADS = P(("data", "fsdp"), None, "tensor", None)
_HALF = ("bfloat16", "float16")
_LANES = 128


def resolve_attention(config: Config, platform: str, *, probe: bool = True) -> Config:
    """The configuration with ``model.attention`` as ``xla``, ``cudnn`` or ``splash``.

    ``auto`` is cuDNN's on NVIDIA GPUs and the splash kernel on TPUs, where they can
    do what is asked, and else XLA's.

    Args:
      config: of the run.
      platform: ``cpu``, ``gpu`` or ``tpu``.
      probe: compile a kernel on the device at hand before it is chosen.

    Raises:
      InputError: an implementation by name that the platform lacks, or that cannot
        do these sizes.
    """
    wanted = config.model.attention
    name, lacks = _OF_PLATFORM.get(platform, ("xla", None))
    if wanted not in ("auto", "xla", name):
        raise InputError(
            f'model.attention = "{wanted}": a {platform} has no such kernel'
        )
    kind = "xla"
    if lacks is not None and wanted != "xla":
        missing = lacks(config) or (_fails(name, config) if probe else None)
        if missing and wanted != "auto":
            raise InputError(f'model.attention = "{wanted}": {missing}')
        kind = "xla" if missing else name
    return dataclasses.replace(
        config, model=dataclasses.replace(config.model, attention=kind)
    )


def _cudnn_lacks(config: Config) -> str | None:
    dtype, head = config.train.precision, config.model.width // config.model.heads
    if dtype not in _HALF:
        return f'needs half precision, train.precision is "{dtype}"'
    if head > 128 or head % 8:
        return f"needs heads of at most 128 numbers, a multiple of 8; they have {head}"
    return None


def _splash_lacks(config: Config) -> str | None:
    if config.data.context % _LANES:
        return (
            f"needs sequences of a multiple of {_LANES} tokens, data.context = "
            f"{config.data.context}"
        )
    return None


_OF_PLATFORM = {"gpu": ("cudnn", _cudnn_lacks), "tpu": ("splash", _splash_lacks)}


def _fails(kind: str, config: Config) -> str | None:
    """What the device says to one sequence of the run, or None."""
    heads, width = config.model.heads, config.model.width
    one = jax.ShapeDtypeStruct(
        (1, config.data.context, heads, width // heads), config.train.precision
    )

    def both_ways(q, k, v):
        mixed, back = jax.vjp(functools.partial(attend, kind), q, k, v)
        return back(mixed)

    try:
        jax.jit(both_ways).lower(one, one, one).compile()
    except Exception as error:  # whatever library the kernel is in
        return f"does not compile on this device: {str(error).splitlines()[0]}"
    return None


def attend(
    kind: str, q_BxLxHxK: jax.Array, k_BxLxHxK: jax.Array, v_BxLxHxK: jax.Array
) -> jax.Array:
    """softmax(q k^T / sqrt(K)) v over a token and those before it, (B, L, H, K).

    Args:
      kind: ``xla``, ``cudnn`` or ``splash``.
      q_BxLxHxK: queries.
      k_BxLxHxK: keys.
      v_BxLxHxK: values.
    """
    if kind == "splash":
        return _splash(q_BxLxHxK, k_BxLxHxK, v_BxLxHxK)
    return jax.nn.dot_product_attention(
        q_BxLxHxK, k_BxLxHxK, v_BxLxHxK, is_causal=True, implementation=kind
    )


def _splash(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Each device runs the kernel on its own sequences and heads."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return _splash_local(q, k, v)
    return jax.shard_map(
        _splash_local,
        in_specs=(_ROWS_BY_HEADS,) * 3,
        out_specs=_ROWS_BY_HEADS,
        check_vma=False,
    )(q, k, v)


def _splash_local(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    length, heads, size = q.shape[1:]
    kernel = _splash_kernel(length, heads)
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q * size**-0.5, k, v))
    return jnp.swapaxes(jax.vmap(kernel)(q, k, v), 1, 2)


def _splash_kernel(length: int, heads: int) -> Any:
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as splash,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as masks,
    )

    block = next(size for size in (512, 256, 128) if length % size == 0)
    mask = masks.MultiHeadMask([masks.CausalMask((length, length))] * heads)
    fields = (field.name for field in dataclasses.fields(splash.BlockSizes))
    blocks = [name for name in fields if name.startswith("block_")]
    sizes = splash.BlockSizes(**dict.fromkeys(blocks, block))
    return splash.make_splash_mha(
        mask, block_sizes=sizes, head_shards=1, q_seq_shards=1
    )
