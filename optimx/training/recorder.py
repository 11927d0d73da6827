"""The numbers of a run on their way to its file and to its report."""

import contextlib
import math
import time
from collections.abc import Iterator
from typing import TextIO

from optimx.training.config import Config
from optimx.training.errors import DivergedError
from optimx.training.folder import as_line
from optimx.training.monitoring import measured_lately
from optimx.training.report import Report
from optimx.training.step import Metrics

REMEDY = "a lower optimizer.learning_rate or a longer schedule.warmup may help"


class Recorder:
    """Writes the lines of metrics.jsonl and shows them.

    ``diverged`` says why the run should end, once too many updates in a row were
    skipped; until then it is None.

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
        self.diverged: str | None = None
        report.start(first)

    def push(self, step: int, metrics: Metrics) -> None:
        """Takes a step's metrics, which the device may still be computing."""
        self._pending = (step, metrics)

    def flush(self) -> None:
        """Waits for the metrics that were pushed, and records them.

        Of a skipped update there is always a line.
        """
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        loss, grad_norm, rate = (
            float(metrics[name]) for name in ("loss", "grad_norm", "learning_rate")
        )
        in_row = int(metrics["skipped_in_row"])
        train = self._config.train
        if not in_row and step % train.log_every and step not in (1, train.steps):
            return
        line = {
            "step": step,
            "tokens": step * self._config.tokens_per_step,
            # JSON has no word for what is not finite.
            "loss": loss if math.isfinite(loss) else None,
            "learning_rate": rate,
            "grad_norm": grad_norm if math.isfinite(grad_norm) else None,
            "tokens_per_second": self._tokens_per_second(step),
        }
        if "monitor" in metrics:
            line |= measured_lately(metrics, step, train.log_every)
        if in_row:
            # With the batch as the generator knows it: batches count from 0.
            line |= {"skipped": True, "batch": [train.seed, step - 1]}
            why = _why(loss, grad_norm)
            self._report.skipped(step, why, in_row, int(metrics["skipped"]))
            limit = 1 if train.stop_on_divergence else train.max_skipped
            if in_row >= limit and self.diverged is None:
                self.diverged = f"step {step}: {why} ({in_row} skipped in a row)"
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
        if not math.isfinite(loss):
            raise DivergedError(
                f"step {step}: val_loss is {loss}; the run has diverged and stops; "
                f"nothing is saved after the last checkpoint ({REMEDY})"
            )
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


def _why(loss: float, grad_norm: float) -> str:
    for name, value in (("loss", loss), ("grad_norm", grad_norm)):
        if not math.isfinite(value):
            return f"{name} is {value}"
    return "the stale gradient is not finite"
