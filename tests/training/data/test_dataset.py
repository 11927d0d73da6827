import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from optimx.training.data import Dataset, cache_dir, check_sizes, load_dataset
from optimx.training.data import tokenizer as tokenizer_module
from optimx.training.errors import InputError
from training.small import config


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OPTIMX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_cache_gives_back_what_was_made(corpus, own_cache):
    chosen = config(corpus)
    made = load_dataset(chosen.data, 300)
    files = {file: file.stat().st_mtime_ns for file in own_cache.iterdir()}
    assert len(files) == 3
    read = load_dataset(chosen.data, 300)
    assert files == {file: file.stat().st_mtime_ns for file in own_cache.iterdir()}
    np.testing.assert_array_equal(made.train, read.train)
    np.testing.assert_array_equal(made.validation, read.validation)
    assert (made.tokenizer.to_str(), made.sha256) == (
        read.tokenizer.to_str(),
        read.sha256,
    )


def test_changed_text_is_tokenized_again(tmp_path, own_cache):
    for i in range(2):
        (tmp_path / f"{i}.txt").write_text("one two three " * 20)
    chosen = config(tmp_path / "*.txt").data
    before = load_dataset(chosen, 300)
    (tmp_path / "0.txt").write_text("four five six " * 30)
    (tmp_path / "1.txt").write_text("four five six " * 30)
    after = load_dataset(chosen, 300)
    text = after.tokenizer.decode(after.train.tolist())
    assert text.startswith("four five six")
    assert before.sha256 != after.sha256


def test_a_given_tokenizer_is_used(corpus, tmp_path):
    tokenizer = tokenizer_module.train_tokenizer(["abc"], 257)
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_str())
    data = dataclasses.replace(config(corpus).data, tokenizer=str(path))
    assert load_dataset(data, 300).tokenizer.to_str() == tokenizer.to_str()
    with pytest.raises(InputError, match=r"has 257 entries, model\.vocab = 256"):
        load_dataset(data, 256)


def test_a_tokenizer_whose_ids_have_gaps_is_as_large_as_its_largest(corpus, tmp_path):
    tokenizer = tokenizer_module.train_tokenizer(["abc"], 257)
    written = json.loads(tokenizer.to_str())
    (end,) = written["added_tokens"]
    written["model"]["vocab"][end["content"]] = end["id"] = 50256
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(written))
    data = dataclasses.replace(config(corpus).data, tokenizer=str(path))
    with pytest.raises(InputError, match=r"has 50257 entries, model\.vocab = 300 is"):
        load_dataset(data, 300)
    assert load_dataset(data, 50257).train.dtype == np.uint16
    written["model"]["vocab"][end["content"]] = end["id"] = 70_000
    path.write_text(json.dumps(written))
    tokens = load_dataset(data, 70_001).train
    assert tokens.dtype == np.uint32
    assert tokens[-1] == 70_000


def test_two_processes_can_fill_the_cache_at_once(corpus, own_cache):
    program = (
        "import sys; from pathlib import Path;"
        "from optimx.training.data import load_dataset;"
        "from optimx.training.sections import Data;"
        "data = load_dataset(Data(source='text', path=sys.argv[1], context=16), 300);"
        "print(data.train.sum(), data.validation.sum())"
    )
    words = [sys.executable, "-c", program, str(corpus)]
    both = [
        subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    first, second = (process.communicate(timeout=100)[0] for process in both)
    assert first == second != ""
    assert [file for file in cache_dir().iterdir() if file.name[0] == "."] == []


def test_a_corpus_must_hold_a_batch_and_a_sequence(corpus):
    chosen = config(corpus)
    data, train = chosen.data, chosen.train
    whole = load_dataset(data, 300)
    check_sizes(whole, data, train)

    def cut(train_tokens, validation_tokens):
        return Dataset(
            whole.train[:train_tokens],
            whole.validation[:validation_tokens],
            whole.tokenizer,
            whole.sha256,
        )

    check_sizes(cut(4 * 16 + 1, 17), data, train)
    with pytest.raises(InputError, match=r"smaller than one batch: 64 .* 65 needed"):
        check_sizes(cut(4 * 16, 17), data, train)
    with pytest.raises(InputError, match="one sequence: 16 tokens, 17 needed"):
        check_sizes(cut(4 * 16 + 1, 16), data, train)
