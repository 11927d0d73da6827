"""From text and token files to token batches."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from optimx.training.data.batches import Tokens, training_batch, validation_batches
from optimx.training.data.bins import read_bins, tokenizer_beside
from optimx.training.data.cache import cache_dir, write_atomically
from optimx.training.data.corpus import Corpus, read_corpus
from optimx.training.data.tokenizer import (
    END_OF_TEXT,
    byte_level,
    check_vocabulary,
    encode,
    load_tokenizer,
    train_tokenizer,
)
from optimx.training.errors import InputError
from optimx.training.sections import Data, Train

__all__ = [
    "END_OF_TEXT",
    "Dataset",
    "byte_level",
    "cache_dir",
    "check_sizes",
    "check_vocabulary",
    "load_dataset",
    "load_tokenizer",
    "training_batch",
    "validation_batches",
    "write_atomically",
]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A tokenized corpus.

    Attributes:
      train: tokens to learn from, one axis.
      validation: tokens that are held out, one axis.
      tokenizer: what they were made with; None where token files come without.
      sha256: hash of the corpus' text, or what :func:`bins.identity` says.
    """

    train: Tokens
    validation: Tokens
    tokenizer: Tokenizer | None
    sha256: str


def load_dataset(data: Data, vocab: int) -> Dataset:
    """Reads the corpus; what was made of a text comes from the cache if it can.

    Args:
      data: a resolved ``[data]`` section.
      vocab: entries that the model's embedding has.

    Raises:
      InputError: a corpus or a tokenizer that cannot be used.
    """
    if data.source == "bin":
        given = data.tokenizer or tokenizer_beside(data)
        tokenizer = _given_tokenizer(given, vocab) if given else None
        train, validation, sha256 = read_bins(data, vocab)
        return Dataset(train, validation, tokenizer, sha256)
    corpus = read_corpus(data)
    if data.tokenizer:
        tokenizer = _given_tokenizer(data.tokenizer, vocab)
    else:
        tokenizer = _cached_tokenizer(corpus, data.validation, vocab)
    identity = tokenizer.to_str()
    train, validation = (
        _cached_tokens(tokenizer, texts, _key(corpus, data.validation, identity, side))
        for side, texts in (("train", corpus.train), ("validation", corpus.validation))
    )
    return Dataset(train, validation, tokenizer, corpus.sha256)


def check_sizes(dataset: Dataset, data: Data, train: Train) -> None:
    """Whether the corpus is large enough to be cut into these batches.

    Raises:
      InputError: fewer training tokens than one batch, or fewer held-out tokens
        than one sequence.
    """
    need = train.batch_size * train.accumulation * data.context + 1
    if len(dataset.train) < need:
        raise InputError(
            f"the corpus is smaller than one batch: {len(dataset.train)} training "
            f"tokens, {need} needed (train.batch_size = {train.batch_size}, "
            f"train.accumulation = {train.accumulation}, "
            f"data.context = {data.context})"
        )
    need = data.context + 1
    if len(dataset.validation) < need:
        raise InputError(
            f"the held-out part is smaller than one sequence: "
            f"{len(dataset.validation)} tokens, {need} needed "
            f"(data.context = {data.context}, data.validation = {data.validation})"
        )


def _given_tokenizer(path: str, vocab: int) -> Tokenizer:
    tokenizer = load_tokenizer(Path(path))
    check_vocabulary(tokenizer, vocab, f"data.tokenizer = {path!r}")
    return tokenizer


def _cached_tokenizer(corpus: Corpus, share: float, vocab: int) -> Tokenizer:
    path = cache_dir() / f"tokenizer-{_key(corpus, share, vocab)}.json"
    if path.exists():
        return load_tokenizer(path)
    tokenizer = train_tokenizer(corpus.train, vocab)
    write_atomically(path, lambda file: file.write(tokenizer.to_str().encode()))
    return tokenizer


def _cached_tokens(tokenizer: Tokenizer, texts: list[str], key: str) -> np.ndarray:
    path = cache_dir() / f"tokens-{key}.npy"
    if not path.exists():
        tokens = encode(tokenizer, texts)
        write_atomically(path, lambda file: np.save(file, tokens))
    return np.load(path, mmap_mode="r")


def _key(corpus: Corpus, *parts: object) -> str:
    text = "\n".join([corpus.sha256, *map(str, parts)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]
