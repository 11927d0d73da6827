"""``optimx compare``, behind the command line."""

import dataclasses
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from optimx.bench.compare.budget import show_budget
from optimx.bench.compare.config import Comparison, Contender
from optimx.bench.compare.progress import Progress
from optimx.bench.compare.reading import read_comparison
from optimx.bench.compare.report import show_table, write_report
from optimx.bench.compare.restoring import read_results, restore, timings
from optimx.bench.compare.results import Entry, assemble
from optimx.bench.compare.runner import Runner
from optimx.bench.compare.sharing import Sharing, same_comparison
from optimx.bench.compare.sweep import Choice, Plan
from optimx.bench.compare.timing import Stopwatch, Timing
from optimx.bench.compare.trials import Result, Trial, Trials
from optimx.training.checkpoints.initial import (
    check_initial_params,
    check_initial_tokenizer,
)
from optimx.training.checkpoints.manifest import write_text
from optimx.training.data import Dataset, check_sizes, load_dataset
from optimx.training.errors import (
    InputError,
    InterruptedRunError,
    StorageError,
    unwritable,
)
from optimx.training.interrupt import StopRequest, stop_on_signals
from optimx.training.parallel.mesh import check_batch, make_mesh


def compare(
    path: Path,
    overrides: Sequence[tuple[str, str]] = (),
    out: Path | None = None,
    *,
    source: Path | None = None,
    dry_run: bool = False,
    console: Console | None = None,
) -> None:
    """Makes a comparison, or what is left of it, and writes its report.

    Args:
      path: of its file.
      overrides: dotted settings of the runs.
      out: its folder; ``runs/compare-<name of the file>`` if None.
      source: a results.json; runs of this comparison that it knows are not made again.
      dry_run: say what would be run and how long it takes, and run nothing.
      console: where to write; standard output if None.

    Raises:
      InputError: a file, a setting or a folder that cannot be used.
      InterruptedRunError: a signal; finished trials stay.
      DivergedError: every run of the baseline diverged.
      StorageError: the folder can no longer be written.
    """
    console = console or Console(highlight=False)
    out = out or Path("runs") / f"compare-{path.stem}"
    comparison = read_comparison(path, overrides)
    base = comparison.base
    check_initial_params(base)
    data = load_dataset(base.data, base.model.vocab)
    check_sizes(data, base.data, base.train)
    check_initial_tokenizer(base, data.tokenizer)
    check_batch(base, make_mesh(base.mesh))
    plan, trials = Plan(comparison, data.sha256), Trials(out)
    _require_own(out)
    possible = list(plan.possible())
    trials.require_only(possible)
    if dry_run and source:
        raise InputError(f"{source}: --dry-run writes nothing, and takes no --from")
    known = read_results(source, possible) if source else None
    again = _command(path, overrides, out)
    with stop_on_signals() as stop:
        try:
            if dry_run:
                show_budget(plan, trials, data, stop, console)
                return
            with unwritable(InputError, out):
                out.mkdir(parents=True, exist_ok=True)
            names = {trial.name for trial in possible}
            with (
                same_comparison(out, names, console.print),
                unwritable(StorageError, out),
            ):
                making = _Making(comparison, plan, trials, data, stop, console)
                making.go(out, again, known)
        except InterruptedRunError:
            done = sum(map(trials.done, _distinct(plan)))
            raise InterruptedRunError(
                f"interrupted; {done} finished trials stay in {out}; to continue: "
                f"{again}"
            ) from None


def _require_own(out: Path) -> None:
    if (out / "config.toml").exists() or (out.exists() and not out.is_dir()):
        raise InputError(f"{out}: is no comparison's folder; --out names another one")


def _command(path: Path, overrides: Sequence[tuple[str, str]], out: Path) -> str:
    settings = [word for key, value in overrides for word in (f"--{key}", value)]
    return shlex.join(["optimx", "compare", str(path), *settings, "--out", str(out)])


def _distinct(plan: Plan) -> list[Trial]:
    return list({trial.name: trial for trial in plan.possible()}.values())


