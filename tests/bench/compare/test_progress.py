import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from optimx.bench.compare import progress
from optimx.bench.compare.progress import Progress


class Trial(SimpleNamespace):
    def __str__(self):
        return f"{self.contender.label} seed={self.seed}"


def trial(label, seed, steps=100):
    config = SimpleNamespace(train=SimpleNamespace(steps=steps))
    contender = SimpleNamespace(label=label)
    return Trial(contender=contender, config=config, seed=seed)


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    fake = SimpleNamespace(monotonic=lambda: clock.now)
    monkeypatch.setattr(progress, "time", fake)
    return clock


def test_the_time_left_counts_each_rule_by_its_own_steps(clock):
    console = Console(file=io.StringIO(), width=200)
    shown = Progress(console)
    shown.count({"adamw": 200, "soap": 100}, 3, 0)
    assert shown.left() == ""
    first, second = trial("adamw", 0), trial("adamw", 1)
    with shown:
        shown.begin([first])
        clock.now = 5.0
        report = shown.of(0)
        report.train_line({"step": 50, "loss": 4.0})
        # 0.1 s a step; of soap nothing is known yet.
        assert shown.left() == "0:25 left"
        shown.finished(first, {"seconds": 10.0, "final_val_loss": 4.25})
        shown.begin([trial("soap", 0)])
        shown.finished(trial("soap", 0), {"seconds": 60.0, "final_val_loss": None})
        shown.begin([second])
        # Another machine's work: by its own steps a rule is expected to go on.
        assert shown.left() == "0:10 left"
        shown.finished(second, {"seconds": 10.0, "final_val_loss": 4.0})
    lines = console.file.getvalue().splitlines()
    assert lines[0] == (
        "[1/3] adamw seed=0, 100 steps: validation loss 4.2500 (0:10), 0:20 left"
    )
    assert lines[1].startswith("[2/3] soap seed=0, 100 steps: diverged (1:00), 0:10")
    assert lines[2].endswith("0:00 left")


def test_runs_of_one_program_share_a_line(clock):
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with Progress(console) as shown:
        shown.count({"adamw": 400}, 4, 0)
        group = [trial("adamw", seed) for seed in range(4)]
        shown.begin(group)
        clock.now = 10.0
        shown.of(1).train_line({"step": 10, "loss": 1.0})  # the first one speaks
        shown.of(0).train_line({"step": 50, "loss": 4.0})
        assert shown.left() == "0:10 left"
    seen = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
    assert "0/4  adamw seed=0 and 3 more  50/100  loss 4.000" in seen
    assert "loss 1.000" not in seen


def test_what_another_process_has_done_is_not_left(clock):
    console = Console(file=io.StringIO(), width=200)
    with Progress(console) as shown:
        shown.count({"adamw": 100, "soap": 300}, 4, 0)
        shown.begin([trial("adamw", 0)])
        shown.finished(trial("adamw", 0), {"seconds": 10.0, "final_val_loss": 4.0})
        assert shown.left() == "0:30 left"
        shown.count({"adamw": 0, "soap": 100}, 4, 3)
        assert shown.left() == "0:10 left"
        shown.begin([trial("soap", 0)])
        shown.finished(trial("soap", 0), {"seconds": 10.0, "final_val_loss": 4.0})
    assert console.file.getvalue().splitlines()[-1].startswith("[4/4] soap")
