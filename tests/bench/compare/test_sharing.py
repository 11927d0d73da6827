"""Processes that make one comparison together."""

import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from optimx.bench.compare.sharing import Sharing
from optimx.training.errors import InterruptedRunError
from optimx.training.interrupt import StopRequest
from optimx.training.lock import exclusive

AB = [SimpleNamespace(label="a"), SimpleNamespace(label="b")]


@pytest.fixture
def shared(tmp_path):
    """The folder as this process sees it; and what it says."""
    said = []
    sharing = Sharing(tmp_path, StopRequest(), said.append)
    sharing.said = said
    return sharing


def _locks(folder):
    """The files that two contenders are locked with, in their order."""
    found = []
    sharing = Sharing(folder, StopRequest(), print)
    sharing.each(AB, lambda one: found.append(next(folder.glob(".*.lock")).name))
    assert not list(folder.iterdir())
    return found


def test_what_others_are_at_comes_last(tmp_path, shared):
    first, _ = _locks(tmp_path)
    done, other = [], exclusive(tmp_path, "another", first)
    other.__enter__()

    def work(contender):
        done.append(contender.label)
        if contender.label == "b":
            threading.Timer(0.5, other.__exit__, (None, None, None)).start()

    shared.each(AB, work)
    assert done == ["b", "a"]
    assert shared.said == ["Another process does a: waiting for it"]


def test_a_signal_ends_the_waiting(tmp_path):
    stop = StopRequest()

    def heard(text):
        assert text == "Another process writes the report: waiting for it"
        stop.received = True

    sharing = Sharing(tmp_path, stop, heard)
    with (
        exclusive(tmp_path, "another"),
        pytest.raises(InterruptedRunError),
        sharing.last(),
    ):
        pass


def test_labels_that_a_file_cannot_hold(tmp_path):
    labels = ["adamw (.95, .99)", "adamw .95 .99", "../adamw", "a/b"]
    contenders = [SimpleNamespace(label=label) for label in labels]
    inside = []
    Sharing(tmp_path, StopRequest(), print).each(
        contenders, lambda one: inside.append(*tmp_path.iterdir())
    )
    assert len(set(inside)) == len(labels)


def test_two_processes_make_one_comparison(write, overrides, tmp_path):
    """Each trial is run once, by either; both end with the same report."""
    out = tmp_path / "out"
    settings = [word for key, value in overrides for word in (f"--{key}", value)]
    command = [sys.executable, "-m", "optimx", "compare", str(write()), *settings]
    env = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "XLA_FLAGS": "",
        "OPTIMX_CACHE": str(tmp_path / "cache"),
    }
    processes = [
        subprocess.Popen(
            [*command, "--out", str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=env,
        )
        for _ in range(2)
    ]
    texts = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], texts
    ran = Counter(re.findall(r"^\[\d+/6\] (.*?): ", "".join(texts), re.MULTILINE))
    results = json.loads((out / "results.json").read_text())
    assert len(results["trials"]) == 6
    assert sum(ran.values()) == 6
    assert set(ran.values()) == {1}
    tables = [text[text.index("contender") :] for text in texts]
    assert tables[0] == tables[1]
    assert not list(out.glob(".*lock"))
