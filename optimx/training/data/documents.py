"""Documents of text files as a stream that can begin anywhere."""

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from optimx.training.data.corpus import (
    find_files,
    held_out_names,
    read_source,
    stdlib_files,
)
from optimx.training.errors import InputError

_PIECE = 2**20  # bytes; a longer document comes in pieces of about that size

Position = tuple[int, int]
START: Position = (0, 0)


class Piece(NamedTuple):
    """A document, or a part of a long one that ends with a line.

    Attributes:
      text: to be encoded by itself.
      position: where it begins; later pieces have larger ones.
      ends: whether the document ends here.
      held_out: whether the document is for validation.
      size: what it adds to the progress: bytes, or documents.
    """

    text: str
    position: Position
    ends: bool
    held_out: bool
    size: int


class Source(Protocol):
    """What documents come from.

    Attributes:
      total: the sizes of all pieces together, or None if nobody knows.
      unit: what the sizes count.
    """

    total: int | None
    unit: str

    def describe(self) -> dict[str, Any]:
        """What tells this source from another one, for the manifest."""
        ...

    def before(self, start: Position) -> int:
        """The sizes of the pieces before ``start`` together."""
        ...

    def pieces(self, start: Position = START) -> Iterator[Piece]:
        """The pieces from the one at ``start`` on, the same every time."""
        ...


class _Stretch(NamedTuple):
    name: str
    path: Path
    begin: int
    end: int
    held_out: bool
    stamp: int


class Files:
    """Text files, one document each, split by file as the trainer does.

    A file is held out when the hash of its name says so; of a single file the end
    is, from a line on.

    Args:
      pattern: a file, a folder, a glob, or ``stdlib``.
      share: of the files that is held out; 0 for none.

    Raises:
      InputError: no files, or none with a byte in it.
    """

    unit = "bytes"

    def __init__(self, pattern: str, share: float):
        self._stdlib = pattern == "stdlib"
        if self._stdlib:
            found = stdlib_files(Path(sysconfig.get_paths()["stdlib"]))
        else:
            found = find_files("SOURCE", pattern)
        stats = [(name, path, _stat(path)) for name, path in found]
        files = [
            _Stretch(name, path, 0, stat.st_size, False, stat.st_mtime_ns)
            for name, path, stat in stats
            if stat.st_size
        ]
        if not files:
            raise InputError(f"SOURCE = {pattern!r}: holds no text")
        self._kind = "stdlib" if self._stdlib else "text"
        self._stretches = _split(files, share) if share else files
        self.total = sum(file.end for file in files)

    def describe(self) -> dict[str, Any]:
        """The SHA-256 of every file by its name."""
        hashes = {}
        for name, path in {s.name: s.path for s in self._stretches}.items():
            with _opened(path) as file:
                hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
        return {"kind": self._kind, "files": hashes}

    def before(self, start: Position) -> int:
        """The bytes before ``start``."""
        stretches = self._stretches[: start[0]]
        return sum(stretch.end - stretch.begin for stretch in stretches) + start[1]

    def pieces(self, start: Position = START) -> Iterator[Piece]:
        """The pieces from ``start``, which is (stretch, byte in it).

        Raises:
          InputError: a file cannot be read, is not UTF-8, or changes meanwhile.
        """
        first, skipped = start
        for index, stretch in enumerate(self._stretches[first:], first):
            begin = stretch.begin + (skipped if index == first else 0)
            if self._stdlib:
                yield _whole(stretch, index)
            else:
                yield from _cut(stretch, index, begin)


def _whole(stretch: _Stretch, index: int) -> Piece:
    text = read_source(stretch.path)
    return Piece(text, (index, 0), True, stretch.held_out, stretch.end)


def _cut(stretch: _Stretch, index: int, at: int) -> Iterator[Piece]:
    with _opened(stretch.path) as file:
        stat = os.fstat(file.fileno())
        file.seek(at)
        while at < stretch.end:
            content = _next(file, stretch.end - at)
            now = at + len(content)
            if stat.st_mtime_ns != stretch.stamp or not content:
                raise InputError(f"{stretch.path}: changed while it was read")
            try:
                text = content.decode()
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{stretch.path}: is not UTF-8 text (byte {at + error.start}); a "
                    "glob can leave it out"
                ) from error
            ends = now == stretch.end
            position = (index, at - stretch.begin)
            yield Piece(text, position, ends, stretch.held_out, len(content))
            at = now


def _next(file: BinaryIO, left: int) -> bytes:
    """About a piece: to the end of a line, or at least of a character."""
    content = file.read(min(left, _PIECE))
    if len(content) == left:
        return content
    content += file.readline(min(left - len(content), _PIECE))
    while len(content) < left and (byte := file.read(1)):
        if content.endswith(b"\n") or not 0x80 <= byte[0] < 0xC0:
            file.seek(-1, os.SEEK_CUR)
            break
        content += byte
    return content


def _split(files: list[_Stretch], share: float) -> list[_Stretch]:
    if len(files) == 1:
        (file,) = files
        cut = _line_after(file, file.end - max(1, round(share * file.end)))
        return [file._replace(end=cut), file._replace(begin=cut, held_out=True)]
    held_out = held_out_names((file.name for file in files), share)
    return [file._replace(held_out=file.name in held_out) for file in files]


def _line_after(stretch: _Stretch, at: int) -> int:
    """Where the first line that begins at ``at`` or later begins, or a character."""
    with _opened(stretch.path) as file:
        file.seek(max(0, at - 1))
        file.readline(_PIECE)
        if file.tell() < stretch.end:
            at = file.tell()
        file.seek(at)
        head = file.read(4)
    while head and 0x80 <= head[0] < 0xC0:
        at, head = at + 1, head[1:]
    return at


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
