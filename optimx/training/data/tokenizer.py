"""Byte-level BPE: trained, loaded, applied to many documents."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from optimx.training.errors import InputError

END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(texts: Sequence[str], vocab: int) -> Tokenizer:
    """A byte-level BPE with at most ``vocab`` entries; entry 0 ends a document.

    Any text can be encoded: each of the 256 bytes is an entry.
    """
    tokenizer = byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def byte_level(model: models.BPE) -> Tokenizer:
    """A tokenizer that cuts text as GPT-2 does, and merges the bytes by ``model``."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a ``tokenizer.json``.

    Raises:
      InputError: the file is missing, is not a tokenizer, or has no
        ``<|endoftext|>`` entry.
    """
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # the tokenizers package raises bare Exception
        raise InputError(f"{path}: is not a tokenizer.json") from error
    if tokenizer.token_to_id(END_OF_TEXT) is None:
        raise InputError(f"{path}: has no {END_OF_TEXT} entry to end documents with")
    return tokenizer


def check_vocabulary(tokenizer: Tokenizer, vocab: int, where: str) -> int:
    """How many entries a model must have for this tokenizer.

    Raises:
      InputError: it has fewer, ``vocab``.
    """
    found = entries(tokenizer)
    if found > vocab:
        raise InputError(
            f"{where}: has {found} entries, model.vocab = {vocab} is smaller"
        )
    return found


def entries(tokenizer: Tokenizer) -> int:
    """The largest token and one more: ids may have gaps."""
    return 1 + max(tokenizer.get_vocab().values())


def token_dtype(tokenizer: Tokenizer) -> type[np.unsignedinteger]:
    """The smallest one that has room for every token."""
    return np.uint16 if entries(tokenizer) <= 2**16 else np.uint32


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """The documents' tokens one after another, each followed by end-of-text."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    dtype = token_dtype(tokenizer)
    encoded = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return np.concatenate([np.array([*item.ids, end], dtype) for item in encoded])
