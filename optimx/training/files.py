"""Files that a command is asked to write."""

from pathlib import Path

from optimx.training.errors import InputError


def require_writable(option: str, path: Path) -> None:
    """Before the work: minutes of it should not end at a full stop.

    Raises:
      InputError: the file cannot be opened for writing.
    """
    try:
        path.open("a").close()
    except OSError as error:
        raise InputError(
            f"{option} {path}: cannot be written: {error.strerror}"
        ) from error
