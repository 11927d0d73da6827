"""What can go wrong in a run, in words for the person who started it."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Sequence


class InputError(ValueError):
    """A configuration, a file or an argument that the trainer cannot use.

    The message is one line that names the key or file, its value and what is
    allowed; the command line prints it and exits with status 2.
    """


class DivergedError(RuntimeError):
    """The loss or the gradient is no longer finite."""


class StorageError(RuntimeError):
    """What a run writes can no longer be written: a disk is full or gone."""


class InterruptedRunError(RuntimeError):
    """A signal ended the run after its state was saved."""


@contextlib.contextmanager
def unwritable(kind: type[Exception], where: object) -> Iterator[None]:
    """Turns what the system says about a file into one line.

    Args:
      kind: of error to raise.
      where: the file or folder, for errors that name none.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise kind(
            f"{error.filename2 or error.filename or where}: cannot be written: {reason}"
        ) from error


def some(items: Sequence[str]) -> str:
    """The first three, and how many there are beyond."""
    rest = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return ", ".join(items[:3]) + rest


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean X?"``, or a list of what is known when nothing is close."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known: {', '.join(known)}"
