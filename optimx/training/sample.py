"""Text from a model, token by token.

The prompt passes through the model at once; after that each token does so alone, and
attention finds the keys and values of the others in a cache. Positions are learned
and absolute, so a cache cannot slide: when the context is full, the newer half of the
tokens passes through the model again, from position 0, and the older half is
forgotten.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from optimx.training.data import END_OF_TEXT, check_vocabulary
from optimx.training.errors import InputError
from optimx.training.network import model
from optimx.training.network.model import Params
from optimx.training.network.modules import Cache
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

    Generation ends after ``tokens`` tokens or at the end of a document. Whenever the
    model's context is full, its older half is forgotten.

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
      InputError: an argument out of range, a prompt longer than the context, a
        tokenizer with more entries than the model.
    """
    for name, value, low in (
        ("tokens", tokens, 1),
        ("temperature", temperature, 0),
        ("top-k", top_k, 0),
        ("seed", seed, 0),
    ):
        if not low <= value < float("inf"):
            raise InputError(f"{name} = {value}: must be at least {low}")
    entries = check_vocabulary(tokenizer, config.vocab, "the run's tokenizer")
    end = tokenizer.token_to_id(END_OF_TEXT)
    start = _encode(tokenizer, prompt) or [end]
    if len(start) > config.context:
        raise InputError(
            f"prompt: {len(start)} tokens are more than the model's context, "
            f"{config.context}"
        )
    # Prompts of similar lengths share a program.
    length = min(config.context, 1 << (len(start) - 1).bit_length())
    padded_L = np.zeros(length, np.int32)
    padded_L[: len(start)] = start
    written = _generate(
        config,
        tokens,
        end,
        entries,
        min(top_k, entries),
        params,
        padded_L,
        np.int32(len(start)),
        temperature,
        jax.random.key(seed),
    )
    ids = np.asarray(written)[len(start) :][:tokens].tolist()
    if end in ids:
        ids = ids[: ids.index(end)]
    return tokenizer.decode([*(i for i in start if i != end), *ids])


def _encode(tokenizer: Tokenizer, prompt: str) -> list[int]:
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"prompt: is not text (character {error.start})") from error
    return tokenizer.encode(prompt, add_special_tokens=False).ids


class _Text(NamedTuple):
    """The text so far; the cache holds what stands before its last token."""

    tokens_T: jax.Array
    length: jax.Array
    cache: Cache


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _generate(
    config: Model,
    tokens: int,
    end: int,
    entries: int,
    top_k: int,
    params: Params,
    prompt_L: jax.Array,
    prompt_length: jax.Array,
    temperature: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """The prompt with ``tokens`` more, or with fewer up to ``end``, then padding."""
    keys = jax.random.split(key, tokens)

    def advance(text: _Text, new_L: jax.Array, filled: jax.Array) -> _Text:
        """One token more; ``new_L`` are those that the cache lacks, then padding."""
        before = text.cache.filled
        logits_BxLxV, cache = model.extend(config, params, new_L[None], text.cache)
        logits_V = logits_BxLxV[0, filled - before - 1, :entries]
        token = _choose(logits_V, temperature, top_k, keys[text.length - prompt_length])
        return _Text(
            text.tokens_T.at[text.length].set(token),
            text.length + 1,
            cache._replace(filled=filled),
        )

    def unfinished(text: _Text) -> jax.Array:
        last = text.tokens_T[text.length - 1]
        return (text.length < prompt_length + tokens) & (last != end)

    def fill(text: _Text) -> _Text:
        """Goes on until the context is full."""
        return jax.lax.while_loop(
            lambda text: unfinished(text) & (text.cache.filled < config.context),
            lambda text: advance(
                text, text.tokens_T[text.length - 1][None], text.cache.filled + 1
            ),
            text,
        )

    def halve(text: _Text) -> _Text:
        """Begins anew with the newer half of a full context."""
        half = (config.context + 1) // 2
        newer_L = jax.lax.dynamic_slice(text.tokens_T, (text.length - half,), (half,))
        text = text._replace(cache=text.cache._replace(filled=jnp.int32(0)))
        return advance(text, newer_L, jnp.int32(half))

    def fill_and_halve(text: _Text) -> _Text:
        text = fill(text)
        return jax.lax.cond(unfinished(text), halve, lambda text: text, text)

    room = max(tokens, config.context)  # for any slice of half a context
    tokens_T = jnp.concatenate([prompt_L, jnp.zeros(room, jnp.int32)])
    text = _Text(tokens_T, prompt_length, model.empty_cache(config, 1))
    text = advance(text, prompt_L, prompt_length)
    return jax.lax.while_loop(unfinished, fill_and_halve, text).tokens_T


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
