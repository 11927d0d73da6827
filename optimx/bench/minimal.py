"""The trainer's step as one would write it by hand, to hold the trainer against.

GPT-2 in thirty lines of ``jax.numpy`` on the trainer's own parameters, and a jitted
step around it: no modules, no mesh, no metrics, nothing that a run needs besides.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optimx.training.sections import Model


def make_step(config: Model, tx: optax.GradientTransformationExtraArgs) -> Any:
    """The jitted ``(params, state, tokens) -> (params, state, loss)``.

    Args:
      config: a resolved ``[model]`` section; float32.
      tx: an optimizer that needs nothing but gradients.
    """

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, tokens):
        loss, grads = jax.value_and_grad(_loss)(params, config, tokens)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    return step


def _loss(params: Any, config: Model, tokens: jax.Array) -> jax.Array:
    x = params["wte"]["embedding"][tokens[:, :-1]]
    x = x + params["wpe"]["embedding"][: x.shape[1]]
    for layer in range(config.layers):
        block = params[f"h_{layer}"]
        x = x + _attention(block["attention"], config.heads, _norm(block["ln_1"], x))
        hidden = jax.nn.gelu(_linear(block["mlp"]["up"], _norm(block["ln_2"], x)))
        x = x + _linear(block["mlp"]["down"], hidden)
    logits = _norm(params["ln_f"], x) @ params["wte"]["embedding"].T
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


def _attention(params: Any, heads: int, x: jax.Array) -> jax.Array:
    batch, length, width = x.shape
    qkv = _linear(params["qkv"], x).reshape(batch, length, 3, heads, width // heads)
    mixed = jax.nn.dot_product_attention(*jnp.moveaxis(qkv, 2, 0), is_causal=True)
    return _linear(params["out"], mixed.reshape(batch, length, width))


def _linear(params: Any, x: jax.Array) -> jax.Array:
    return x @ params["kernel"] + params.get("bias", 0.0)


def _norm(params: Any, x: jax.Array) -> jax.Array:
    x = jax.nn.standardize(x, epsilon=1e-5)
    return x * params["scale"] + params.get("bias", 0.0)
