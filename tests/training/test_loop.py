import json
import signal

import jax
import numpy as np
import pytest

from optimx.training import report as report_module
from optimx.training.config import load_config
from optimx.training.errors import DivergedError, InputError, InterruptedRunError
from optimx.training.folder import RunFolder
from optimx.training.loop import resume, train
from training.small import config, settings, write_corpus

CLOCKS = ("tokens_per_second",)


def numbers(folder):
    """The lines of metrics.jsonl without what depends on the clock."""
    return [
        {key: value for key, value in line.items() if key not in CLOCKS}
        for line in folder.read_metrics()
    ]


@pytest.fixture
def stop_at(monkeypatch):
    """Sends SIGINT to this process while a step's line is shown."""

    def arm(step):
        show = report_module.Report.train_line

        def train_line(self, line):
            show(self, line)
            if line["step"] == step:
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(report_module.Report, "train_line", train_line)

    return arm


def test_a_run_leaves_what_the_documentation_lists(corpus, tmp_path, capsys):
    folder = RunFolder(tmp_path / "run")
    summary = train(config(corpus, checkpoint__every=3), folder)
    assert {file.name for file in folder.path.iterdir()} == {
        "config.toml",
        "metrics.jsonl",
        "summary.json",
        "loss.png",
        "tokenizer.json",
        "checkpoints",
    }
    assert json.loads(folder.summary.read_text()) == summary
    lines = numbers(folder)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 9))
    losses = {line["step"]: line["val_loss"] for line in lines if "val_loss" in line}
    assert list(losses) == [4, 8]
    assert summary.pop("seconds") > 0
    assert summary == {
        "final_val_loss": losses[8],
        "best_val_loss": min(losses.values()),
        "steps": 8,
        "tokens": 8 * 4 * 16,
        "parameters": sum(
            np.prod(shape)
            for shape in [(300, 16), (16, 16), *[(16,)] * 2]
            + [(16, 48), (48,), (16, 16), (16,), (16, 64), (64,), (64, 16)]
            + [(16,)] * 5
        ),
        "optimizer": "mars_adamw",
        "data_sha256": load_config(folder.config).data.sha256,
        "jax_version": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "seed": 0,
    }
    assert len(summary["data_sha256"]) == 64
    assert sorted(int(p.name) for p in folder.checkpoints.iterdir()) == [6, 8]
    shown = capsys.readouterr().out
    assert f"validation loss {losses[8]:.4f}" in shown
    assert f"The run is in {folder.path}" in shown


def test_a_runs_own_configuration_repeats_it(corpus, tmp_path):
    first, again = RunFolder(tmp_path / "first"), RunFolder(tmp_path / "again")
    train(config(corpus, optimizer__name="ademamix"), first)
    train(load_config(first.config), again)
    assert numbers(first) == numbers(again)
    assert first.config.read_text() == again.config.read_text()


@pytest.mark.parametrize(
    "chosen",
    [
        {"optimizer__name": "mars_adamw"},
        # Stopped in the middle of both ramps, of the warmup and of the decay.
        {"optimizer__name": "ademamix", "schedule__kind": "warmup_stable_decay"},
        {"optimizer__name": "came", "optimizer__others__name": "adamw"},
        {"optimizer__name": "mars_adamw_exact", "train__accumulation": 2},
    ],
    ids=lambda chosen: chosen["optimizer__name"],
)
def test_a_resumed_run_equals_an_uninterrupted_one(corpus, tmp_path, stop_at, chosen):
    whole, parted = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parted")
    chosen = config(corpus, **chosen)
    train(chosen, whole)
    stop_at(3)
    with pytest.raises(InterruptedRunError, match=f"optimx resume {parted.path}"):
        train(chosen, parted)
    assert not parted.summary.exists()
    assert numbers(parted) == numbers(whole)[: len(numbers(parted))]
    assert 3 <= numbers(parted)[-1]["step"] < 8
    stop_at(6)
    with pytest.raises(InterruptedRunError):
        resume(parted)
    resume(parted)
    assert numbers(parted) == numbers(whole)
    summaries = [json.loads(f.summary.read_text()) for f in (whole, parted)]
    for summary in summaries:
        assert summary.pop("seconds") > 0
    assert summaries[0] == summaries[1]


def test_lines_beyond_the_checkpoint_are_written_again(corpus, tmp_path, stop_at):
    """As after a power cut: the last checkpoint is older than the last line."""
    folder = RunFolder(tmp_path / "run")
    stop_at(5)
    with pytest.raises(InterruptedRunError):
        train(config(corpus), folder)
    saved = numbers(folder)
    with folder.metrics.open("a") as log:
        log.write('{"step": 7, "loss": 99.0}\n{"step": 8, "lo')
    resume(folder)
    lines = numbers(folder)
    assert lines[: len(saved)] == saved
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 9))
    assert max(line.get("loss", 0) for line in lines) < 10


def test_a_finished_run_is_finished(corpus, tmp_path):
    folder = RunFolder(tmp_path / "run")
    train(config(corpus), folder)
    before = numbers(folder)
    resume(folder)
    assert numbers(folder) == before


def test_resume_needs_the_same_text(tmp_path):
    corpus = write_corpus(tmp_path / "text")
    folder = RunFolder(tmp_path / "run")
    train(config(corpus, train__steps=1, schedule__warmup=0), folder)
    (corpus / "file_0.txt").write_text("something else")
    with pytest.raises(InputError, match="not the text of that run"):
        resume(folder)


def test_a_run_that_diverges_stops_and_says_so(corpus, tmp_path):
    chosen = settings(
        corpus,
        optimizer__name="adamw",
        optimizer__learning_rate=1e38,
        schedule__warmup=0,
        checkpoint__every=1,
    )
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(DivergedError, match=r"step \d: .* is (nan|inf)"):
        train(load_config(None, chosen.items()), folder)
    assert not folder.summary.exists()
    assert "NaN" not in folder.metrics.read_text()


def test_signals_are_as_before_after_a_run(corpus, tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(config(corpus, train__steps=1, schedule__warmup=0), RunFolder(tmp_path / "r"))
    after = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert before == after
