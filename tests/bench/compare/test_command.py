"""A whole comparison, stopped, continued and read."""

import io
import json
import os
import re
import shutil
import signal
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from bench.compare.conftest import CONTENDERS
from optimx import cli
from optimx.bench.compare import command, runner
from optimx.bench.compare.command import compare
from optimx.training.config import load_config
from optimx.training.errors import InputError, InterruptedRunError
from optimx.training.folder import RunFolder
from optimx.training.train import train


def say(text=""):
    return Console(file=io.StringIO(text), width=200, highlight=False)


@pytest.fixture
def made(write, overrides, tmp_path):
    """Makes a comparison; returns what it printed."""

    def made(options='together = "always"', out="out", **more):
        console = say()
        path = write(options=options)
        compare(path, overrides, tmp_path / out, console=console, **more)
        return console.file.getvalue()

    return made


class Page(HTMLParser):
    """What a page refers to, and whether its elements are closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.references, self.seen = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)
        self.references += [v for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag, attrs):
        self.references += [v for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_comparison(made, tmp_path, monkeypatch, overrides):
    said = made()
    out = tmp_path / "out"
    results = json.loads((out / "results.json").read_text())
    by_label = {row["label"]: row for row in results["contenders"]}
    adamw, lion = by_label["adamw"], by_label["Lion, as it is"]
    folders = {one["folder"]: one for one in results["trials"]}
    assert len(folders) == 6  # two points of a sweep, twice two seeds
    assert "[6/6]" in said
    assert "left" in said

    # The winner is the better point; winners run again with seeds of their own.
    points = adamw["sweep"][0]["points"]
    best = min(points, key=lambda one: one["losses"][0])["point"]
    assert adamw["point"] == best
    assert lion["sweep"] == []
    assert results["seeds"] == [1, 2]
    assert {one["seed"] for one in folders.values() if one["stage"] == "sweep"} == {0}
    finals = [one for one in folders.values() if one["stage"] == "final"]
    assert sorted(one["seed"] for one in finals) == [1, 1, 2, 2]

    # The numbers are those of the folders.
    for label, row in by_label.items():
        losses = [one["final_val_loss"] for one in finals if one["label"] == label]
        assert row["losses"] == losses
        assert row["mean"] == pytest.approx(np.mean(losses))
        assert row["curve"]["steps"] == [2, 4, 6, 8]
        assert row["timing"]["step_ms"] > 0
    assert lion["loss_difference"]["value"] == pytest.approx(
        lion["mean"] - adamw["mean"]
    )
    assert adamw["state_bytes"] > 1.9 * lion["state_bytes"]
    for key in ("command", "versions", "hardware", "data_sha256", "run"):
        assert results[key]
    assert str(out) in results["command"]

    # The report is one file that asks for nothing.
    page = Page((out / "report.html").read_text())
    assert not page.open
    assert {"svg", "table", "style"} <= page.seen
    assert all(reference.startswith("#") for reference in page.references)
    text = (out / "report.html").read_text()
    assert "Lion, as it is" in text
    assert not re.search(r"(?:src|href)\s*=\s*.https?:", text)
    assert not re.search(r"@import|url\((?!#)", text)
    curves = ("loss_tokens", "loss_steps", "loss_time")
    for name in ("differences", *curves, "learning_rates"):
        svg = (out / "pictures" / f"{name}.svg").read_text()
        assert svg.startswith("<svg")
        assert (out / "pictures" / f"{name}.png").read_bytes()[1:4] == b"PNG"

    # Once more: nothing is run again, and the numbers stay.
    monkeypatch.setattr(runner, "run_steps", _forbidden)
    made()
    once_more = json.loads((out / "results.json").read_text())
    assert once_more == results

    one = next(one for one in finals if one["label"] == "adamw")
    folder = RunFolder(out / "trials" / one["folder"])

    # A trial that was cut short is run again, and one that lacks a number is named.
    folder.summary.rename(folder.path / "kept")
    with pytest.raises(AssertionError, match="runs"):
        made()
    (folder.path / "kept").rename(folder.summary)
    summary = json.loads(folder.summary.read_text())
    del summary["final_val_loss"]
    folder.summary.write_text(json.dumps(summary))
    with pytest.raises(InputError, match=r"summary.json: has no final_val_loss; rem"):
        made()
    shutil.rmtree(folder.path)

    # Another configuration's trials are not mixed with these.
    overrides.append(("train.steps", "9"))
    with pytest.raises(
        InputError, match=r"trial of another .*train.steps = 8 there, 9 here"
    ):
        made()


def test_a_comparison_goes_on_from_its_results(made, tmp_path, monkeypatch):
    made()
    path = tmp_path / "out" / "results.json"
    results = json.loads(path.read_text())
    with monkeypatch.context() as patch:
        # All is known: nothing is run or timed, and every number is the same.
        patch.setattr(runner, "run_steps", _forbidden)
        patch.setattr(command, "Stopwatch", _forbidden)
        said = made(out="again", source=path)
    assert "6 finished trials taken over" in said
    again = json.loads((tmp_path / "again" / "results.json").read_text())
    assert again["command"] != results["command"]
    assert again | {"command": ""} == results | {"command": ""}
    for trial in (tmp_path / "out" / "trials").iterdir():
        config = tmp_path / "again" / "trials" / trial.name / "config.toml"
        assert config.read_text() == (trial / "config.toml").read_text()

    # What is not known is run: nothing but that.
    half = results | {"trials": [t for t in results["trials"] if t["seed"] != 2]}
    path.write_text(json.dumps(half))
    assert "4 finished trials taken over" in made(out="half", source=path)
    found = json.loads((tmp_path / "half" / "results.json").read_text())
    for before, after in zip(results["contenders"], found["contenders"], strict=True):
        assert after["losses"][0] == before["losses"][0]
        assert after["losses"][1] == pytest.approx(before["losses"][1], abs=1e-5)
    metrics = (tmp_path / "half" / "trials").glob("*/metrics.jsonl")
    lines = {path: path.read_text().count("\n") for path in metrics}
    # An evaluation each, the last one of a sweep's, and what the trainer logs.
    assert sorted(lines.values())[:4] == [1, 1, 4, 4]

    # Of a point that did not win, a final's curve is not known: it is not taken.
    adamw, _ = results["contenders"]
    (loser,) = [
        one["point"]
        for one in adamw["sweep"][0]["points"]
        if one["point"] != adamw["point"]
    ]
    adamw["point"] = loser
    path.write_text(json.dumps(results))
    assert "4 finished trials taken over" in made(out="other", source=path)

    # What is there is left as it is.
    path.write_text(json.dumps(results))
    assert "0 finished trials taken over" in made(out="half", source=path)


def test_finals_with_monitors_are_run_again(made, tmp_path, overrides):
    overrides.append(("train.monitor", "true"))
    made()
    said = made(out="again", source=tmp_path / "out" / "results.json")
    assert "2 finished trials taken over" in said  # those of the sweep


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no results.json of optimx compare: JSONDecodeError"),
        ("[]", "is no results.json of optimx compare: TypeError"),
        ("{}", "is no results.json of optimx compare: KeyError.'contenders'"),
        ('{"contenders": [], "trials": [{}]}', "compare: KeyError.'folder'"),
        ('{"contenders": [], "trials": []}', "has no run of this comparison"),
        (None, "cannot be read: No such file"),
    ],
)
def test_results_that_are_none(made, tmp_path, text, message):
    path = tmp_path / "results.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        made(source=path)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="takes no --from"):
        made(source=path, dry_run=True)


def _forbidden(*args, **kwargs):
    raise AssertionError("runs")


def test_a_signal_keeps_what_is_done(made, tmp_path, monkeypatch):
    """SIGINT during the second group: the first stays, and the rest follows."""
    whole, calls = runner.run_steps, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return whole(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "run_steps", interrupted)
        with pytest.raises(InterruptedRunError, match=r"2 finished trials .*compare"):
            made()
    finished = list((tmp_path / "out").glob("trials/*/summary.json"))
    assert len(finished) == 2
    times = {path: path.stat().st_mtime_ns for path in finished}
    made()
    assert {path: path.stat().st_mtime_ns for path in finished} == times
    assert (tmp_path / "out" / "report.html").exists()


def test_what_is_faster_is_measured(write, overrides, tmp_path):
    alone = CONTENDERS.partition("\n[[compare.contender]]\nlabel")[0]
    path, out = write(alone, options="halving = true"), tmp_path / "out"
    compare(path, overrides, out, console=say())
    results = json.loads((out / "results.json").read_text())
    shared = [one for one in results["shared_programs"] if one["stage"] == "sweep"]
    assert [one["runs"] for one in shared] == [2]
    for one in shared:
        ratio = one["runs"] * one["alone_step_ms"] / one["shared_step_ms"]
        assert one["speed_up"] == pytest.approx(ratio)
        assert one["together"] == (ratio > 1)
    # Halving: the points of the grid have half the steps, and a whole schedule.
    (rung,) = results["contenders"][0]["sweep"]
    assert rung["steps"] == 4
    assert {one["steps"] for one in results["trials"]} == {4, 8}


def test_a_learning_rate_that_diverges_loses(write, overrides, tmp_path):
    text = """
