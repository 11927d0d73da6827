"""Many token files as one long array that is never loaded."""

import bisect
import functools
import itertools
import mmap
from collections.abc import Sequence

import numpy as np

from optimx.training.data.formats import Part
from optimx.training.errors import InputError

# Below the number of files that a process may usually have open, 1024.
_OPEN_MAPS = 256


class Shards:
    """The tokens of ``parts`` one after another, read through memory maps.

    It has a length and contiguous slices, ``shards[start:stop]``, which are copies;
    all that a batch needs of an array.

    Args:
      parts: stretches of files, in order.
    """

    def __init__(self, parts: Sequence[Part]):
        self.parts = tuple(part for part in parts if part.count)
        self._ends = list(itertools.accumulate(part.count for part in self.parts))
        self._map = functools.lru_cache(_OPEN_MAPS)(_open)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, where: slice) -> np.ndarray:
        """A copy of contiguous tokens.

        Raises:
          InputError: a file is shorter than it was, or can no longer be read.
        """
        start, stop, step = where.indices(len(self))
        if step != 1:
            raise ValueError(f"slices of shards are contiguous, got step {step}")
        pieces = []
        at = bisect.bisect_right(self._ends, start)
        while start < stop:
            end = self._ends[at]
            begin, until = end - self.parts[at].count, min(stop, end)
            pieces.append(self._read(self.parts[at], start - begin, until - begin))
            start, at = until, at + 1
        return np.concatenate(pieces) if pieces else np.empty(0, np.uint16)

    def parted(self, at: int) -> tuple["Shards", "Shards"]:
        """The first ``at`` tokens, and the others."""
        before, after = [], []
        for part, end in zip(self.parts, self._ends, strict=True):
            kept = min(max(at - (end - part.count), 0), part.count)
            moved = part.offset + kept * part.dtype.itemsize
            before.append(part._replace(count=kept))
            after.append(part._replace(offset=moved, count=part.count - kept))
        return Shards(before), Shards(after)

    def _read(self, part: Part, start: int, stop: int) -> np.ndarray:
        tokens = self._map(part)
        # Touching a page that a file no longer has would kill the process.
        require_whole(part, tokens.size())
        offset = part.offset + start * part.dtype.itemsize
        return np.frombuffer(tokens, part.dtype, stop - start, offset).copy()


def require_whole(part: Part, size: int) -> None:
    """Raises InputError if the file now has fewer bytes than when it was checked."""
    if size < part.size:
        raise InputError(
            f"{part.path}: shrank since the run began: it had {part.size} bytes, now "
            f"{size}"
        )


def _open(part: Part) -> mmap.mmap:
    try:
        with part.path.open("rb") as file:
            tokens = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: the file is empty
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{part.path}: cannot be read: {reason}") from error
    require_whole(part, len(tokens))
    return tokens
