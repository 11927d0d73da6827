"""Files that are made once per machine: tokenizers, tokens, compiled steps."""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from optimx.training.errors import InputError


def cache_dir() -> Path:
    """``$OPTIMX_CACHE``, or ``optimx`` in the platform's cache folder."""
    if given := os.environ.get("OPTIMX_CACHE"):
        return Path(given).expanduser()
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given).expanduser() / "optimx"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "optimx"
    if sys.platform == "win32" and (given := os.environ.get("LOCALAPPDATA")):
        return Path(given) / "optimx" / "Cache"
    return Path.home() / ".cache" / "optimx"


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Gives ``path`` the content that ``write`` puts into an open file.

    Readers see the old file, no file or the whole new one. Two processes that
    write the same path do not disturb each other: the later one wins.

    Raises:
      InputError: the folder cannot be written, or is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                write(file)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        # NumPy raises errors without the system's words.
        raise InputError(
            f"{path.parent}: cannot be written: {error.strerror or error}; "
            "OPTIMX_CACHE names the cache folder"
        ) from error
