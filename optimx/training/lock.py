"""A folder that one process writes and no other."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from optimx.training.errors import InputError, unwritable

_NAME = ".lock"


class TakenError(InputError):
    """Another process is at it."""


@contextlib.contextmanager
def exclusive(folder: Path, work: str, name: str = _NAME) -> Iterator[None]:
    """Keeps other processes that ask for the same out of a folder.

    The system takes the lock away with the process, however that ends: a file that a
    killed process leaves locks nobody out. A file system without locks, as some
    network mounts are, keeps nobody out either.

    Args:
      folder: that exists.
      work: what is done there, for the others.
      name: of the file that is locked, where a folder has several works.

    Raises:
      TakenError: another process is at it.
      InputError: the folder cannot be written.
    """
    path = folder / name
    with unwritable(InputError, folder):
        file = _locked(path, f"{folder}: {work} is writing there at this moment")
    with file:
        try:
            yield
        finally:
            # Before the lock is given up, or it would be another's file.
            path.unlink(missing_ok=True)


def _locked(path: Path, taken: str):
    while True:
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise TakenError(taken) from error
        except OSError:
            return file  # no locks here
        # Whoever had it may have removed it since it was opened.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()
