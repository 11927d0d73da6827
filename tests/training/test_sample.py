import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimx.training import model
from optimx.training.data.tokenizer import train_tokenizer
from optimx.training.errors import InputError
from optimx.training.sample import sample
from optimx.training.sections import Model, resolve_model

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


def test_the_likeliest_continuation_by_hand(params):
    """Past the context the window slides by one."""
    ids = TOKENIZER.encode("abc").ids
    for _ in range(12):
        window = jnp.asarray(ids[-CONFIG.context :])[None]
        logits = forward(CONFIG, params, window)[0, -1]
        ids.append(int(jnp.argmax(logits)))
    assert 0 not in ids
    text = sample(CONFIG, params, TOKENIZER, "abc", tokens=12, temperature=0)
    assert text == TOKENIZER.decode(ids)


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


@pytest.mark.parametrize(
    ("prompt", "how", "message"),
    [
        ("123456789", {}, "prompt: 9 tokens are more than the model's context, 8"),
        ("a", {"tokens": 0}, "tokens = 0: must be at least 1"),
        ("a", {"temperature": -1.0}, "temperature = -1.0: must be at least 0"),
        ("a", {"temperature": float("nan")}, "temperature = nan"),
        ("a", {"top_k": -1}, "top-k = -1: must be at least 0"),
        ("a", {"seed": -1}, "seed = -1: must be at least 0"),
    ],
)
def test_arguments_out_of_range(params, prompt, how, message):
    with pytest.raises(InputError, match=message):
        sample(CONFIG, params, TOKENIZER, prompt, **how)
