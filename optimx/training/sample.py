"""Text from a model, token by token."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from optimx.training import model
from optimx.training.data import END_OF_TEXT
from optimx.training.errors import InputError
from optimx.training.model import Params
from optimx.training.sections import Model


def sample(
    config: Model,
    params: Params,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    tokens: int = 128,
    temperature: float = 0.8,
    top_k: int = 50,
    seed: int = 0,
) -> str:
    """The prompt, continued.

    Generation ends after ``tokens`` tokens or at the end of a document. Past the
    model's context the window slides: the oldest token is forgotten.

    Args:
      config: a resolved ``[model]`` section.
      params: of the model.
      tokenizer: of the run; it must have an end-of-text entry.
      prompt: the text to continue; if empty, a new document begins.
      tokens: how many tokens to add, at least 1.
      temperature: 0 takes the likeliest token; 1 samples from the model's own
        distribution; at least 0.
      top_k: sample among the likeliest ``top_k`` entries; 0 for all.
      seed: of the choice, at least 0.

    Raises:
      InputError: an argument out of range, a prompt longer than the context.
    """
    for name, value, low in (
        ("tokens", tokens, 1),
        ("temperature", temperature, 0),
        ("top-k", top_k, 0),
        ("seed", seed, 0),
    ):
        if not low <= value < float("inf"):
            raise InputError(f"{name} = {value}: must be at least {low}")
    end = tokenizer.token_to_id(END_OF_TEXT)
    start = tokenizer.encode(prompt, add_special_tokens=False).ids or [end]
    if len(start) > config.context:
        raise InputError(
            f"prompt: {len(start)} tokens are more than the model's context, "
            f"{config.context}"
        )
    window_L = np.zeros(config.context, np.int32)
    window_L[: len(start)] = start
    generated = _generate(
        config,
        tokens,
        min(top_k, config.vocab),
        params,
        window_L,
        len(start),
        temperature,
        jax.random.key(seed),
    )
    ids = np.asarray(generated).tolist()
    if end in ids:
        ids = ids[: ids.index(end)]
    return tokenizer.decode([*(i for i in start if i != end), *ids])


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _generate(
    config: Model,
    tokens: int,
    top_k: int,
    params: Params,
    window_L: jax.Array,
    filled: jax.Array,
    temperature: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """Tokens that follow the ``filled`` first ones of the window."""

    def extend(carry: Any, key: jax.Array) -> Any:
        window_L, filled = carry
        logits_LxV = model.apply(config, params, window_L[None])[0]
        token = _choose(logits_LxV[filled - 1], temperature, top_k, key)
        full = filled == config.context
        window_L = jnp.where(full, jnp.roll(window_L, -1), window_L)
        filled = jnp.where(full, filled, filled + 1)
        return (window_L.at[filled - 1].set(token), filled), token

    carry = (jnp.asarray(window_L), jnp.asarray(filled))
    _, generated = jax.lax.scan(extend, carry, jax.random.split(key, tokens))
    return generated


def _choose(
    logits_V: jax.Array, temperature: jax.Array, top_k: int, key: jax.Array
) -> jax.Array:
    if top_k:
        least = jax.lax.top_k(logits_V, top_k)[0][-1]
        logits_V = jnp.where(logits_V < least, -jnp.inf, logits_V)
    # The branch not taken divides by one rather than by zero.
    hot = jnp.where(temperature > 0, temperature, 1.0)
    drawn = jax.random.categorical(key, logits_V / hot)
    chosen = jnp.where(temperature > 0, drawn, jnp.argmax(logits_V))
    return chosen.astype(jnp.int32)
