"""What can go wrong in a run, in words for the person who started it."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A configuration, a file or an argument that the trainer cannot use.

    The message is one line that names the key or file, its value and what is
    allowed; the command line prints it and exits with status 2.
    """


class DivergedError(RuntimeError):
    """The loss or the gradient is no longer finite."""


class InterruptedRunError(RuntimeError):
    """A signal ended the run after its state was saved."""


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean X?"``, or a list of what is known when nothing is close."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known: {', '.join(known)}"
