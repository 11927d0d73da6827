import collections
import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimx.training.data.tokenizer import train_tokenizer
from optimx.training.errors import InputError
from optimx.training.network import model
from optimx.training.resolve import resolve_model
from optimx.training.sample import sample
from optimx.training.sections import Model

CONFIG = resolve_model(Model(layers=1, heads=2, width=16, context=8, vocab=257))
# A tokenizer of single bytes: every token is a character.
TOKENIZER = train_tokenizer([""], 257)
forward = jax.jit(model.apply, static_argnums=0)


@pytest.fixture(scope="module")
def params():
    drawn = model.init(CONFIG, 0)
    # Larger than at the start of training, so that choices are not all alike.
    drawn["wte"]["embedding"] = 30 * drawn["wte"]["embedding"]
    return drawn


def likeliest(config, params, prompt, tokens):
    """Whole forward passes over a window that halves when the context is full."""
    ids, first = TOKENIZER.encode(prompt).ids, 0
    for _ in range(tokens):
        if len(ids) - first > config.context:
            first = len(ids) - (config.context + 1) // 2
        window = ids[first:]
        padded = window + [0] * (config.context - len(window))  # one shape: one program
        logits = forward(config, params, jnp.asarray(padded)[None])
        ids.append(int(jnp.argmax(logits[0, len(window) - 1])))
    assert 0 not in ids  # or the document would have ended
    return TOKENIZER.decode(ids)


@pytest.mark.parametrize("prompt", ["a", "abc", "abcdefgh"])
def test_the_likeliest_continuation_by_hand(params, prompt):
    """A few tokens more than two and a half contexts, so that all of it is needed."""
    text = sample(CONFIG, params, TOKENIZER, prompt, tokens=23, temperature=0)
    assert text == likeliest(CONFIG, params, prompt, 23)


@pytest.mark.parametrize("context", [1, 3])
def test_contexts_that_have_no_two_equal_halves(params, context):
    config = dataclasses.replace(CONFIG, context=context)
    params = params | {"wpe": {"embedding": params["wpe"]["embedding"][:context]}}
    text = sample(config, params, TOKENIZER, "a", tokens=7, temperature=0)
    assert text == likeliest(config, params, "a", 7)


def test_one_candidate_is_the_likeliest(params):
    greedy, one = (
        sample(CONFIG, params, TOKENIZER, "abc", tokens=6, **how)
        for how in ({"temperature": 0}, {"temperature": 2.0, "top_k": 1})
    )
    assert greedy == one


def test_the_seed_decides(params):
    how = {"tokens": 6, "temperature": 1.0, "top_k": 0}
    texts = [sample(CONFIG, params, TOKENIZER, "a", seed=s, **how) for s in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_frequencies_are_those_of_the_model(params):
    logits = forward(CONFIG, params, jnp.asarray([TOKENIZER.encode("a").ids]))
    logits = np.array(logits[0, -1], np.float64)
    least = np.sort(logits)[-3]
    chances = np.where(logits >= least, np.exp(logits / 1.5), 0)
    chances /= chances.sum()
    drawn = [
        sample(
            CONFIG, params, TOKENIZER, "a", tokens=1, temperature=1.5, top_k=3, seed=s
        )
        for s in range(300)
    ]
    expected = collections.Counter()  # bytes that are no text look alike
    for token in np.flatnonzero(chances):
        start = TOKENIZER.encode("a").ids
        expected[TOKENIZER.decode([*start, int(token)])] += chances[token]
    assert set(drawn) <= set(expected)
    for text, chance in expected.items():
        # Four standard deviations of the share among 300 draws.
        assert abs(drawn.count(text) / 300 - chance) < 4 * np.sqrt(0.25 / 300)


def test_text_ends_where_the_document_does(params):
    always = {
        **params,
        "wte": {"embedding": jnp.zeros_like(params["wte"]["embedding"])},
    }
    # All logits equal: the likeliest token is the first, which ends a document.
    assert sample(CONFIG, always, TOKENIZER, "ab", temperature=0) == "ab"
    assert sample(CONFIG, always, TOKENIZER, "", temperature=0) == ""


def test_nothing_is_computed_after_the_end(params, monkeypatch):
    """A million tokens take no time when the first of them ends the document."""
    always = {
        **params,
        "wte": {"embedding": jnp.zeros_like(params["wte"]["embedding"])},
    }
    start = time.monotonic()
    text = sample(CONFIG, always, TOKENIZER, "ab", tokens=1_000_000, temperature=0)
    assert text == "ab"
    # Each would take a fifth of a millisecond at least; the rest is compilation.
    assert time.monotonic() - start < 60


def test_entries_that_the_tokenizer_lacks_are_not_drawn(params):
    """Embeddings may be padded to a rounder size."""
    wte = params["wte"]["embedding"]
    padded = jnp.concatenate([wte, 9 * wte[:63]])
    config = dataclasses.replace(CONFIG, vocab=320)
    more = params | {"wte": {"embedding": padded}}
    how = {"tokens": 20, "temperature": 1.0, "top_k": 0}
    assert sample(config, more, TOKENIZER, "a", **how) == sample(
        CONFIG, params, TOKENIZER, "a", **how
    )


def test_a_tokenizer_of_a_larger_model(params):
    larger = train_tokenizer(["ab ab ab"], 259)
    message = "tokenizer: has 259 entries, model.vocab = 257 is smaller"
    with pytest.raises(InputError, match=message):
        sample(CONFIG, params, larger, "a")


@pytest.mark.parametrize(
    ("prompt", "how", "message"),
    [
        ("123456789", {}, "prompt: 9 tokens are more than the model's context, 8"),
        ("a", {"tokens": 0}, "tokens = 0: must be at least 1"),
        ("a", {"temperature": -1.0}, "temperature = -1.0: must be at least 0"),
        ("a", {"temperature": float("nan")}, "temperature = nan"),
        ("a", {"top_k": -1}, "top-k = -1: must be at least 0"),
        ("a", {"seed": -1}, "seed = -1: must be at least 0"),
        ("a\udcff", {}, r"prompt: is not text \(character 1\)"),
    ],
)
def test_arguments_out_of_range(params, prompt, how, message):
    with pytest.raises(InputError, match=message):
        sample(CONFIG, params, TOKENIZER, prompt, **how)
