"""What a comparison would run, and how long that takes: ``--dry-run``."""

import dataclasses
import time

import jax
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from optimx.bench.compare.config import Contender, shown
from optimx.bench.compare.programs import alone, state_bytes
from optimx.bench.compare.runner import in_turns
from optimx.bench.compare.sweep import Plan
from optimx.bench.compare.table import wide
from optimx.bench.compare.trials import Trials
from optimx.training.data import Dataset
from optimx.training.interrupt import StopRequest
from optimx.training.parallel.mesh import make_mesh
from optimx.training.report import duration


@dataclasses.dataclass(frozen=True)
class Cost:
    """What is left to do for one contender, one run after the other.

    Attributes:
      trials: that are not done.
      steps: of all of them.
      step_seconds: of a step, the best of a few.
      evaluation_seconds: of one evaluation.
      compile_seconds: of a run.
      state_bytes: of the optimizer.
      seconds: in all.
    """

    trials: int
    steps: int
    step_seconds: float
    evaluation_seconds: float
    compile_seconds: float
    state_bytes: int
    seconds: float


def cost(
    plan: Plan, contender: Contender, trials: Trials, data: Dataset, stop: StopRequest
) -> Cost:
    """Measures a few steps of a contender and counts what is left."""
    count, steps = plan.steps(contender)
    point = contender.points()[0]
    done = {
        trial.name: trial.config.train.steps
        for trial in plan.possible_of(contender)
        if trials.done(trial)
    }
    count, steps = max(0, count - len(done)), max(0, steps - sum(done.values()))
    config = plan.finals(contender, point)[0].config
    mesh = make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        began = time.perf_counter()
        program = alone(config, data, mesh)
        compiling = time.perf_counter() - began
        (step,) = in_turns([program], stop)
        params = program.state().params
        program.evaluate(params)
        began = time.perf_counter()
        program.evaluate(params)
        evaluation = time.perf_counter() - began
    evaluations = steps / config.train.eval_every + count
    seconds = steps * step + evaluations * evaluation + count * compiling
    return Cost(count, steps, step, evaluation, compiling, state_bytes(config), seconds)


def show_budget(
    plan: Plan,
    trials: Trials,
    data: Dataset,
    stop: StopRequest,
    console: Console,
) -> None:
    """Prints a row for each contender, and the total."""
    comparison = plan.comparison
    table = Table(box=None, pad_edge=False)
    headings = ("contender", "grid", "trials", "steps", "step ms", "state MB", "time")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index > 1 else "left")
    total = 0.0
    for contender in comparison.contenders:
        found = cost(plan, contender, trials, data, stop)
        total += found.seconds
        grid = "; ".join(
            f"{key} {', '.join(map(shown, values))}"
            for key, values in contender.grid.items()
        )
        table.add_row(
            escape(contender.label),
            escape(grid) or "as it is",
            str(found.trials),
            f"{found.steps:,}",
            f"{found.step_seconds * 1e3:.1f}",
            f"{found.state_bytes / 1e6:.1f}",
            duration(found.seconds),
        )
    wide(console).print(table)
    how = "by halving" if comparison.halving else "whole grids"
    console.print(
        f"\n{comparison.path}: {how}, {comparison.sweep_seeds} seed(s) for a point, "
        f"{comparison.seeds} fresh seeds for the winners; "
        f"{comparison.base.train.steps} steps of "
        f"{comparison.base.tokens_per_step:,} tokens. What is not done yet takes "
        f"{duration(total)} one run after the other.",
        soft_wrap=True,
        markup=False,
    )
