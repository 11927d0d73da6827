import json
import os
import signal
import time

import jax
import numpy as np
import pytest

from optimx.training import monitoring
from optimx.training import recorder as recorder_module
from optimx.training import report as report_module
from optimx.training import run as run_module
from optimx.training.checkpoints.checkpoint import Checkpoints
from optimx.training.config import load_config
from optimx.training.data.formats import make_header
from optimx.training.errors import (
    DivergedError,
    InputError,
    InterruptedRunError,
    StorageError,
)
from optimx.training.folder import RunFolder
from optimx.training.parallel import feed
from optimx.training.train import resume, train
from training.small import BAD_GRAD, BAD_LOSS, config, settings, write_corpus

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


def test_without_its_correction_mars_is_adamw(corpus, tmp_path):
    """What configs/compare/mars_betas.toml leaves out for this reason."""

    def run(**settings):
        folder = RunFolder(tmp_path / str(len(list(tmp_path.iterdir()))))
        same = {"b1": 0.95, "b2": 0.99, "weight_decay": 0.01, "learning_rate": 0.01}
        rule = {f"optimizer__{key}": value for key, value in same.items()}
        train(config(corpus, **rule, **settings), folder)
        return [line for line in numbers(folder) if "loss" in line]

    adamw = run(optimizer__name="adamw")
    assert max(line["grad_norm"] for line in adamw) > 1  # There is something to clip.
    assert run(optimizer__name="mars_adamw", optimizer__gamma=0.0) == adamw
    assert run(optimizer__name="mars_adamw", optimizer__gamma=0.025) != adamw


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
        "skipped": 0,
        "devices": 1,
    }
    assert len(summary["data_sha256"]) == 64
    kept = {path.name for path in folder.checkpoints.iterdir()}
    assert kept == {"6", "8", "manifests"}
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
    assert any(line.get("skipped") for line in numbers(folder))


def test_parameters_that_are_not_finite_are_never_saved(corpus, tmp_path):
    chosen = settings(
        corpus,
        optimizer__name="lion",
        # Finite gradients, and a step beyond the largest float32.
        optimizer__learning_rate=3e38,
        optimizer__weight_decay=2.0,
        schedule__warmup=0,
        checkpoint__every=1,
        train__steps=3,
    )
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(DivergedError, match=r"step \d: the parameters are not finite"):
        train(load_config(None, chosen.items()), folder)
    assert "2" not in [path.name for path in folder.checkpoints.iterdir()]


@pytest.fixture
def bad_steps(monkeypatch, faults):
    """Makes the batches of these steps (from 1) bad; returns the set."""
    bad = set()

    def training_batch(tokens, *, step, **how):
        batch = draw(tokens, step=step, **how)
        if step + 1 in bad:
            batch = batch.copy()
            batch[-1, 0, :3] = BAD_GRAD if step % 2 else BAD_LOSS
        return batch

    draw = feed.training_batch
    monkeypatch.setattr(feed, "training_batch", training_batch)
    return bad


@pytest.mark.parametrize("name", ["ademamix", "mars_adamw_exact"])
def test_bad_batches_are_skipped_and_counted(
    corpus, tmp_path, capsys, bad_steps, stop_at, name
):
    bad_steps |= {3, 4, 6}
    whole, parted = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parted")
    chosen = config(corpus, optimizer__name=name, train__accumulation=2)
    assert train(chosen, whole)["skipped"] == 3
    shown = capsys.readouterr().out
    assert "the update is skipped (2 in a row, 2 in all)" in shown
    assert "the update is skipped (1 in a row, 3 in all)" in shown
    lines = [line for line in numbers(whole) if "val_loss" not in line]
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert {line["step"] for line in lines if "skipped" in line} == bad_steps
    assert [line["batch"] for line in lines if "batch" in line] == [
        [0, 2],
        [0, 3],
        [0, 5],
    ]
    assert all((line["grad_norm"] is None) == ("skipped" in line) for line in lines)
    # Stopped within the row of bad batches.
    stop_at(3)
    with pytest.raises(InterruptedRunError):
        train(chosen, parted)
    assert resume(parted)["skipped"] == 3
    assert numbers(parted) == numbers(whole)


@pytest.mark.parametrize(
    ("more", "last"),
    [({"train__max_skipped": 2}, 4), ({"train__stop_on_divergence": "true"}, 3)],
)
def test_too_many_skipped_updates_end_the_run(corpus, tmp_path, bad_steps, more, last):
    bad_steps |= {3, 4, 5, 6}
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(DivergedError, match=rf"step {last}: .* the run has diverged"):
        train(config(corpus, train__accumulation=2, **more), folder)
    # The state of the last good update, after the batch that was on its way.
    steps = [path.name for path in folder.checkpoints.iterdir() if path.name.isdigit()]
    assert steps == [str(last + 1)]
    assert not folder.summary.exists()
    bad_steps.clear()
    assert resume(folder)["skipped"] == last - 1
    lines = [line["step"] for line in numbers(folder) if "val_loss" not in line]
    assert lines == list(range(1, 9))


