"""A run's losses are the same on every mesh, and with every number of processes."""

import contextlib
import functools
import json
import math
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimx.training.data import Dataset
from optimx.training.folder import RunFolder
from optimx.training.optimizer import build_optimizer
from optimx.training.parallel.feed import Feed
from optimx.training.parallel.layout import placed, state_sharding
from optimx.training.parallel.mesh import make_mesh
from optimx.training.state import abstract_state, init_state
from optimx.training.step import make_train_step
from optimx.training.train import resume, train
from training.small import config, words

ROOT = Path(__file__).parents[2]
STEPS = 4
OPTIMIZERS = ("mars_adamw", "ademamix", "came", "mars_shampoo", "soap")
MESHES = {
    "data": {"mesh__data": 8},
    "fsdp": {"mesh__data": 1, "mesh__fsdp": 8},
    "tensor": {"mesh__data": 1, "mesh__tensor": 2},
    "mixed": {"mesh__data": 2, "mesh__fsdp": 2, "mesh__tensor": 2},
    "zero1": {"mesh__data": 8, "mesh__zero1": "true"},
    "scanned": {"mesh__data": 2, "mesh__fsdp": 4, "model__scan": "true"},
}
# Where a gradient has no part in a direction, SOAP divides rounding by the root of its
# own square: a step of any sign. With more than rounding in the denominator, none.
SETTINGS = {"soap": {"optimizer__update_every": 2, "optimizer__eps": 1e-5}}
PAIR = {"mesh__data": 2, "mesh__fsdp": 2}
CASES = [("mars_adamw", mesh) for mesh in MESHES] + [
    (name, "mixed") for name in OPTIMIZERS[1:]
]


def chosen(corpus, name, **more):
    return config(
        corpus,
        optimizer__name=name,
        train__batch_size=8,
        train__accumulation=2,
        model__layers=2,
        **SETTINGS.get(name, {}),
        **more,
    )


@functools.cache
def data():
    tokens = np.random.default_rng(0).integers(0, 300, 4000).astype(np.uint16)
    return Dataset(tokens, tokens, None, "0" * 64)


def stepped(run, devices=None):
    """Losses of the first steps and the state after them.

    By default on as many devices as the mesh asks for.
    """
    axes = run.mesh.data, run.mesh.fsdp, run.mesh.tensor
    mesh = make_mesh(run.mesh, devices or jax.local_devices()[: np.prod(axes)])
    tx = build_optimizer(
        run.optimizer, run.schedule, run.train.steps, stacked=run.model.scan
    )
    feed = Feed(run, data(), mesh)
    found = []
    with jax.set_mesh(mesh):
        shardings = state_sharding(run, tx, mesh)
        shapes = placed(abstract_state(run, tx), shardings)
        state = init_state(run, tx, shardings)
        step = make_train_step(run, tx, shardings)
        step = step.lower(shapes, *feed.inputs(0)).compile()
        for index in range(STEPS):
            state, metrics = step(state, *feed.inputs(index))
            found.append(float(metrics["loss"]))
    return found, state


def losses(run, devices=None):
    return stepped(run, devices)[0]


@functools.cache
def on_one_device(corpus, name):
    return losses(chosen(corpus, name, mesh__data=1))


@pytest.mark.parametrize(("name", "mesh"), CASES, ids=lambda part: part)
def test_losses_are_those_of_one_device(corpus, name, mesh):
    found = losses(chosen(corpus, name, **MESHES[mesh]))
    alone = on_one_device(corpus, name)
    np.testing.assert_allclose(found, alone, rtol=1e-5)
    assert alone[-1] < alone[0]


@pytest.mark.parametrize("mesh", ["zero1", "fsdp"])
@pytest.mark.parametrize("name", ["adamw", "ademamix"])
def test_coded_states_are_those_of_one_device(corpus, name, mesh):
    """Draws of rounding go by a number's place in its array, wherever it is.

    Gradients are summed in another order, so that a draw may now and then fall on the
    other side: that step then takes the next code.
    """
    coded = {"optimizer__state": "int8", "model__width": 64, "model__context": 8}
    (alone, expected), (found, state) = (
        stepped(chosen(corpus, name, **coded, **where))
        for where in ({"mesh__data": 1}, MESHES[mesh])
    )
    np.testing.assert_allclose(found, alone, rtol=1e-5)
    codes = 0
    leaves = map(jax.tree.leaves, (state.optimizer, expected.optimizer))
    for ours, theirs in zip(*leaves, strict=True):
        assert ours.dtype == theirs.dtype
        if ours.dtype in (jnp.int8, jnp.uint8):
            codes += ours.size
            assert 8 * math.prod(ours.sharding.shard_shape(ours.shape)) == ours.size
            apart = np.abs(np.asarray(ours, int) - np.asarray(theirs, int))
            assert apart.max() <= STEPS
            assert np.mean(apart > 0) < 1e-2
    assert codes > 0


