"""What a token file says about itself: a header, or its size alone."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from optimx.training.errors import InputError

HEADER_BYTES = 1024  # 256 int32: magic, version, number of tokens, zeros
MOST_TOKENS = 2**31 - 1  # that a header can count


class _Format(NamedTuple):
    magic: int
    version: int
    dtype: np.dtype


_FORMATS = (
    _Format(20240520, 1, np.dtype("<u2")),  # llm.c and modded-nanogpt, GPT-2
    _Format(20240801, 7, np.dtype("<u4")),  # llm.c, Llama 3
)
# llm.c dates all its files. As two uint16 such a number is a token of 55013 or more,
# which GPT-2's vocabulary does not have, followed by 308.
_LLMC_MAGICS = range(20240101, 20241232)
_SIGNATURES = {
    b"\x93NUMPY": "a NumPy file",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive",
    b"PAR1": "a Parquet file",
    b"GGUF": "a GGUF model",
}
_LOOKED_AT = 4096  # bytes that tell text and uint32 from uint16 tokens


class Part(NamedTuple):
    """A stretch of tokens in a file.

    Attributes:
      path: of the file.
      size: of the whole file in bytes.
      dtype: of one token, little-endian.
      offset: bytes before the first token.
      count: number of tokens.
    """

    path: Path
    size: int
    dtype: np.dtype
    offset: int
    count: int


def make_header(count: int, dtype: np.dtype) -> bytes:
    """The header of a file with ``count`` tokens."""
    known = next(known for known in _FORMATS if known.dtype == dtype)
    header = np.zeros(HEADER_BYTES // 4, "<i4")
    header[:3] = known.magic, known.version, count
    return header.tobytes()


def read_part(path: Path, dtype: str = "") -> Part:
    """All the tokens of a file, by its header or, without one, by its size.

    Args:
      path: of the file.
      dtype: what ``data.dtype`` says: ``uint16``, ``uint32``, or nothing.

    Raises:
      InputError: the file cannot be read, is empty, is cut short or too long, or
        holds something else than tokens.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_LOOKED_AT)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if not head:
        raise InputError(f"{path}: is empty; a token file holds at least one token")
    if int.from_bytes(head[:4], "little") in _LLMC_MAGICS:
        return _with_header(path, size, head, dtype)
    return _without_header(path, size, head, dtype)


def _with_header(path: Path, size: int, head: bytes, dtype: str) -> Part:
    if size < HEADER_BYTES:
        raise InputError(
            f"{path}: is truncated: {size} bytes, its header alone takes {HEADER_BYTES}"
        )
    magic, version, count = np.frombuffer(head, "<i4", 3).tolist()
    known = {known.magic: known for known in _FORMATS}.get(magic)
    if known is None or version != known.version:
        allowed = " or ".join(f"{f.magic} version {f.version}" for f in _FORMATS)
        raise InputError(
            f"{path}: magic {magic} version {version} is no token file; it must be "
            f"{allowed}"
        )
    if dtype and np.dtype(dtype) != known.dtype:
        raise InputError(
            f"data.dtype = {dtype!r}: {path} has a header, which says {known.dtype}"
        )
    need = HEADER_BYTES + count * known.dtype.itemsize
    if count < 1:
        raise InputError(
            f"{path}: its header counts {count} tokens, must be at least 1"
        )
    if size != need:
        what = "is truncated" if size < need else "is too long"
        raise InputError(
            f"{path}: {what}: its header counts {count} tokens, which makes {need} "
            f"bytes, it has {size}"
        )
    return Part(path, size, known.dtype, HEADER_BYTES, count)


def _without_header(path: Path, size: int, head: bytes, dtype: str) -> Part:
    if what := next((w for s, w in _SIGNATURES.items() if head.startswith(s)), None):
        raise InputError(f"{path}: is {what}, not a token file")
    kind = np.dtype(dtype or "uint16").newbyteorder("<")
    if not dtype:
        _require_uint16(path, head)
    if size % kind.itemsize:
        raise InputError(
            f"{path}: has {size} bytes, no multiple of {kind.itemsize}: it is "
            f"truncated, or not made of {kind} tokens (data.dtype)"
        )
    return Part(path, size, kind, 0, size // kind.itemsize)


def _require_uint16(path: Path, head: bytes) -> None:
    """Refuses what reads well as uint16 tokens and is something else."""
    insist = 'data.dtype = "uint16" reads it all the same'
    if len(head) >= 64 and _is_text(head):
        raise InputError(
            f"{path}: is text, not a token file; optimx prepare makes one of it, "
            f"{insist}"
        )
    tokens = np.frombuffer(head[: len(head) // 4 * 4], "<u2")
    low, high = tokens[::2], tokens[1::2]
    if len(low) >= 64 and (high < 16).all() and (low >= 16).any():
        raise InputError(
            f"{path}: looks like uint32 tokens, and has no header to say so; "
            f'data.dtype = "uint32" reads them, {insist}'
        )


def _is_text(head: bytes) -> bool:
    if any(byte < 9 for byte in head):
        return False
    try:
        head[:-3].decode()  # the end may cut a character
    except UnicodeDecodeError as error:
        return error.start > len(head) - 7
    return True