@pytest.fixture
def at_line(monkeypatch):
    """Does something once, right before a step's line is written, and only when a
    checkpoint that is being written by then is there.
    """

    def arm(step, act, manifest):
        write = recorder_module.as_line

        def as_line(record):
            if record["step"] == step and not done:
                done.append(step)
                while not manifest.exists():
                    time.sleep(0.01)
                act()
            return write(record)

        done = []

        monkeypatch.setattr(recorder_module, "as_line", as_line)

    return arm


@pytest.fixture
def files_up_to():
    """Lets files of this process grow to so many bytes: a disk that is full."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def must_fail_and_then_go_on(chosen, folder, whole, match, repair):
    with pytest.raises(StorageError, match=match) as error:
        train(chosen, folder)
    assert f"optimx resume {folder.path}" in str(error.value)
    assert "\n" not in str(error.value)
    repair()
    resume(folder)
    assert numbers(folder) == numbers(whole)


def manifest(folder, step):
    return folder.checkpoints / "manifests" / f"{step}.json"


SAVING = {"checkpoint__every": 2, "train__eval_every": 8}


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("whole") / "run")
    train(config(corpus, **SAVING), folder)
    return folder


def test_a_disk_that_is_full_for_metrics(corpus, tmp_path, whole, at_line, files_up_to):
    folder = RunFolder(tmp_path / "run")

    def fill():
        files_up_to(folder.metrics.stat().st_size + 7)

    at_line(5, fill, manifest(folder, 4))
    match = r"metrics\.jsonl: cannot be written: File too large"
    must_fail_and_then_go_on(
        config(corpus, **SAVING), folder, whole, match, lambda: files_up_to(-1)
    )


def test_a_disk_that_is_full_for_a_checkpoint(
    corpus, tmp_path, whole, at_line, files_up_to
):
    """The background's error ends the run at the next save; older steps stand."""
    folder = RunFolder(tmp_path / "run")
    # Room for lines and for the small files of a checkpoint, not for its numbers.
    at_line(6, lambda: files_up_to(10_000), manifest(folder, 4))

    def repair():
        files_up_to(-1)
        assert manifest(folder, 4).exists()
        assert not manifest(folder, 6).exists()

    must_fail_and_then_go_on(
        config(corpus, **SAVING),
        folder,
        whole,
        "checkpoints: a checkpoint cannot be written: File too large; to continue",
        repair,
    )


def test_a_folder_of_checkpoints_that_goes_away(corpus, tmp_path, whole, at_line):
    folder = RunFolder(tmp_path / "run")
    away = tmp_path / "away"

    def take():
        folder.checkpoints.rename(away)
        folder.checkpoints.write_text("no folder")

    def repair():
        folder.checkpoints.unlink()
        away.rename(folder.checkpoints)

    at_line(5, take, manifest(folder, 4))
    match = "a checkpoint cannot be written: Not a directory; to continue"
    must_fail_and_then_go_on(config(corpus, **SAVING), folder, whole, match, repair)


def test_a_summary_that_cannot_be_written(corpus, tmp_path, whole):
    folder = RunFolder(tmp_path / "run")
    folder.summary.mkdir(parents=True)
    match = r"summary\.json: cannot be written: Is a directory"
    must_fail_and_then_go_on(
        config(corpus, **SAVING), folder, whole, match, folder.summary.rmdir
    )
    assert json.loads(folder.summary.read_text())["steps"] == 8


