"""GPT-2 in Flax NNX, used through two functions on a plain tree of parameters.

Array names carry their axes: B batch, L sequence, D width, H heads, K size of a
head, V vocabulary. Kernels are (in, out).
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from optimx.training.sections import Model

Params = dict[str, Any]

_STDDEV = 0.02


class Attention(nnx.Module):
    """Causal self-attention with one fused projection for query, key and value."""

    def __init__(self, config: Model, linear, *, rngs: nnx.Rngs):
        self.heads = config.heads
        self.qkv = linear(config.width, 3 * config.width, rngs=rngs)
        self.out = _residual(linear, config)(config.width, config.width, rngs=rngs)

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        B, L, D = x_BxLxD.shape
        qkv_BxLx3xHxK = self.qkv(x_BxLxD).reshape(B, L, 3, self.heads, -1)
        q_BxLxHxK, k_BxLxHxK, v_BxLxHxK = jnp.moveaxis(qkv_BxLx3xHxK, 2, 0)
        mixed_BxLxHxK = jax.nn.dot_product_attention(
            q_BxLxHxK, k_BxLxHxK, v_BxLxHxK, is_causal=True
        )
        return self.out(mixed_BxLxHxK.reshape(B, L, D))


class MLP(nnx.Module):
    """Two linear maps with GELU (the tanh form) between them."""

    def __init__(self, config: Model, linear, *, rngs: nnx.Rngs):
        self.up = linear(config.width, 4 * config.width, rngs=rngs)
        self.down = _residual(linear, config)(4 * config.width, config.width, rngs=rngs)

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        return self.down(jax.nn.gelu(self.up(x_BxLxD), approximate=True))


class Block(nnx.Module):
    """One pre-norm transformer block."""

    def __init__(self, config: Model, linear, norm, *, rngs: nnx.Rngs):
        self.ln_1 = norm(config.width, rngs=rngs)
        self.attention = Attention(config, linear, rngs=rngs)
        self.ln_2 = norm(config.width, rngs=rngs)
        self.mlp = MLP(config, linear, rngs=rngs)

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        x_BxLxD = x_BxLxD + self.attention(self.ln_1(x_BxLxD))
        return x_BxLxD + self.mlp(self.ln_2(x_BxLxD))


class GPT2(nnx.Module):
    """GPT-2: learned positions, pre-norm blocks, a head tied to the embedding.

    Args:
      config: a resolved ``[model]`` section.
      dtype: of the arithmetic; parameters are float32 always.
      rngs: the stream ``params`` draws the initial parameters: normal with
        standard deviation 0.02, divided by sqrt(2 layers) for the projections
        that write to the residual stream; biases zero.
    """

    def __init__(self, config: Model, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
        linear = functools.partial(
            nnx.Linear,
            use_bias=config.bias,
            dtype=dtype,
            kernel_init=nnx.initializers.normal(_STDDEV),
        )
        norm = functools.partial(
            nnx.LayerNorm, epsilon=1e-5, use_bias=config.bias, dtype=dtype
        )
        embed = functools.partial(
            nnx.Embed, dtype=dtype, embedding_init=nnx.initializers.normal(_STDDEV)
        )
        self.layers = config.layers
        self.wte = embed(config.vocab, config.width, rngs=rngs)
        self.wpe = embed(config.context, config.width, rngs=rngs)
        # Attributes rather than a list: lists of modules changed meaning between
        # the Flax versions that are supported.
        for layer in range(config.layers):
            setattr(self, f"h_{layer}", Block(config, linear, norm, rngs=rngs))
        self.ln_f = norm(config.width, rngs=rngs)

    def __call__(self, tokens_BxL: jax.Array) -> jax.Array:
        """float32 logits of the token that follows each token, (B, L, V)."""
        positions_1xL = jnp.arange(tokens_BxL.shape[1])[None]
        x_BxLxD = self.wte(tokens_BxL) + self.wpe(positions_1xL)
        for layer in range(self.layers):
            x_BxLxD = getattr(self, f"h_{layer}")(x_BxLxD)
        x_BxLxD = self.ln_f(x_BxLxD)
        wte_VxD = self.wte.embedding[...].astype(x_BxLxD.dtype)
        if jax.default_backend() == "cpu":
            # JAX 0.7 has no CPU kernel for bfloat16 products that are summed in
            # float32; converted, they are the same numbers.
            x_BxLxD, wte_VxD = (
                array.astype(jnp.float32) for array in (x_BxLxD, wte_VxD)
            )
        return jnp.einsum(
            "bld,vd->blv", x_BxLxD, wte_VxD, preferred_element_type=jnp.float32
        )


def _residual(linear, config: Model):
    """``linear`` with the smaller start of a map onto the residual stream."""
    stddev = _STDDEV / math.sqrt(2 * config.layers)
    return functools.partial(linear, kernel_init=nnx.initializers.normal(stddev))


def init(config: Model, seed: int) -> Params:
    """Initial float32 parameters, a nested dict of arrays."""
    return _draw(config, jax.random.key(seed))


@functools.partial(jax.jit, static_argnums=0)
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
    graph, shapes = _abstract(config, jnp.dtype(dtype))
    state = jax.tree.map(lambda leaf: leaf, shapes)  # a copy, which may be filled
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)(tokens_BxL)


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