def lines(folder):
    return [
        (line["step"], line.get("loss"), line.get("val_loss"))
        for line in RunFolder(folder).read_metrics()
    ]


def close(ours, theirs):
    assert [line[0] for line in ours] == [line[0] for line in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert [x is None for x in one] == [x is None for x in other]
        for a, b in zip(one[1:], other[1:], strict=True):
            if a is not None:
                np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("name", ["mars_adamw", "soap"])
def test_a_run_goes_on_on_another_mesh(corpus, tmp_path, name):
    """From eight devices to one, and from one to four."""
    more = {"checkpoint__every": 4, "train__steps": 8}
    whole = tmp_path / "whole"
    train(chosen(corpus, name, **more), RunFolder(whole))
    for first, second in ((8, 1), (1, 4)):
        folder = RunFolder(tmp_path / f"{first}")
        run = chosen(corpus, name, **more)
        train(run, folder, jax.local_devices()[:first])
        for step in folder.checkpoints.iterdir():
            if step.name == "8":
                # As if the run had ended after its first checkpoint.
                for file in (folder.checkpoints / "manifests").glob("8*"):
                    file.unlink()
        folder.summary.unlink()
        summary = resume(folder, jax.local_devices()[:second])
        assert summary["devices"] == second
        close(lines(folder.path), lines(whole))


def free_port():
    """A port that nobody takes until it is used.

    Below those that the system hands to connections, of which other tests open many.
    """
    for port in random.SystemRandom().sample(range(20_000, 30_000), 100):
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def started(*arguments):
    """Two real processes of two devices each; each has its own words."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests"))),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
    }
    return [
        subprocess.Popen(
            [sys.executable, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for words in arguments
    ]


def together(*arguments):
    """What both print."""
    both = started(*arguments)
    said = [process.communicate(timeout=300) for process in both]
    for process, (_, err) in zip(both, said, strict=True):
        assert process.returncode == 0, err
    # All but what the library that connects them says of itself.
    return [
        [line for line in out.splitlines() if line and "peer ranks" not in line]
        for out, _ in said
    ]


def test_losses_of_two_processes_are_those_of_one_device(corpus):
    port, script = free_port(), ROOT / "tests" / "training" / "pair.py"
    said = together(*([script, port, index, corpus] for index in range(2)))
    one, other = (json.loads(lines[-1]) for lines in said)
    assert one == other
    for name in OPTIMIZERS:
        np.testing.assert_allclose(one[name], on_one_device(corpus, name), rtol=1e-5)


def test_two_processes_are_one_run(corpus, tmp_path):
    """From the command line to the end; and on, in one process with one device."""
    folder, port = tmp_path / "two", free_port()
    more = {"train__accumulation": 2, "model__layers": 2, "checkpoint__every": 3}
    arguments = words(
        corpus,
        optimizer__name="soap",
        train__batch_size=8,
        **SETTINGS["soap"],
        **PAIR,
        **more,
    )
    command = ["-m", "optimx", "train", *arguments, "--out", folder, "--processes", 2]
    command += ["--coordinator", f"127.0.0.1:{port}", "--process"]
    shown, silent = together(*([*command, index] for index in range(2)))
    assert silent == []
    assert "4 devices of 2 processes: data 2 x fsdp 2 x tensor 1" in shown
    assert f"The run is in {folder}" in shown
    alone = tmp_path / "one"
    train(chosen(corpus, "soap"), RunFolder(alone))
    close(lines(folder), lines(alone))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["devices"] == 4
    # From the last checkpoint but one.
    run = RunFolder(folder)
    for file in (run.checkpoints / "manifests").glob("8*"):
        file.unlink()
    resume_alone(run)
    close(lines(folder), lines(alone))


def test_two_processes_refuse_together(corpus, tmp_path):
    """What the first alone can see, and what the second alone can."""
    arguments = words(corpus, train__batch_size=8, **PAIR)
    taken, fresh = tmp_path / "taken", tmp_path / "fresh"
    taken.mkdir()
    (taken / "config.toml").touch()
    missing = ["--data.path", tmp_path / "away"]
    for folder, more, line in (
        (taken, [], f"optimx: {taken}: holds another run; optimx resume {taken} "),
        (fresh, missing, "optimx: process 1: "),
    ):
        command = ["-m", "optimx", "train", *arguments, "--out", folder]
        command += ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", 2]
        both = started([*command, "--process", 0], [*command, *more, "--process", 1])
        said = [process.communicate(timeout=100)[1] for process in both]
        assert [process.returncode for process in both] == [2, 2], said
        one, other = (
            [line for line in err.splitlines() if line.startswith("optimx: ")]
            for err in said
        )
        assert one == other
        assert len(one) == 1
        assert one[0].startswith(line)
    assert not (fresh / "config.toml").exists()


def resume_alone(folder):
    text = folder.config.read_text().replace("fsdp = 2", "fsdp = 1")
    folder.config.write_text(text.replace("data = 2", "data = -1"))
    resume(folder)
