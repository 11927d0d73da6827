"""A run from its start, or from a checkpoint, to its end."""

import contextlib
import dataclasses
import functools
import json
import os
import time
from typing import Any, TextIO

import jax
import optax

from optimx.training.checkpoints.checkpoint import Checkpoints
from optimx.training.checkpoints.initial import initial_params
from optimx.training.checkpoints.manifest import write_text
from optimx.training.checkpoints.resumption import about, last_state
from optimx.training.config import Config, dump_config
from optimx.training.data import Dataset
from optimx.training.errors import (
    DivergedError,
    InterruptedRunError,
    StorageError,
    unwritable,
)
from optimx.training.evaluate import make_evaluate
from optimx.training.folder import RunFolder
from optimx.training.interrupt import stop_on_signals
from optimx.training.loop import run_steps
from optimx.training.monitoring import optimizer_of
from optimx.training.network.attention import resolve_attention
from optimx.training.network.model import Params, parameter_count
from optimx.training.parallel.feed import Feed
from optimx.training.parallel.layout import (
    describe,
    placed,
    state_sharding,
)
from optimx.training.parallel.processes import is_first, whole
from optimx.training.planning.memory import step_memory
from optimx.training.plot import plot_losses
from optimx.training.recorder import REMEDY, Recorder
from optimx.training.report import Report
from optimx.training.sample import sample
from optimx.training.state import (
    TrainState,
    abstract_state,
    all_finite,
    init_state,
    state_bytes,
)
from optimx.training.step import make_train_step

_PROMPT = "def"


@dataclasses.dataclass
class Run:
    """One part of a run: from its start, or from a checkpoint, to its end.

    Attributes:
      config: of the run.
      folder: holds config.toml, and tokenizer.json if there is one, already.
      data: that the config names.
      mesh: of the devices.
      report: for the person who waits.
      begun: when this part began, by the monotonic clock.
      is_new: whether config.toml does not say yet what the config does.
      earlier: seconds that the parts before it took.
      switched: changes of the optimizer, as :class:`Found` has them.
    """

    config: Config
    folder: RunFolder
    data: Dataset
    mesh: jax.sharding.Mesh
    report: Report
    begun: float
    is_new: bool = False
    earlier: float = 0.0
    switched: tuple[dict[str, Any], ...] = ()

    def go(self) -> dict[str, Any]:
        config = self.config
        count = parameter_count(config.model)
        platform = self.mesh.devices.flat[0].platform
        resolved = resolve_attention(config, platform)
        tx = optimizer_of(config)
        held = state_bytes(config, tx) / count
        self.report.say(
            f"GPT-2 {config.model.preset}, {count / 1e6:.1f}M parameters, "
            f"{config.optimizer.rule.name} ({held:.2f} bytes of state for each), "
            f"{config.train.steps} steps of "
            f"{config.tokens_per_step} tokens, attention {resolved.model.attention}; "
            "compiling"
        )
        again = f"optimx resume {self.folder.path}"
        try:
            # Signals are heard from the first step until everything is written.
            with contextlib.ExitStack() as listening:
                with jax.set_mesh(self.mesh):
                    state, done, diverged = self._train(resolved, tx, listening)
                    params = whole(state.params)
                if not diverged and done == config.train.steps:
                    with unwritable(StorageError, self.folder.path):
                        return self._finish(params, int(state.skipped), count)
        except StorageError as error:
            raise StorageError(
                f"{error}; to continue from the last checkpoint: {again}"
            ) from error
        if diverged:
            raise DivergedError(
                f"{diverged}; the run has diverged and stops after step {done}, "
                f"which is saved; to continue: {again} ({REMEDY})"
            )
        raise InterruptedRunError(
            f"interrupted after step {done}, which is saved; to continue: {again}"
        )

    def _train(
        self,
        config: Config,
        tx: optax.GradientTransformation,
        listening: contextlib.ExitStack,
    ) -> tuple[TrainState, int, str | None]:
        """The last state, its step, and why the run diverged if it did."""
        shardings = state_sharding(config, tx, self.mesh)
        shapes = placed(abstract_state(config, tx), shardings)
        for line in describe(config, tx, shapes, self.mesh):
            self.report.say(line)
        feed = Feed(config, self.data, self.mesh)
        checkpoints = Checkpoints(self.folder.checkpoints, config.checkpoint.keep)
        with checkpoints as saved:
            state, done = self._restore_or_init(saved, tx, shapes, shardings)
            # Compiled before the loop, so that the first step takes a step's time;
            # from shapes, so that a resumed run finds the same program in the cache.
            step = make_train_step(config, tx, shardings)
            step = step.lower(shapes, *feed.inputs(done)).compile()
            self.report.say(str(step_memory(step)))
            evaluate = make_evaluate(config, feed.validation())
            stop = listening.enter_context(stop_on_signals())
            with (
                unwritable(StorageError, self.folder.metrics),
                self._open_metrics(done) as log,
            ):
                recorder = Recorder(config, log, self.report, done)
                state, done = run_steps(
                    config,
                    state,
                    done,
                    step=step,
                    inputs=feed.inputs,
                    evaluate=evaluate,
                    save=functools.partial(self._save, saved, log),
                    recorder=recorder,
                    stop=stop,
                )
        return state, done, recorder.diverged

    def _open_metrics(self, done: int) -> TextIO:
        if is_first():
            return self.folder.open_metrics(done)
        return open(os.devnull, "a", encoding="utf-8")

    def _restore_or_init(
        self,
        saved: Checkpoints,
        tx: optax.GradientTransformation,
        shapes: TrainState,
        shardings: TrainState,
    ) -> tuple[TrainState, int]:
        data = self.data.sha256
        found = last_state(saved, self.config, data, shapes, self.report.say)
        if self.is_new and is_first():
            # Not before: what cannot be switched leaves the run as it was. Not later:
            # the next checkpoint is the new optimizer's.
            write_text(self.folder.config, dump_config(self.config))
        if found is None:
            params = initial_params(self.config, shardings.params)
            return init_state(self.config, tx, shardings, params), 0
        self.earlier, self.switched = found.seconds, found.switched
        return found.state, found.step

    def _save(
        self, saved: Checkpoints, log: TextIO, done: int, state: TrainState
    ) -> None:
        if not all_finite(state.params):
            raise DivergedError(
                f"step {done}: the parameters are not finite; the run has diverged "
                f"and stops; nothing is saved after the last checkpoint ({REMEDY})"
            )
        # Everything up to a checkpoint is on disk before the checkpoint is.
        if is_first():
            os.fsync(log.fileno())
        sha256, seconds = self.data.sha256, self._seconds()
        saved.save(done, state, about(self.config, sha256, seconds, self.switched))

    def _seconds(self) -> float:
        return self.earlier + time.monotonic() - self.begun

    def _finish(self, params: Params, skipped: int, count: int) -> dict[str, Any]:
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
            "skipped": skipped,
            "devices": self.mesh.size,
        }
        if self.switched:
            summary["switched"] = list(self.switched)
        if not is_first():
            return summary
        write_text(folder.summary, json.dumps(summary, indent=2) + "\n")
        title = f"{name}, GPT-2 {config.model.preset} ({count / 1e6:.1f}M parameters)"
        plot_losses(lines, title, folder.plot)
        written = None
        if self.data.tokenizer is not None:
            written = sample(config.model, params, self.data.tokenizer, _PROMPT)
        self.report.finish(summary, written, folder.path)
        return summary
