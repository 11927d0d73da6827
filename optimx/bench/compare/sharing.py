"""Processes that make one comparison: each takes a contender that no other is at."""

import contextlib
import fcntl
import hashlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from optimx.bench.compare.config import Contender
from optimx.training.errors import InputError, InterruptedRunError, unwritable
from optimx.training.interrupt import StopRequest
from optimx.training.lock import TakenError, exclusive

_WORK = "another optimx compare"
_IN_USE = ".in_use"
_EVERY_S = 0.2


@contextlib.contextmanager
def same_comparison(
    folder: Path, names: Iterable[str], say: Callable[[str], None]
) -> Iterator[None]:
    """While it lasts, processes with another comparison stay out of the folder.

    Args:
      folder: of the comparison; exists.
      names: of all its trials, which are what is the same.
      say: is told if the file system has no locks.

    Raises:
      InputError: a process makes another comparison there at this moment, or the
        folder cannot be written.
    """
    digest = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()
    with unwritable(InputError, folder):
        opened = (folder / _IN_USE).open("a+")
    with opened as file:
        try:
            _join(file, folder, digest)
        except OSError:
            say(f"{folder}: no locks on this file system: one process at a time only")
        yield


def _join(file, folder: Path, digest: str) -> None:
    """Whoever is alone says what is compared; the others must compare the same."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        file.truncate(0)
        file.write(digest)
        file.flush()
    # Nobody writes while one process or more has it shared.
    fcntl.flock(file, fcntl.LOCK_SH)
    file.seek(0)
    if file.read() != digest:
        raise InputError(
            f"{folder}: {_WORK} is making another comparison there at this moment; "
            "--out names another folder"
        )


class Sharing:
    """What this process may do, and when.

    Args:
      folder: of the comparison; exists.
      stop: ends the waiting.
      say: is told, once each, what is waited for.
    """

    def __init__(self, folder: Path, stop: StopRequest, say: Callable[[str], None]):
        self._folder, self._stop, self._say = folder, stop, say

    def each(
        self, contenders: Sequence[Contender], work: Callable[[Contender], None]
    ) -> None:
        """Does the work of every contender, or waits until another process has.

        Those that others are at come last. What a process leaves behind that was
        killed, one that waits takes over; so work has to pass over what is done.

        Raises:
          InterruptedRunError: a signal came while it waited.
        """
        left, told = list(contenders), False
        while left:
            busy = [contender for contender in left if not self._did(contender, work)]
            if busy and not told:
                names = ", ".join(contender.label for contender in busy)
                self._say(f"Other processes do {names}: waiting for them")
                told = True
            if busy:
                self._wait()
            left = busy

    def _did(self, contender: Contender, work: Callable[[Contender], None]) -> bool:
        try:
            with exclusive(self._folder, _WORK, _lock(contender)):
                work(contender)
        except TakenError:
            return False
        return True

    @contextlib.contextmanager
    def last(self) -> Iterator[None]:
        """While this process, and no other, does what is done once at the end.

        Raises:
          InterruptedRunError: a signal came while it waited.
        """
        told = False
        with contextlib.ExitStack() as held:
            while True:
                try:
                    held.enter_context(exclusive(self._folder, _WORK))
                    break
                except TakenError:
                    if not told:
                        self._say("Another process writes the report: waiting for it")
                    told = True
                self._wait()
            yield

    def _wait(self) -> None:
        if self._stop.received:
            raise InterruptedRunError("interrupted")
        time.sleep(_EVERY_S)


def _lock(contender: Contender) -> str:
    words = re.sub(r"[^A-Za-z0-9.]+", "-", contender.label).strip("-")
    digest = hashlib.sha256(contender.label.encode()).hexdigest()[:4]
    return f".{words}-{digest}.lock"
