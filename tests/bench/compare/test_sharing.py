"""Processes that make one comparison together."""

import errno
import fcntl
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

from optimx.bench.compare.sharing import Sharing, same_comparison
from optimx.training.errors import InputError, InterruptedRunError
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
    assert shared.said == ["Other processes do a: waiting for them"]


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


def test_two_comparisons_do_not_share_a_folder(tmp_path):
    with same_comparison(tmp_path, ["a", "b"], print):
        with same_comparison(tmp_path, ["b", "a"], print):
            pass
        with (
            pytest.raises(InputError, match="another comparison there at this moment"),
            same_comparison(tmp_path, ["a", "c"], print),
        ):
            pass
    # Later is another matter: that is seen by the trials that are there.
    with same_comparison(tmp_path, ["a", "c"], print):
        pass


def test_without_locks_it_says_so(tmp_path, monkeypatch):
    def refused(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    said = []
    monkeypatch.setattr(fcntl, "flock", refused)
    with same_comparison(tmp_path, ["a"], said.append):
        pass
    (line,) = said
    assert line.endswith("no locks on this file system: one process at a time only")


def test_all_that_is_waited_for_is_looked_at_in_turn(tmp_path, shared):
    """The second of two that others are at is free first."""
    done = []
    held = [exclusive(tmp_path, "another", name) for name in _locks(tmp_path)]
    for one in held:
        one.__enter__()
    threading.Timer(0.5, held[1].__exit__, (None, None, None)).start()

    def work(contender):
        done.append(contender.label)
        if contender.label == "b":
            held[0].__exit__(None, None, None)

    shared.each(AB, work)
    assert done == ["b", "a"]
    assert shared.said == ["Other processes do a, b: waiting for them"]


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
