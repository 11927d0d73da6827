"""GPT-2 as functions of a plain tree of parameters.

Array names carry their axes: B batch, L sequence, S one token more, D width. Kernels
are (in, out).
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from optimx.training.network import loss
from optimx.training.network.modules import GPT2, Cache
from optimx.training.sections import Model

Params = dict[str, Any]


def init(config: Model, seed: int, shardings: Any = None) -> Params:
    """Initial float32 parameters, a nested dict of arrays.

    Args:
      config: a resolved ``[model]`` section.
      seed: of the draw; the numbers are the same on any mesh.
      shardings: a tree of them, or None for the default device.
    """
    draw = jax.jit(_draw, static_argnums=0, out_shardings=shardings)
    return draw(config, jax.random.key(seed))


def _draw(config: Model, key: jax.Array) -> Params:
    return nnx.to_pure_dict(nnx.state(GPT2(config, rngs=nnx.Rngs(key)), nnx.Param))


def apply(
    config: Model, params: Params, tokens_BxL: jax.Array, *, dtype: Any = jnp.float32
) -> jax.Array:
    """float32 logits, (B, L, V), of the model with these parameters.

    Args:
      config: a resolved ``[model]`` section.
      params: as :func:`init` returns them.
      tokens_BxL: integer tokens below ``config.vocab``, at most
        ``config.context`` in a row.
      dtype: of the arithmetic.
    """
    return _bound(config, params, dtype)(tokens_BxL)


def mean_loss(
    config: Model, params: Params, tokens_BxS: jax.Array, dtype: Any
) -> jax.Array:
    """Mean cross entropy, in nats per token, of sequences of S - 1 tokens.

    Args:
      config: a resolved ``[model]`` section.
      params: of the model.
      tokens_BxS: inputs and, one to the right, targets.
      dtype: of the model's arithmetic; the loss is float32.
    """
    x_BxLxD = _bound(config, params, dtype).hidden(tokens_BxS[:, :-1])
    return loss.mean_cross_entropy(
        x_BxLxD, params["wte"]["embedding"], tokens_BxS[:, 1:]
    )


def extend(
    config: Model,
    params: Params,
    tokens_BxL: jax.Array,
    cache: Cache,
    *,
    dtype: Any = jnp.float32,
) -> tuple[jax.Array, Cache]:
    """Logits as of :func:`apply`, of tokens that follow those in the cache.

    Args:
      config: a resolved ``[model]`` section, not of a scanned model.
      params: as :func:`init` returns them.
      tokens_BxL: at most as many as the cache has places left.
      cache: :func:`empty_cache`, or as this function returned it. With a smaller
        ``filled`` it forgets the tokens from there on.
      dtype: of the arithmetic.
    """
    return _bound(config, params, dtype).extend(tokens_BxL, cache)


def empty_cache(config: Model, batch: int, *, dtype: Any = jnp.float32) -> Cache:
    """A cache of ``config.context`` places that holds nothing yet."""
    size = config.width // config.heads
    zeros = jnp.zeros((batch, config.context, config.heads, size), dtype)
    return Cache(jnp.zeros([], jnp.int32), ((zeros, zeros),) * config.layers)


def _bound(config: Model, params: Params, dtype: Any) -> GPT2:
    """The module with these parameters."""
    graph, shapes = _abstract(config, jnp.dtype(dtype))
    state = jax.tree.map(lambda leaf: leaf, shapes)  # a copy, which may be filled
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)


def parameter_shapes(config: Model) -> Params:
    """The parameters as ``jax.ShapeDtypeStruct`` leaves: nothing is allocated."""
    _, state = _abstract(config, jnp.dtype(jnp.float32))
    return nnx.to_pure_dict(state)


def parameter_count(config: Model) -> int:
    """How many numbers the parameters hold."""

    def count(layers: int) -> int:
        shapes = parameter_shapes(dataclasses.replace(config, layers=layers))
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))

    # Blocks are alike: two shallow models tell the size of a deep one.
    return count(1) + (config.layers - 1) * (count(2) - count(1))


@functools.lru_cache(maxsize=64)
def _abstract(config: Model, dtype: Any) -> tuple[Any, Any]:
    model = nnx.eval_shape(lambda: GPT2(config, dtype=dtype, rngs=nnx.Rngs(0)))
    return nnx.split(model, nnx.Param)