[compare]
baseline = "adamw"
seeds = 1
halving = true
together = "always"
[[compare.contender]]
optimizer = {{ name = "adamw" }}
grid = {{ learning_rate = [1e-3, 1e30] }}
[[compare.contender]]
label = "lost"
optimizer = {{ name = "adamw", learning_rate = 1e30 }}
[[compare.contender]]
label = "lost [all/of it]"
optimizer = {{ name = "adamw" }}
grid = {{ learning_rate = [1e29, 1e30, 1e31] }}
"""
    out = tmp_path / "out"
    console = say()
    compare(write(text), overrides, out, console=console)
    results = json.loads((out / "results.json").read_text())
    adamw, lost, wholly = results["contenders"]
    assert adamw["point"] == {"learning_rate": 1e-3}
    assert lost["verdict"] == (
        "lost: 1 of 1 final runs diverged, so it is not compared."
    )
    # With halving, what follows a rung of which nothing is left is nothing.
    assert wholly["point"] is None
    assert len(wholly["sweep"]) == 1
    assert wholly["verdict"] == "lost [all/of it]: every run of its sweep diverged."
    said = console.file.getvalue()
    assert "1 of 1 diverged" in said
    # Brackets are no markup.
    assert re.search(r"^lost \[all/of it\] +- +diverged", said, re.MULTILINE)

    # A trial by itself is a run of the trainer: its config.toml makes the same one.
    (one,) = [
        one
        for one in results["trials"]
        if (one["label"], one["stage"]) == ("adamw", "final")
    ]
    config = load_config(out / "trials" / one["folder"] / "config.toml")
    again = train(config, RunFolder(tmp_path / "run"))
    assert again["final_val_loss"] == one["final_val_loss"]


def test_a_dry_run_leaves_nothing(made, tmp_path):
    said = made(dry_run=True)
    assert not (tmp_path / "out").exists()
    assert re.search(r"adamw +learning_rate 0.001, 0.01 +4 +32 ", said)
    assert re.search(r"Lion, as it is +as it is +2 +16 ", said)
    assert re.search(r"takes \d:\d\d one run after the other", said)


def test_a_runs_folder_is_no_comparisons(made, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.toml").touch()
    with pytest.raises(InputError, match="is no comparison's folder"):
        made()


def test_the_command_line_says_one_line(write, capsys):
    path = write('[compare]\nbaseline = "adamw"\n')
    assert cli.main(["compare", str(path), "--train.steps", "5"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "has no [[compare.contender]]" in err
