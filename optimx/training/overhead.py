"""What the trainer costs beside its step: ``python -m optimx.training.overhead``.

The same compiled step is called in a tight loop on batches made beforehand, and by
the trainer's loop, which draws batches, fetches metrics, writes metrics.jsonl and
shows its progress (evaluations and checkpoints left out). The two take turns, so
that a machine that is busy with other things slows both.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import jax

from optimx.training.config import load_config
from optimx.training.data import load_dataset
from optimx.training.folder import RunFolder
from optimx.training.interrupt import StopRequest
from optimx.training.loop import run_steps
from optimx.training.optimizer import build_optimizer
from optimx.training.parallel.feed import Feed
from optimx.training.parallel.mesh import make_mesh
from optimx.training.recorder import Recorder
from optimx.training.report import Report
from optimx.training.state import init_state
from optimx.training.step import make_train_step


def measure(steps: int, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds for ``steps`` steps of the default run: bare, and by the trainer.

    Args:
      steps: of one measurement.
      rounds: measurements of each.
    """
    config = load_config(None, [("train.steps", str(steps))])
    train = dataclasses.replace(config.train, eval_every=2 * steps)
    checkpoint = dataclasses.replace(config.checkpoint, every=2 * steps)
    config = dataclasses.replace(config, train=train, checkpoint=checkpoint)
    data = load_dataset(config.data, config.model.vocab)

    mesh = make_mesh(config.mesh, jax.devices()[:1])
    tx = build_optimizer(config.optimizer, config.schedule, steps)
    inputs = Feed(config, data, mesh).inputs
    state = init_state(config, tx)
    step = make_train_step(config, tx).lower(state, *inputs(0)).compile()
    batches = [inputs(i) for i in range(steps)]
    bare, trainer = [], []
    with tempfile.TemporaryDirectory() as folder, Report(steps) as report:
        log = RunFolder(Path(folder)).open_metrics(0)
        for _ in range(rounds):
            start = time.perf_counter()
            for batch in batches:
                state, _ = step(state, *batch)
            jax.block_until_ready(state)
            bare.append(time.perf_counter() - start)

            recorder = Recorder(config, log, report, 0)
            start = time.perf_counter()
            state, _ = run_steps(
                config,
                state,
                0,
                step=step,
                inputs=inputs,
                evaluate=lambda params: 0.0,
                save=lambda done, state: None,
                recorder=recorder,
                stop=StopRequest(),
            )
            jax.block_until_ready(state)
            trainer.append(time.perf_counter() - start)
        log.close()
    return bare, trainer


def main() -> None:
    """Prints the two times of a step and the overhead."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=8, help="measurements of each")
    options = parser.parse_args()
    bare, trainer = measure(options.steps, options.rounds)
    ratio = statistics.median(t / b for t, b in zip(trainer, bare, strict=True))
    for name, seconds in (("bare step", bare), ("trainer", trainer)):
        best = min(seconds) / options.steps * 1e3
        middle = statistics.median(seconds) / options.steps * 1e3
        print(f"{name:10} best {best:7.2f} ms, median {middle:7.2f} ms a step")
    print(
        f"overhead   best {min(trainer) / min(bare) - 1:7.2%}, "
        f"median of {options.rounds} pairs {ratio - 1:7.2%}"
    )


if __name__ == "__main__":
    main()
