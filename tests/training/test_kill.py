"""Nothing is lost when the process is killed, at whatever moment."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from optimx.training.checkpoints.checkpoint import Checkpoints
from optimx.training.config import load_config
from optimx.training.network import model
from training.small import words

ROOT = Path(__file__).parents[2]
RUN = {
    "optimizer__name": "ademamix",
    "train__accumulation": 2,
    "train__steps": 20,
    "train__eval_every": 10,
    "checkpoint__every": 2,
}
SAVES = 10
KILLS_OF_A_RUN = 7


@pytest.fixture
def environment(tmp_path):
    # One device and its own caches, as a person's first run has.
    kept = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    paths = {"PYTHONPATH": str(ROOT), "OPTIMX_CACHE": str(tmp_path / "cache")}
    # A pool of threads in the zygote would not be there in its children.
    return kept | paths | {"JAX_PLATFORMS": "cpu", "OPENBLAS_NUM_THREADS": "1"}


@pytest.fixture
def start(environment, tmp_path):
    """Starts a run, kills it when it is time, and returns how it ended."""
    zygote = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("zygote.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )

    def start(*arguments, kill=None):
        job = {"arguments": arguments, "kill": kill, "log": str(tmp_path / "log")}
        zygote.stdin.write(json.dumps(job) + "\n")
        zygote.stdin.flush()
        return int(zygote.stdout.readline())

    with zygote:
        yield start
        zygote.stdin.close()


def lines(folder):
    text = (folder / "metrics.jsonl").read_text()
    found = [json.loads(line) for line in text.splitlines()]
    for line in found:
        line.pop("tokens_per_second", None)
    return found


def parameters(folder):
    config = load_config(folder / "config.toml")
    with Checkpoints(folder / "checkpoints") as saved:
        return saved.restore_params(model.parameter_shapes(config.model))


def require_no_step_twice(folder):
    if not (folder / "metrics.jsonl").exists():
        return
    text = (folder / "metrics.jsonl").read_text()
    # The last line may be cut short, no other.
    whole = [json.loads(line) for line in text.splitlines(keepends=True)[:-1]]
    for kind in ("loss", "val_loss"):
        steps = [line["step"] for line in whole if kind in line]
        assert steps == sorted(set(steps))


def test_killed_runs_end_as_if_nothing_had_happened(
    corpus, tmp_path, environment, start, request
):
    whole = tmp_path / "whole"
    arguments = ["train", *words(corpus, **RUN)]
    subprocess.run(
        [sys.executable, "-m", "optimx", *arguments, "--out", str(whole)],
        env=environment,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    timed = tmp_path / "timed"
    longest, shortest = (
        seconds(start, how, timed)
        for how in ([*arguments, "--out", str(timed)], ["resume", str(timed)])
    )
    require_equal(timed, whole)
    between_saves = max(longest - shortest, 0.0) / SAVES

    total = request.config.getoption("kills")
    drawn = np.random.default_rng(0)
    kills = runs = 0
    while kills < total:
        runs += 1
        folder = tmp_path / f"run_{runs}"
        status = None
        for _ in range(min(KILLS_OF_A_RUN, total - kills)):
            # After so many lines rather than seconds, which pass at another speed when
            # the machine has other work; a start has no lines.
            metrics = folder / "metrics.jsonl"
            line = int(drawn.integers(count(metrics) - 3, len(lines(whole)) + 1))
            delay = drawn.uniform(0, between_saves)
            if line <= count(metrics):
                line, delay = 0, drawn.uniform(0, shortest)
            how = next_command(arguments, folder)
            status = start(*how, kill=[str(metrics), line, delay])
            assert status in (0, -signal.SIGKILL), (tmp_path / "log").read_text()
            require_no_step_twice(folder)
            if status == 0:
                break
            kills += 1
        if status != 0:
            assert start(*next_command(arguments, folder)) == 0
        require_equal(folder, whole)


def count(file):
    return len(file.read_text().splitlines()) if file.exists() else 0


def seconds(start, how, folder):
    begun = time.monotonic()
    assert start(*how) == 0
    return time.monotonic() - begun


def next_command(arguments, folder):
    """What a person types: resume, unless the run has not even begun."""
    if (folder / "config.toml").exists():
        return ["resume", str(folder)]
    return [*arguments, "--out", str(folder)]


def require_equal(folder, whole):
    assert lines(folder) == lines(whole)
    jax.tree.map(np.testing.assert_array_equal, parameters(folder), parameters(whole))
    assert not list((folder / "checkpoints").glob("*tmp*"))
    summaries = [json.loads((f / "summary.json").read_text()) for f in (folder, whole)]
    for summary in summaries:
        summary.pop("seconds")
    assert summaries[0] == summaries[1]