@dataclasses.dataclass
class _Making:
    """A comparison being made."""

    comparison: Comparison
    plan: Plan
    trials: Trials
    data: Dataset
    stop: StopRequest
    console: Console

    def go(self, out: Path, command: str, known: dict[str, Any] | None) -> None:
        """Runs what is left, then writes ``results.json`` and the report.

        Args:
          out: the folder.
          command: that does the same once more.
          known: an earlier ``results.json``; its runs are not made again.
        """
        with Progress(self.console) as progress:
            together = self.comparison.together
            runner = Runner(self.trials, self.data, together, progress, self.stop)
            sharing = Sharing(out, self.stop, progress.say)
            if known:
                with sharing.last():
                    self._take(known, out, progress)

            def work(contender: Contender) -> None:
                # Other processes may have done a part of what was left.
                progress.count(*self._left())
                self._finals(runner, self._choice(runner, contender))

            sharing.each(self.comparison.contenders, work)
            with sharing.last():
                results = self._results(out, runner, progress, command)
                write_report(results, out)
        show_table(results, self.console)
        said = f"\nThe report is {out / 'report.html'}"
        self.console.print(said, soft_wrap=True, markup=False)

    def _take(self, known: dict[str, Any], out: Path, progress: Progress) -> None:
        count = restore(known, _distinct(self.plan), self.trials)
        path = out / "timing.json"
        if not path.exists():
            write_text(path, json.dumps(timings(known), indent=1) + "\n")
        progress.say(f"{count} finished trials taken over")

    def _results(self, out: Path, runner: Runner, progress: Progress, command: str):
        """Of runs that are all done; ``results.json``, which is also written."""
        contenders = self.comparison.contenders
        choices = [self._choice(runner, contender) for contender in contenders]
        finals = [self._finals(runner, choice) for choice in choices]
        progress.say("Timing steps")
        timings = self._timings(out, finals)
        found = zip(choices, finals, timings, strict=True)
        entries = [Entry(*one) for one in found]
        results = assemble(self.comparison, entries, self._all(), command)
        text = json.dumps(results, indent=1, allow_nan=False) + "\n"
        write_text(out / "results.json", text)
        return results

    def _left(self) -> tuple[dict[str, int], int, int]:
        """Steps left of each contender, trials in all, and those that are done."""
        left, count, done = {}, 0, 0
        for contender in self.comparison.contenders:
            number, steps = self.plan.steps(contender)
            own = {trial.name: trial for trial in self.plan.possible_of(contender)}
            own = [trial for trial in own.values() if self.trials.done(trial)]
            steps -= sum(trial.config.train.steps for trial in own)
            # Finals of a point that won once, with fewer sweeps, are done in vain.
            left[contender.label] = max(steps, 0)
            count += number
            done += min(len(own), number)
        return left, count, done

    def _choice(self, runner: Runner, contender: Contender) -> Choice:
        return self.plan.choose(contender, self.trials, runner.run)

    def _finals(self, runner: Runner, choice: Choice) -> list[tuple[Trial, Result]]:
        if choice.point is None:
            return []
        wanted = self.plan.finals(choice.contender, choice.point)
        runner.run(wanted)
        return [(trial, self.trials.result(trial)) for trial in wanted]

    def _all(self) -> list[tuple[Trial, Result]]:
        done = [trial for trial in _distinct(self.plan) if self.trials.done(trial)]
        return [(trial, self.trials.result(trial)) for trial in done]

    def _timings(
        self, out: Path, finals: Sequence[Sequence[tuple[Trial, Result]]]
    ) -> list[Timing | None]:
        """Of each contender; what an earlier part has timed is read."""
        path = out / "timing.json"
        known = json.loads(path.read_text("utf-8")) if path.exists() else {}
        stopwatch = None
        timings: list[Timing | None] = []
        for own in finals:
            if not own:
                timings.append(None)
                continue
            trial = own[0][0]
            if trial.name not in known:
                if stopwatch is None:
                    stopwatch = Stopwatch(self._baseline(finals), self.data, self.stop)
                found = stopwatch.time(trial.config)
                known[trial.name] = dataclasses.asdict(found)
                write_text(path, json.dumps(known, indent=1) + "\n")
            timings.append(Timing(**known[trial.name]))
        return timings

    def _baseline(self, finals):
        for own in finals:
            if own and own[0][0].contender.label == self.comparison.baseline:
                return own[0][0].config
        return self.comparison.base
