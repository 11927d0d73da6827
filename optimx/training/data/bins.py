"""Token files: found, checked, split, identified."""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from optimx.training.data.cache import cache_dir, write_atomically
from optimx.training.data.corpus import find_files
from optimx.training.data.formats import Part, read_part
from optimx.training.data.shards import Shards, require_whole
from optimx.training.errors import InputError
from optimx.training.sections import Data

# A word of the name: fineweb_val_000000.bin, val.bin; not interval.bin.
_HELD_OUT = re.compile(r"(?<![a-z])val(id|idation)?(?![a-z])", re.IGNORECASE)
_CHUNK = 2**22  # tokens looked at at once
_BLOCKS, _BLOCK = 16, 2**16  # what the identity reads of a file


def read_bins(data: Data, vocab: int) -> tuple[Shards, Shards, str]:
    """Training tokens, held-out tokens and the identity of both.

    Args:
      data: a resolved ``[data]`` section.
      vocab: entries that the model's embedding has.

    Raises:
      InputError: no files, a file that is no token file, is cut short or has a
        token beyond the vocabulary, other data than ``data.sha256`` expects.
    """
    named = _files("data.path", data.path)
    if data.validation_path:
        chosen = _files("data.validation_path", data.validation_path)
        held_out = [path for _, path in chosen]
    else:
        held_out = [path for name, path in named if _HELD_OUT.search(name)]
    files = [path for _, path in named if path not in held_out]
    if not files:
        raise InputError(
            f"data.path = {data.path!r}: every file is held out, none is left to learn "
            f"from ({held_out[0].name}, ...)"
        )
    train, validation = (
        Shards([read_part(path, data.dtype) for path in side])
        for side in (files, held_out)
    )
    sha256 = identity(train.parts, validation.parts)
    if data.sha256 and data.sha256 != sha256:
        raise InputError(
            f"data.sha256 = {data.sha256!r}: the token files of data.path = "
            f"{data.path!r} are {sha256}, so these are not the files of that run; "
            "without data.sha256 any are accepted"
        )
    for part in (*train.parts, *validation.parts):
        _require_vocabulary(part, vocab)
    if not held_out:
        count = len(train)
        train, validation = train.parted(count - max(1, round(data.validation * count)))
    return train, validation, sha256


def tokenizer_beside(data: Data) -> str:
    """The tokenizer.json that ``optimx prepare`` left with the files, or nothing."""
    _, first = _files("data.path", data.path)[0]
    path = first.with_name("tokenizer.json")
    prepared = path.is_file() and first.with_name("manifest.json").is_file()
    return str(path) if prepared else ""


def identity(*sides: Iterable[Part]) -> str:
    """A hash that tells corpora apart without reading many gigabytes.

    It is of each file's name, size and type of tokens, and of 16 blocks of 64 KiB
    between its first byte and its last; of all of it up to 1 MiB. A change between
    the blocks that leaves the size as it was goes unseen.
    """
    digest = hashlib.sha256()
    for side in sides:
        digest.update(b"side")
        for part in side:
            words = f"\0{part.path.name}\0{part.size}\0{part.dtype.str}\0"
            digest.update(words.encode())
            for block in _sampled(part):
                digest.update(block)
    return digest.hexdigest()


def _sampled(part: Part) -> Iterable[bytes]:
    count = min(_BLOCKS, -(-part.size // _BLOCK))
    starts = np.linspace(0, max(0, part.size - _BLOCK), count).astype(np.int64)
    try:
        with part.path.open("rb") as file:
            for start in starts.tolist():
                file.seek(start)
                yield file.read(_BLOCK)
    except OSError as error:
        raise InputError(f"{part.path}: cannot be read: {error.strerror}") from error


def _files(key: str, pattern: str) -> list[tuple[str, Path]]:
    """The files, each after the part of its name that is the corpus' own."""
    found = find_files(key, pattern)
    if not Path(pattern).is_dir():
        return [(path.name, path) for _, path in found]
    found = [(name, path) for name, path in found if path.suffix == ".bin"]
    if not found:
        raise InputError(f"{key} = {pattern!r}: holds no .bin file")
    return found


def _require_vocabulary(part: Part, vocab: int) -> None:
    if np.iinfo(part.dtype).max < vocab:
        return
    largest, at = _largest(part)
    if largest >= vocab:
        raise InputError(
            f"{part.path}: token {at} is {largest}, must be below model.vocab = {vocab}"
        )


def _largest(part: Part) -> tuple[int, int]:
    """The largest token of a file and where it is; looked for once per machine."""
    try:
        stamp = part.path.stat().st_mtime_ns
    except OSError as error:
        raise InputError(f"{part.path}: cannot be read: {error.strerror}") from error
    words = [part.path.resolve(), stamp, part.size, part.dtype, part.offset]
    key = hashlib.sha256("\n".join(map(str, words)).encode()).hexdigest()[:32]
    cached = cache_dir() / f"largest-{key}.json"
    try:
        token, at = json.loads(cached.read_text())
    except (OSError, ValueError):
        token, at = _scan(part)
        text = json.dumps([token, at])
        write_atomically(cached, lambda file: file.write(text.encode()))
    return token, at


def _scan(part: Part) -> tuple[int, int]:
    largest, at, done = -1, 0, 0
    try:
        with part.path.open("rb") as file:
            file.seek(part.offset)
            while done < part.count:
                tokens = np.fromfile(file, part.dtype, min(_CHUNK, part.count - done))
                if not len(tokens):
                    require_whole(part, part.path.stat().st_size)
                where = int(tokens.argmax())
                if tokens[where] > largest:
                    largest, at = int(tokens[where]), done + where
                done += len(tokens)
    except OSError as error:
        raise InputError(f"{part.path}: cannot be read: {error.strerror}") from error
    return largest, at
