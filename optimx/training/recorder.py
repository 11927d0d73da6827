"""The numbers of a run on their way to its file and to its report."""

import contextlib
import math
import time
from collections.abc import Iterator
from typing import TextIO

from optimx.training.config import Config
from optimx.training.errors import DivergedError
from optimx.training.folder import as_line
from optimx.training.report import Report
from optimx.training.step import Metrics


class Recorder:
    """Writes the lines of metrics.jsonl and shows them.

    Args:
      config: of the run.
      log: metrics.jsonl, open for what comes after the ``first`` step.
      report: for the person who waits.
      first: updates that are done and recorded already.
    """

    def __init__(self, config: Config, log: TextIO, report: Report, first: int):
        self._config, self._log, self._report = config, log, report
        self._pending: tuple[int, Metrics] | None = None
        self._mark = (first, time.monotonic())
        report.start(first)

    def push(self, step: int, metrics: Metrics) -> None:
        """Takes a step's metrics, which the device may still be computing."""
        self._pending = (step, metrics)

    def flush(self) -> None:
        """Waits for the metrics that were pushed, and records them.

        Raises:
          DivergedError: loss or gradient norm is infinite or NaN.
        """
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        loss, grad_norm, rate = (
            float(metrics[name]) for name in ("loss", "grad_norm", "learning_rate")
        )
        _require_finite("loss", loss, step)
        _require_finite("grad_norm", grad_norm, step)
        train = self._config.train
        if step % train.log_every and step not in (1, train.steps):
            return
        line = {
            "step": step,
            "tokens": step * self._config.tokens_per_step,
            "loss": loss,
            "learning_rate": rate,
            "grad_norm": grad_norm,
            "tokens_per_second": self._tokens_per_second(step),
        }
        self._log.write(as_line(line))
        self._report.train_line(line)

    def _tokens_per_second(self, step: int) -> float:
        """Of the steps since the last training line."""
        before, then = self._mark
        now = time.monotonic()
        self._mark = (step, now)
        tokens = (step - before) * self._config.tokens_per_step
        return round(tokens / max(now - then, 1e-9), 1)

    def evaluated(self, step: int, loss: float) -> None:
        """Records an evaluation.

        Raises:
          DivergedError: the loss is infinite or NaN.
        """
        _require_finite("val_loss", loss, step)
        tokens = step * self._config.tokens_per_step
        line = {"step": step, "tokens": tokens, "val_loss": loss}
        self._log.write(as_line(line))
        self._report.evaluation_line(line)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time inside out of the tokens per second."""
        start = time.monotonic()
        yield
        step, then = self._mark
        self._mark = (step, then + time.monotonic() - start)


def _require_finite(name: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise DivergedError(
            f"step {step}: {name} is {value}; the run has diverged and stops (a lower "
            "optimizer.learning_rate or a longer schedule.warmup may help)"
        )
