"""GPT-2 as Flax NNX modules.

Array names carry their axes: B batch, L sequence, D width, H heads, K size of a
head, V vocabulary, S places of a cache. Kernels are (in, out).
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from optimx.training.network import loss
from optimx.training.network.attention import attend
from optimx.training.sections import Model

_STDDEV = 0.02


class Cache(NamedTuple):
    """What attention remembers of the tokens that a model has seen.

    Attributes:
      filled: int32, how many they are; they stand in the first places.
      layers: keys and values of each layer, (B, S, H, K) both; S is the context.
    """

    filled: jax.Array
    layers: tuple[tuple[jax.Array, jax.Array], ...]


class Attention(nnx.Module):
    """Causal self-attention with one fused projection for query, key and value."""

    def __init__(self, config: Model, linear, *, rngs: nnx.Rngs):
        self.heads = config.heads
        self.kind = "xla" if config.attention == "auto" else config.attention
        self.qkv = linear(config.width, 3 * config.width, rngs=rngs)
        self.out = _residual(linear, config)(config.width, config.width, rngs=rngs)

    def __call__(self, x_BxLxD: jax.Array, past=None, filled=0) -> tuple[Any, Any]:
        """The mixed stream, and ``past`` with the keys and values of ``x``."""
        B, L, D = x_BxLxD.shape
        qkv_BxLx3xHxK = self.qkv(x_BxLxD).reshape(B, L, 3, self.heads, -1)
        qkv_BxLx3xHxK = _split(qkv_BxLx3xHxK, None, None, "tensor", None)
        q_BxLxHxK, k_BxLxHxK, v_BxLxHxK = jnp.moveaxis(qkv_BxLx3xHxK, 2, 0)
        if past is None:
            mixed_BxLxHxK = attend(self.kind, q_BxLxHxK, k_BxLxHxK, v_BxLxHxK)
        else:
            start = (0, filled, 0, 0)
            k_BxSxHxK = jax.lax.dynamic_update_slice(past[0], k_BxLxHxK, start)
            v_BxSxHxK = jax.lax.dynamic_update_slice(past[1], v_BxLxHxK, start)
            past, S = (k_BxSxHxK, v_BxSxHxK), k_BxSxHxK.shape[1]
            seen_LxS = jnp.arange(S)[None] <= filled + jnp.arange(L)[:, None]
            mixed_BxLxHxK = jax.nn.dot_product_attention(
                q_BxLxHxK, k_BxSxHxK, v_BxSxHxK, mask=seen_LxS[None, None]
            )
        return self.out(mixed_BxLxHxK.reshape(B, L, D)), past


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

    def __call__(self, x_BxLxD: jax.Array, past=None, filled=0) -> tuple[Any, Any]:
        mixed_BxLxD, past = self.attention(self.ln_1(x_BxLxD), past, filled)
        x_BxLxD = x_BxLxD + mixed_BxLxD
        return x_BxLxD + self.mlp(self.ln_2(x_BxLxD)), past


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
        self.layers, self.scan, self.remat = config.layers, config.scan, config.remat
        self.wte = embed(config.vocab, config.width, rngs=rngs)
        self.wpe = embed(config.context, config.width, rngs=rngs)
        blocks = [Block(config, linear, norm, rngs=rngs) for _ in range(config.layers)]
        if config.scan:
            self.h = _stack(blocks)
        else:
            # Attributes rather than a list: lists of modules changed meaning between
            # the Flax versions that are supported.
            for layer, block in enumerate(blocks):
                setattr(self, f"h_{layer}", block)
        self.ln_f = norm(config.width, rngs=rngs)

    def __call__(self, tokens_BxL: jax.Array) -> jax.Array:
        """float32 logits of the token that follows each token, (B, L, V)."""
        return loss.logits(self.hidden(tokens_BxL), self.wte.embedding[...])

    def hidden(self, tokens_BxL: jax.Array) -> jax.Array:
        """What the head sees of each token, (B, L, D)."""
        return self._through(tokens_BxL, Cache(0, (None,) * self.layers))[0]

    def extend(self, tokens_BxL: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """Logits of tokens that follow those of a cache, and the longer cache."""
        x_BxLxD, cache = self._through(tokens_BxL, cache)
        return loss.logits(x_BxLxD, self.wte.embedding[...]), cache

    def _through(self, tokens_BxL: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        positions_1xL = cache.filled + jnp.arange(tokens_BxL.shape[1])[None]
        x_BxLxD = _lookup(self.wte, tokens_BxL, "tensor")
        x_BxLxD = x_BxLxD + _lookup(self.wpe, positions_1xL, None)
        x_BxLxD = _split(x_BxLxD, None, None)
        if self.scan:
            return self.ln_f(self._scanned(x_BxLxD)), cache
        layers = []
        for layer, past in enumerate(cache.layers):
            run, state = _function_of(getattr(self, f"h_{layer}"), self.remat)
            x_BxLxD, past = run(state, x_BxLxD, past, cache.filled)
            layers.append(past)
        filled = cache.filled + tokens_BxL.shape[1]
        return self.ln_f(x_BxLxD), Cache(filled, tuple(layers))

    def _scanned(self, x_BxLxD: jax.Array) -> jax.Array:
        run, stack = _function_of(self.h, self.remat)

        def layer(x_BxLxD, state):
            return run(state, x_BxLxD)[0], None

        return jax.lax.scan(layer, x_BxLxD, stack)[0]


def _stack(blocks: list[Block]) -> Block:
    """One block whose parameters have an axis of layers in front."""
    states = [nnx.state(block) for block in blocks]
    graph, _ = nnx.split(blocks[0])
    return nnx.merge(graph, jax.tree.map(lambda *x: jnp.stack(x), *states))


def _function_of(block: Block, remat: str) -> tuple[Any, Any]:
    """A block as a function of its state, and that state.

    The backward pass computes again what ``remat`` tells it to.
    """
    graph, state = nnx.split(block)

    def run(state, *arguments):
        return nnx.merge(graph, state)(*arguments)

    if remat == "none":
        return run, state
    kept = {"dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}
    return jax.checkpoint(run, policy=kept.get(remat)), state


def _lookup(table: nnx.Embed, places: jax.Array, axis: str | None) -> jax.Array:
    """Rows of a table; its columns come together first, rows stay split over ``axis``.

    Left to itself the compiler splits the result by columns, as the table is, and
    finds no way from there to sequences but to copy the whole.
    """
    if not jax.sharding.get_abstract_mesh().empty:
        table.embedding[...] = jax.lax.with_sharding_constraint(
            table.embedding[...], P(axis, None)
        )
    return table(places)


def _split(x: jax.Array, *axes: str | None) -> jax.Array:
    """``x``, its sequences split over the mesh, and other axes as they are named."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, P(("data", "fsdp"), *axes))


def _residual(linear, config: Model):
    """``linear`` with the smaller start of a map onto the residual stream."""
    stddev = _STDDEV / math.sqrt(2 * config.layers)
    return functools.partial(linear, kernel_init=nnx.initializers.normal(stddev))
