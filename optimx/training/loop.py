"""A whole run: data, steps, evaluations, checkpoints, results."""

import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from optimx.training.checkpoint import Checkpoints
from optimx.training.config import Config, dump_config, load_config
from optimx.training.data import (
    Dataset,
    check_sizes,
    load_dataset,
    training_batch,
    validation_batches,
)
from optimx.training.errors import InterruptedRunError
from optimx.training.evaluate import make_evaluate
from optimx.training.folder import RunFolder
from optimx.training.interrupt import StopRequest, stop_on_signals
from optimx.training.model import Params, parameter_count
from optimx.training.optimizer import build_optimizer
from optimx.training.plot import plot_losses
from optimx.training.recorder import Recorder
from optimx.training.report import Report
from optimx.training.sample import sample
from optimx.training.state import TrainState, abstract_state, init_state
from optimx.training.step import TrainStep, make_train_step

_PROMPT = "def"


def train(config: Config, folder: RunFolder) -> dict[str, Any]:
    """Trains a model into a new folder and returns the run's summary.

    Raises:
      InputError: the folder holds another run, or the data cannot be used.
      DivergedError: the loss or the gradient became infinite or NaN.
      InterruptedRunError: a signal stopped the run; its state is saved.
    """
    begun = time.monotonic()
    folder.create()
    with Report(config.train.steps) as report:
        report.say("Reading the text")
        data = load_dataset(config.data, config.model.vocab)
        check_sizes(data, config.data, config.train)
        hashed = dataclasses.replace(config.data, sha256=data.sha256)
        config = dataclasses.replace(config, data=hashed)
        folder.tokenizer.write_text(data.tokenizer.to_str(), encoding="utf-8")
        folder.config.write_text(dump_config(config), encoding="utf-8")
        return _Run(config, folder, data, report, begun).go()


def resume(folder: RunFolder) -> dict[str, Any]:
    """Continues the run in a folder from its last checkpoint, as if never stopped.

    Raises:
      InputError: the folder holds no run, or the text is no longer the same.
      DivergedError: the loss or the gradient became infinite or NaN.
      InterruptedRunError: a signal stopped the run again.
    """
    begun = time.monotonic()
    folder.require()
    config = load_config(folder.config)
    with Report(config.train.steps) as report:
        report.say("Reading the text")
        own = dataclasses.replace(config.data, tokenizer=str(folder.tokenizer))
        data = load_dataset(own, config.model.vocab)
        return _Run(config, folder, data, report, begun).go()


def run_steps(
    config: Config,
    state: TrainState,
    done: int,
    *,
    step: TrainStep,
    inputs: Callable[[int], tuple[Any, Any]],
    evaluate: Callable[[Params], float],
    save: Callable[[int, TrainState], None],
    recorder: Recorder,
    stop: StopRequest,
) -> tuple[TrainState, int]:
    """The loop itself: to the end of the run, or to a request to stop.

    Args:
      config: of the run.
      state: to start from; it is donated to the step.
      done: updates that the state has seen.
      step: compiled, as :func:`make_train_step` makes it.
      inputs: the step's arguments after the state, by the number of the step from 0.
      evaluate: the validation loss of parameters.
      save: saves a state after so many updates.
      recorder: of metrics and validation losses.
      stop: looked at after every step.

    Returns:
      The last state, saved, and its number of updates.
    """
    train = config.train
    stopped = False
    while done < train.steps and not stopped:
        state, metrics = step(state, *inputs(done))
        # The metrics of the step before: the device never waits for a reader.
        recorder.flush()
        done += 1
        recorder.push(done, metrics)
        last, stopped = done == train.steps, stop.received
        if last or done % train.eval_every == 0:
            recorder.flush()
            with recorder.paused():
                loss = evaluate(state.params)
            recorder.evaluated(done, loss)
        if last or stopped or done % config.checkpoint.every == 0:
            # Everything up to a checkpoint is on disk before the checkpoint is.
            recorder.flush()
            with recorder.paused():
                save(done, state)
    return state, done


