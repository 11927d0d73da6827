import numpy as np
import pytest

from optimx.training.data.tokenizer import (
    END_OF_TEXT,
    encode,
    load_tokenizer,
    train_tokenizer,
)
from optimx.training.errors import InputError

TEXTS = ["def f(x):\n    return x\n", "naïve café ☕\t\x00"]


def test_any_text_survives():
    tokenizer = train_tokenizer(TEXTS[:1], 300)
    for text in [*TEXTS, "日本語 never seen"]:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_documents_end_with_entry_zero():
    tokenizer = train_tokenizer(TEXTS, 300)
    assert tokenizer.token_to_id(END_OF_TEXT) == 0
    tokens = encode(tokenizer, TEXTS)
    assert tokens.dtype == np.uint16
    first = tokenizer.encode(TEXTS[0]).ids
    second = tokenizer.encode(TEXTS[1]).ids
    assert tokens.tolist() == [*first, 0, *second, 0]


def test_training_is_deterministic_and_bounded():
    one, two = (train_tokenizer(TEXTS * 20, 280) for _ in range(2))
    assert one.to_str() == two.to_str()
    assert one.get_vocab_size() == 280


def test_a_tokenizer_survives_its_file(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 300)
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_str())
    assert load_tokenizer(path).encode(TEXTS[1]).ids == tokenizer.encode(TEXTS[1]).ids


def test_a_tokenizer_that_cannot_be_used(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load_tokenizer(path)
    path.write_text("{}")
    with pytest.raises(InputError, match="is not a tokenizer"):
        load_tokenizer(path)
    other = train_tokenizer(TEXTS, 300).to_str().replace(END_OF_TEXT, "<|else|>")
    path.write_text(other)
    with pytest.raises(InputError, match=r"endoftext.* entry to end documents"):
        load_tokenizer(path)
