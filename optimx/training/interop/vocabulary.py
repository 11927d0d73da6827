"""The tokenizer of a folder in the Hugging Face format."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models

from optimx.training.data import (
    END_OF_TEXT,
    byte_level,
    check_vocabulary,
    load_tokenizer,
)
from optimx.training.errors import InputError

_WHOLE, _ENTRIES, _MERGES = "tokenizer.json", "vocab.json", "merges.txt"


def read_tokenizer(folder: Path, vocab: int) -> Tokenizer | None:
    """The tokenizer of ``tokenizer.json``, or of ``vocab.json`` and ``merges.txt``.

    Args:
      folder: that may hold them.
      vocab: entries that the model's embedding has.

    Raises:
      InputError: a tokenizer that cannot be used with the model.
    """
    path = folder / _WHOLE
    if path.is_file():
        tokenizer = load_tokenizer(path)
    else:
        path = folder / _ENTRIES
        if not path.is_file():
            return None
        tokenizer = _from_entries(path, folder / _MERGES)
    check_vocabulary(tokenizer, vocab, str(path))
    return tokenizer


def _from_entries(entries: Path, merges: Path) -> Tokenizer:
    try:
        tokenizer = byte_level(models.BPE.from_file(str(entries), str(merges)))
    except Exception as error:  # the tokenizers package raises bare Exception
        raise InputError(f"{entries}, {merges.name}: are not a BPE: {error}") from error
    if tokenizer.token_to_id(END_OF_TEXT) is None:
        raise InputError(f"{entries}: has no {END_OF_TEXT} entry to end documents with")
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def describe_tokenizer(context: int) -> dict[str, Any]:
    """The content of ``tokenizer_config.json``, with which ``transformers`` loads it.

    Args:
      context: of the model.
    """
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
    }