@dataclasses.dataclass
class _Run:
    """One part of a run: from its start, or from a checkpoint, to its end.

    Attributes:
      config: of the run.
      folder: holds config.toml and tokenizer.json already.
      data: that the config names.
      report: for the person who waits.
      begun: when this part began, by the monotonic clock.
      earlier: seconds that the parts before it took.
    """

    config: Config
    folder: RunFolder
    data: Dataset
    report: Report
    begun: float
    earlier: float = 0.0

    def go(self) -> dict[str, Any]:
        config = self.config
        count = parameter_count(config.model)
        self.report.say(
            f"GPT-2 {config.model.preset}, {count / 1e6:.1f}M parameters, "
            f"{config.optimizer.rule.name}, {config.train.steps} steps of "
            f"{config.tokens_per_step} tokens; compiling"
        )
        tx = build_optimizer(config.optimizer, config.schedule, config.train.steps)
        with Checkpoints(self.folder.checkpoints, config.checkpoint.keep) as saved:
            state, done = self._restore_or_init(saved, tx)
            # Compiled before the loop, so that the first step takes a step's time;
            # from shapes, so that a resumed run finds the same program in the cache.
            step = make_train_step(config, tx)
            shapes = abstract_state(config, tx)
            step = step.lower(shapes, *self._inputs(done)).compile()
            evaluate = make_evaluate(config, self._validation())
            with self.folder.open_metrics(done) as log, stop_on_signals() as stop:
                state, done = run_steps(
                    config,
                    state,
                    done,
                    step=step,
                    inputs=self._inputs,
                    evaluate=evaluate,
                    save=lambda *now: saved.save(*now, self._seconds()),
                    recorder=Recorder(config, log, self.report, done),
                    stop=stop,
                )
        if done < config.train.steps:
            raise InterruptedRunError(
                f"interrupted after step {done}, which is saved; "
                f"to continue: optimx resume {self.folder.path}"
            )
        return self._finish(state.params, count)

    def _restore_or_init(
        self, saved: Checkpoints, tx: optax.GradientTransformation
    ) -> tuple[TrainState, int]:
        step = saved.latest()
        if step is None:
            return init_state(self.config, tx), 0
        state, self.earlier = saved.restore(step, abstract_state(self.config, tx))
        return state, step

    def _inputs(self, step: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The step's batch, and the next one's where the optimizer looks ahead."""
        ahead = "stale_grads" in self.config.optimizer.needs
        return self._batch(step), self._batch(step + 1) if ahead else None

    def _batch(self, step: int) -> np.ndarray:
        return training_batch(
            self.data.train,
            seed=self.config.train.seed,
            step=step,
            shape=self.config.batch_shape,
            context=self.config.data.context,
        )

    def _validation(self) -> np.ndarray:
        return validation_batches(
            self.data.validation,
            batches=self.config.train.eval_batches,
            batch_size=self.config.train.batch_size,
            context=self.config.data.context,
        )

    def _seconds(self) -> float:
        return self.earlier + time.monotonic() - self.begun

    def _finish(self, params: Params, count: int) -> dict[str, Any]:
        config, folder = self.config, self.folder
        lines = list(folder.read_metrics())
        losses = [line["val_loss"] for line in lines if "val_loss" in line]
        name = config.optimizer.rule.name
        summary = {
            "final_val_loss": losses[-1],
            "best_val_loss": min(losses),
            "steps": config.train.steps,
            "tokens": config.train.steps * config.tokens_per_step,
            "seconds": round(self._seconds(), 2),
            "parameters": count,
            "optimizer": name,
            "data_sha256": self.data.sha256,
            "jax_version": jax.__version__,
            "device": jax.devices()[0].device_kind,
            "seed": config.train.seed,
        }
        text = json.dumps(summary, indent=2) + "\n"
        folder.summary.write_text(text, encoding="utf-8")
        title = f"{name}, GPT-2 {config.model.preset} ({count / 1e6:.1f}M parameters)"
        plot_losses(lines, title, folder.plot)
        written = sample(config.model, params, self.data.tokenizer, _PROMPT)
        self.report.finish(summary, written, folder.path)
        return summary
