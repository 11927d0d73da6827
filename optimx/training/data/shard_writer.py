"""Token files written one after another, each whole or not there at all."""

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from optimx.training.data.documents import START, Position
from optimx.training.data.formats import HEADER_BYTES, make_header
from optimx.training.errors import InputError


@dataclasses.dataclass(frozen=True)
class Shard:
    """A finished file, and where the next one goes on.

    Attributes:
      file: its name.
      tokens: how many it has.
      sha256: of the file.
      position: of the piece that its last token comes from.
      used: how many of that piece's tokens are in this file or earlier ones.
    """

    file: str
    tokens: int
    sha256: str
    position: Position
    used: int


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns errors of the file system into one line.

    Raises:
      InputError: the folder cannot be written, or the disk is full.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written: {error.strerror or error}; finished shards "
            "stay, and the same command continues"
        ) from error


def put_file(path: Path, content: bytes) -> None:
    """Gives ``path`` this content; what it had stays until then.

    Raises:
      InputError: the folder cannot be written, or the disk is full.
    """
    partial = path.with_name(f".{path.name}.partial")
    with writing(path.parent):
        try:
            partial.write_bytes(content)
            os.replace(partial, path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


class ShardWriter:
    """Writes the tokens of one side into files of ``size`` tokens.

    Args:
      folder: of the files.
      side: the beginning of their names.
      size: tokens of a file; the last one may have fewer.
      dtype: of a token.
      shards: that are finished already.
      finished: told of every further one, after it is on disk.
    """

    def __init__(
        self,
        folder: Path,
        side: str,
        *,
        size: int,
        dtype: np.dtype,
        shards: list[Shard],
        finished: Callable[[Shard], Any],
    ):
        self._folder, self._side = folder, side
        self._size, self._dtype = size, dtype
        self._number, self._finished = len(shards), finished
        last = shards[-1] if shards else Shard("", 0, "", START, 0)
        self.begin, self._used = last.position, last.used
        self._file: BinaryIO | None = None
        self._filled = 0
        self._last = (last.position, last.used)

    def add(self, position: Position, tokens: np.ndarray) -> None:
        """Writes the tokens of the piece at ``position``, as far as they are new.

        Raises:
          InputError: the folder cannot be written, or the disk is full.
        """
        used = self._used if position == self.begin else 0
        while used < len(tokens):
            take = min(len(tokens) - used, self._size - self._filled)
            self._write(tokens[used : used + take])
            used += take
            self._last = (position, used)
            if self._filled == self._size:
                self.finish()

    def finish(self) -> None:
        """Ends the present file, if it has a token."""
        if self._file is None:
            return
        name = self._name()
        with writing(self._folder):
            with self._file as file:
                file.seek(0)
                file.write(make_header(self._filled, self._dtype))
                file.flush()
                os.fsync(file.fileno())
            os.replace(self._partial(), self._folder / name)
        self._file = None
        with (self._folder / name).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        shard = Shard(name, self._filled, sha256, *self._last)
        self._number, self._filled = self._number + 1, 0
        self._finished(shard)

    def abandon(self) -> None:
        """Removes a file that is not finished, to leave its space to others."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(OSError):
                self._partial().unlink()
            self._file = None

    def _write(self, tokens: np.ndarray) -> None:
        with writing(self._folder):
            if self._file is None:
                self._file = self._partial().open("wb")
                self._file.write(bytes(HEADER_BYTES))
            self._file.write(tokens.astype(self._dtype).tobytes())
        self._filled += len(tokens)

    def _name(self) -> str:
        return f"{self._side}_{self._number:06}.bin"

    def _partial(self) -> Path:
        return self._folder / f".{self._name()}.partial"
