"""Trials, run by the trainer's loop: several in one program where that is faster."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import jax

from optimx.bench.compare.programs import (
    Program,
    alone,
    common,
    memory,
    state_bytes,
    together,
)
from optimx.bench.compare.progress import Progress
from optimx.bench.compare.recorders import Recorders
from optimx.bench.compare.trials import Trial, Trials
from optimx.training.data import Dataset
from optimx.training.errors import InterruptedRunError
from optimx.training.interrupt import StopRequest
from optimx.training.loop import run_steps
from optimx.training.network.model import parameter_count
from optimx.training.parallel.mesh import make_mesh
from optimx.training.recorder import Recorder

_TURNS = 4

# How a trial shared its program, for its summary.
Shared = dict[str, Any]


@dataclasses.dataclass
class Runner:
    """Runs trials and keeps what is finished.

    Attributes:
      trials: the folder.
      data: that all of them learn.
      sharing: ``auto``, ``always`` or ``never``: whether runs share a program.
      progress: for the person who waits.
      stop: looked at after every step.
    """

    trials: Trials
    data: Dataset
    sharing: str
    progress: Progress
    stop: StopRequest

    def run(self, trials: Sequence[Trial]) -> None:
        """Runs those that are not done.

        Raises:
          InterruptedRunError: a signal stopped it; what is done stays.
        """
        left = [trial for trial in trials if not self.trials.done(trial)]
        for group in _groups(left):
            self._run_group(group)

    def _run_group(self, group: list[Trial]) -> None:
        if len(group) == 1 or self.sharing == "never":
            return self._one_by_one(group, {})
        self.progress.say(f"{group[0].contender.label}: compiling {len(group)} runs")
        if self.sharing == "always":
            program = together([trial.config for trial in group], self.data)
            return self._go(group, program, _shared(len(group), True))
        single = self._alone(group[0])
        fitting = max(1, memory() // max(1, single.bytes))
        for start in range(0, len(group), fitting):
            part = group[start : start + fitting]
            program, shared = self._measured(part, single)
            if program is None:
                # Each compiled by itself knows its learning rate; one is there.
                self._one_by_one(part, shared, None if start else single)
            else:
                self._go(part, program, shared)
        return None

    def _one_by_one(
        self, group: list[Trial], shared: Shared, first: Program | None = None
    ) -> None:
        for trial in group:
            program = first or self._alone(trial)
            first = None
            self._go([trial], program, shared)

    def _alone(self, trial: Trial) -> Program:
        with jax.set_mesh(self._mesh(trial)):
            return alone(trial.config, self.data, self._mesh(trial))

    @staticmethod
    def _mesh(trial: Trial) -> jax.sharding.Mesh:
        return make_mesh(trial.config.mesh)

    def _measured(
        self, group: list[Trial], single: Program
    ) -> tuple[Program | None, Shared]:
        """One program of all runs if it is faster than one run after the other."""
        count = len(group)
        if count == 1:
            return None, _shared(count, False) | {"reason": "memory"}
        try:
            program = together([trial.config for trial in group], self.data)
            alone_s, shared_s = in_turns((single, program), self.stop)
        except (NotImplementedError, jax.errors.JaxRuntimeError) as error:
            # A kernel that cannot be mapped, or more memory than there is.
            reason = str(error).partition("\n")[0]
            self.progress.say(f"  not in one program: {reason}")
            return None, _shared(count, False) | {"reason": reason}
        speed_up = count * alone_s / shared_s
        faster = speed_up > 1
        self.progress.say(
            f"  {count} in one program: {speed_up:.2f} times as fast as one by one, so "
            f"they run {'together' if faster else 'one by one'}"
        )
        return program if faster else None, _shared(count, faster) | {
            "alone_step_ms": alone_s * 1e3,
            "shared_step_ms": shared_s * 1e3,
            "speed_up": speed_up,
        }

    def _go(self, group: list[Trial], program: Program, shared: Shared) -> None:
        """Runs the program to its end."""
        if self.stop.received:
            raise InterruptedRunError("interrupted")
        began = time.monotonic()
        config = group[0].config
        mesh = self._mesh(group[0]) if program.runs == 1 else None
        with contextlib.ExitStack() as stack:
            if mesh is not None:
                stack.enter_context(jax.set_mesh(mesh))
            logs = [stack.enter_context(self.trials.begin(trial)) for trial in group]
            self.progress.begin(group)
            recorders = Recorders(
                [
                    Recorder(trial.config, log, self.progress.of(index), 0)
                    for index, (trial, log) in enumerate(zip(group, logs, strict=True))
                ]
            )
            _, done = run_steps(
                config,
                program.state(),
                0,
                step=program.step,
                inputs=program.inputs,
                evaluate=program.evaluate,
                save=lambda done, state: None,
                recorder=recorders,
                stop=self.stop,
            )
        if done < config.train.steps and recorders.diverged is None:
            raise InterruptedRunError("interrupted")
        seconds = (time.monotonic() - began) / len(group)
        for trial, reason in zip(group, recorders.reasons, strict=True):
            summary = self._summary(trial, reason, seconds, shared)
            self.trials.finish(trial, summary)
            self.progress.finished(trial, summary)

    def _summary(
        self, trial: Trial, diverged: str | None, seconds: float, shared: Shared
    ) -> dict[str, Any]:
        config, folder = trial.config, self.trials.folder(trial)
        lines = folder.read_metrics()
        losses = [line["val_loss"] for line in lines if "val_loss" in line]
        return {
            "label": trial.contender.label,
            "stage": trial.stage,
            "point": dict(trial.point),
            "final_val_loss": None if diverged else losses[-1],
            "best_val_loss": min(losses, default=None),
            "diverged": diverged,
            "steps": config.train.steps,
            "tokens": config.train.steps * config.tokens_per_step,
            "seconds": round(seconds, 2),
            "parameters": parameter_count(config.model),
            "optimizer": config.optimizer.rule.name,
            "learning_rate": config.optimizer.rule.learning_rate,
            "state_bytes": state_bytes(config),
            "data_sha256": self.data.sha256,
            "jax_version": jax.__version__,
            "device": jax.devices()[0].device_kind,
            "seed": config.train.seed,
            "shared": shared,
        }


def _groups(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Trials that one program can run, in the order of their first ones."""
    groups: list[tuple[Any, list[Trial]]] = []
    for trial in trials:
        key = trial.contender.label, common(trial.config)
        for other, group in groups:
            if other == key:
                group.append(trial)
                break
        else:
            groups.append((key, [trial]))
    return [group for _, group in groups]


def _shared(runs: int, together: bool) -> Shared:
    return {"runs": runs, "together": together}


def in_turns(programs: Sequence[Program], stop: StopRequest) -> list[float]:
    """Seconds of a step of each program, of all its runs.

    They take turns, and each one's best counts: what else the machine does must not
    decide between them.
    """
    states = [program.state() for program in programs]
    batches = [program.inputs(0) for program in programs]
    best = [math.inf] * len(programs)
    for turn in range(1 + _TURNS):
        for index, program in enumerate(programs):
            if stop.received:
                raise InterruptedRunError("interrupted")
            began = time.perf_counter()
            states[index], _ = program.step(states[index], *batches[index])
            jax.block_until_ready(states[index])
            if turn:
                best[index] = min(best[index], time.perf_counter() - began)
    return best
