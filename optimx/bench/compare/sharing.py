"""Processes that make one comparison: each takes a contender that no other is at."""

import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from optimx.bench.compare.config import Contender
from optimx.training.errors import InterruptedRunError
from optimx.training.interrupt import StopRequest
from optimx.training.lock import TakenError, exclusive

_WORK = "another optimx compare"
_EVERY_S = 0.2


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
        killed, one that waits for it takes over; so work has to pass over what is done.

        Raises:
          InterruptedRunError: a signal came while it waited.
        """
        busy = []
        for contender in contenders:
            try:
                with exclusive(self._folder, _WORK, _lock(contender)):
                    work(contender)
            except TakenError:
                busy.append(contender)
        for contender in busy:
            with self._in_time(_lock(contender), f"does {contender.label}"):
                work(contender)

    def last(self) -> contextlib.AbstractContextManager[None]:
        """While this process, and no other, does what is done once at the end."""
        return self._in_time(".lock", "writes the report")

    @contextlib.contextmanager
    def _in_time(self, name: str, what: str) -> Iterator[None]:
        with contextlib.ExitStack() as held:
            told = False
            while True:
                try:
                    held.enter_context(exclusive(self._folder, _WORK, name))
                    break
                except TakenError:
                    if not told:
                        self._say(f"Another process {what}: waiting for it")
                    told = True
                if self._stop.received:
                    raise InterruptedRunError("interrupted")
                time.sleep(_EVERY_S)
            yield


def _lock(contender: Contender) -> str:
    words = re.sub(r"[^A-Za-z0-9.]+", "-", contender.label).strip("-")
    digest = hashlib.sha256(contender.label.encode()).hexdigest()[:4]
    return f".{words}-{digest}.lock"
