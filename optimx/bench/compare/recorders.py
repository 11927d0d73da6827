"""The numbers of several runs of one program, each on its way to its own file."""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from optimx.training.errors import DivergedError
from optimx.training.recorder import Recorder


class Recorders:
    """A :class:`Recorder` of each run, in the place of one in the trainer's loop.

    A run that diverges is recorded no further; the others go on. ``diverged`` says
    why once all have.

    Args:
      recorders: one for each run, in the program's order.
    """

    def __init__(self, recorders: Sequence[Recorder]):
        self._recorders = recorders
        self.reasons: list[str | None] = [None] * len(recorders)
        self._pending: tuple[int, Any] | None = None

    @property
    def diverged(self) -> str | None:
        """Why there is no point in going on; None while there is."""
        return None if None in self.reasons else self.reasons[0]

    def _going(self) -> Iterator[tuple[int, Recorder]]:
        for index, recorder in enumerate(self._recorders):
            if self.reasons[index] is None:
                yield index, recorder

    def push(self, step: int, metrics: Any) -> None:
        """Takes a step's metrics, of all runs."""
        self._pending = step, metrics

    def flush(self) -> None:
        """Records the metrics that were pushed."""
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        metrics = jax.device_get(metrics)
        for index, recorder in self._going():
            recorder.push(step, jax.tree.map(partial(_of_run, index), metrics))
            recorder.flush()
            self.reasons[index] = recorder.diverged

    def evaluated(self, step: int, losses: Any) -> None:
        """Records an evaluation of all runs."""
        for index, recorder in self._going():
            try:
                recorder.evaluated(step, float(np.ravel(losses)[index]))
            except DivergedError as error:
                self.reasons[index] = str(error).partition(";")[0]

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time inside out of the tokens per second."""
        with contextlib.ExitStack() as stack:
            for recorder in self._recorders:
                stack.enter_context(recorder.paused())
            yield


def _of_run(index: int, numbers: Any) -> Any:
    return np.ravel(numbers)[index]