def test_a_folder_that_cannot_be_written_at_the_start(corpus, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.tokenizer.mkdir(parents=True)
    with pytest.raises(InputError, match=r"tokenizer\.json: cannot be written: Is a d"):
        train(config(corpus), folder)
    assert [path.name for path in folder.path.iterdir() if path.is_file()] == []


def test_signals_are_as_before_after_a_run(corpus, tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(config(corpus, train__steps=1, schedule__warmup=0), RunFolder(tmp_path / "r"))
    after = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert before == after


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_after_the_last_step_end_nothing(corpus, tmp_path, monkeypatch, number):
    """The last checkpoint and the summary are written all the same."""
    closed, plotted = Checkpoints.__exit__, run_module.plot_losses

    def closing(self, *exception):
        os.kill(os.getpid(), number)
        return closed(self, *exception)

    monkeypatch.setattr(Checkpoints, "__exit__", closing)
    first, second = RunFolder(tmp_path / "first"), RunFolder(tmp_path / "second")
    train(config(corpus), first)
    monkeypatch.setattr(Checkpoints, "__exit__", closed)

    def plotting(*args):
        os.kill(os.getpid(), number)
        return plotted(*args)

    monkeypatch.setattr(run_module, "plot_losses", plotting)
    train(config(corpus), second)
    for folder in (first, second):
        assert folder.summary.is_file()
        assert folder.plot.is_file()
        assert "8" in [path.name for path in folder.checkpoints.iterdir()]


def write_bins(folder, counts=(4000, 3000), high=300):
    """Token files without a tokenizer."""
    folder.mkdir(exist_ok=True)
    for i, count in enumerate(counts):
        tokens = np.random.default_rng(i).integers(0, high, count, np.uint16)
        header = make_header(count, tokens.dtype)
        (folder / f"{i}.bin").write_bytes(header + tokens.tobytes())
    return folder


def test_token_files_need_no_tokenizer_and_can_be_resumed(tmp_path, stop_at, capsys):
    bins = write_bins(tmp_path / "bins")
    whole, parted = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parted")
    summary = train(config(bins, data__source="bin"), whole)
    assert not whole.tokenizer.exists()
    assert load_config(whole.config).data.sha256 == summary["data_sha256"]
    shown = capsys.readouterr().out
    assert "The run is in" in shown
    assert "The model writes" not in shown
    stop_at(3)
    with pytest.raises(InterruptedRunError):
        train(config(bins, data__source="bin"), parted)
    resume(parted)
    assert numbers(parted) == numbers(whole)


def test_resume_needs_the_same_token_files(tmp_path, stop_at):
    bins = write_bins(tmp_path / "bins")
    folder = RunFolder(tmp_path / "run")
    stop_at(3)
    with pytest.raises(InterruptedRunError):
        train(config(bins, data__source="bin"), folder)
    saved = numbers(folder)
    content = (bins / "1.bin").read_bytes()
    os.truncate(bins / "1.bin", 3000)
    with pytest.raises(InputError, match=r"1\.bin: is truncated: its header counts"):
        resume(folder)
    write_bins(bins, (4000, 2999))
    with pytest.raises(InputError, match="not the files of that run"):
        resume(folder)
    (bins / "1.bin").write_bytes(content)
    assert numbers(folder) == saved
    resume(folder)


def test_a_token_file_that_shrinks_during_the_run_stops_it(tmp_path, monkeypatch):
    """One line; what was saved before is whole, and with the file back it goes on."""
    bins = write_bins(tmp_path / "bins", (40_000, 30_000))
    whole, parted = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parted")
    chosen = config(bins, data__source="bin", checkpoint__every=1)
    train(chosen, whole)
    content = (bins / "0.bin").read_bytes()
    show = report_module.Report.train_line

    def train_line(self, line):
        show(self, line)
        if line["step"] == 3:
            os.truncate(bins / "0.bin", 2000)

    with monkeypatch.context() as patch:
        patch.setattr(report_module.Report, "train_line", train_line)
        with pytest.raises(InputError, match=r"0\.bin: shrank since the run began"):
            train(chosen, parted)
    (bins / "0.bin").write_bytes(content)
    resume(parted)
    assert numbers(parted) == numbers(whole)


def test_a_run_on_text_keeps_needing_its_tokenizer(corpus, tmp_path):
    folder = RunFolder(tmp_path / "run")
    train(config(corpus, train__steps=1, schedule__warmup=0), folder)
    folder.tokenizer.unlink()
    with pytest.raises(InputError, match=r"has no tokenizer\.json"):
        resume(folder)


def test_a_monitored_run_goes_on_exactly(corpus, tmp_path, stop_at, monkeypatch):
    monkeypatch.setattr(monitoring, "EVERY", 2)
    monitored = config(corpus, train__monitor="true", train__log_every=2)
    whole, parts, plain = (
        RunFolder(tmp_path / name) for name in ("whole", "parts", "plain")
    )
    train(config(corpus, train__log_every=2), plain)
    train(monitored, whole)
    with monkeypatch.context() as patch:
        patch.setattr(report_module, "Report", report_module.Report)
        stop_at(4)
        with pytest.raises(InterruptedRunError):
            train(monitored, parts)
    resume(parts)
    assert numbers(parts) == numbers(whole)
    found = [line["monitor"] for line in numbers(whole) if "monitor" in line]
    assert [values["update"] for values in found] == [3, 5, 7]
    assert all(values["correct/change"] > 0 for values in found)
    # The numbers are those of a run that nobody watches.
    assert [line["loss"] for line in numbers(plain) if "loss" in line] == [
        line["loss"] for line in numbers(whole) if "loss" in line
    ]
