"""A run that goes on with another optimizer, from the command line."""

import dataclasses
import json
import shutil
import tomllib

import jax
import numpy as np
import pytest

import optimx
from optimx import cli
from optimx.training import run as runs
from optimx.training.checkpoints.checkpoint import Checkpoints
from optimx.training.checkpoints.resumption import about, last_state
from optimx.training.config import load_config, switch_config
from optimx.training.errors import InputError
from optimx.training.folder import RunFolder
from optimx.training.optimizer import build_optimizer
from optimx.training.parallel.layout import placed, state_sharding
from optimx.training.parallel.mesh import make_mesh
from optimx.training.state import abstract_state
from optimx.training.train import resume, train
from training.small import config

STEPS, STOP = 8, 4
TO_ADEMAMIX = ("--optimizer.name", "ademamix")


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """Only numbers are compared here."""
    monkeypatch.setattr(runs, "sample", lambda *args, **kwargs: "")
    monkeypatch.setattr(runs, "plot_losses", lambda *args: None)


def numbers(folder):
    found = list(folder.read_metrics())
    for line in found:
        line.pop("tokens_per_second", None)
    return found


def cut(folder, step, steps=STEPS):
    """The folder of a run that was killed right after that checkpoint."""
    folder.summary.unlink(missing_ok=True)
    for later in range(step + 1, steps + 1):
        shutil.rmtree(folder.checkpoints / str(later))
        (folder.checkpoints / "manifests" / f"{later}.json").unlink()


def trained(corpus, path, **more):
    """A run of AdamW unless ``more`` says otherwise, killed in the middle."""
    folder = RunFolder(path)
    chosen = {"optimizer__name": "adamw", "optimizer__b2": 0.99} | more
    run = config(corpus, checkpoint__every=1, checkpoint__keep=STEPS, **chosen)
    train(run, folder)
    cut(folder, STOP)
    return folder


@pytest.fixture(scope="module")
def adamw(corpus, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "sample", lambda *args, **kwargs: "")
        patch.setattr(runs, "plot_losses", lambda *args: None)
        return trained(corpus, tmp_path_factory.mktemp("runs") / "adamw")


@pytest.fixture
def run(adamw, tmp_path):
    """A copy of a run of AdamW that was killed after its fourth checkpoint."""
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(adamw.path, folder.path)
    return folder


def state_at(folder, step):
    run = load_config(folder.config)
    with Checkpoints(folder.checkpoints) as saved:
        return saved.restore(step, abstract_state(run, build(run)))


def resume_words(folder, *settings):
    return cli.main(["resume", str(folder.path), *settings])


def test_resume_goes_on_with_another_optimizer(adamw, run, capsys):
    assert resume_words(run, *TO_ADEMAMIX, "--optimizer.learning_rate", "2e-3") == 0
    said = capsys.readouterr().out
    assert "Step 4: from adamw to ademamix" in said
    assert "carried: precondition/direction/parts/0 (16 arrays, from" in said
    assert "precondition/by (16 arrays); rate (counter)" in said
    assert "precondition/direction/parts/1 (16 arrays)" in said
    assert "dropped: nothing" in said
    assert "Not as an uninterrupted run" not in said
    summary = json.loads(run.summary.read_text())
    assert summary["optimizer"] == "ademamix"
    assert summary["switched"] == [{"step": STOP, "from": "adamw", "to": "ademamix"}]
    written = tomllib.loads(run.config.read_text())
    assert written["optimizer"]["name"] == "ademamix"
    assert written["checkpoint"]["switch_to"] == "ademamix"
    # Of AdEMAMix's recipe; AdamW's b2 is not AdEMAMix's.
    assert written["optimizer"]["b2"] == 0.999
    assert written["optimizer"]["b3_warmup"] == STEPS
    # Counters after four steps of each: those of memories that were carried go on.
    state = state_at(run, STEPS).optimizer
    fork = state["precondition"]
    fast, slow = fork.direction.parts
    counts = [fast.count, fork.by.count, state["rate"].count]
    assert [int(count) for count in counts] == [STEPS] * 3
    assert [int(fork.direction.count), int(slow.count)] == [STEPS - STOP] * 2
    # The learning rate goes on where it was, from the new peak.
    lines = {line["step"]: line for line in numbers(run) if "loss" in line}
    ours = [lines[step]["learning_rate"] for step in (STOP + 1, STEPS)]
    theirs = load_config(adamw.config)
    whole = {line["step"]: line for line in numbers(adamw) if "loss" in line}
    peak = 2e-3 / theirs.optimizer.rule.learning_rate
    expected = [whole[step]["learning_rate"] * peak for step in (STOP + 1, STEPS)]
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def saved_by(folder, run, step=STOP):
    """A checkpoint of a run whose every number is another, with no step computed."""
    with jax.set_mesh(make_mesh(run.mesh)):
        tx = build(run)
        generator = np.random.default_rng(0)

        def filled(x):
            if x.ndim == 0 or x.dtype == np.int32:
                return np.full(x.shape, step, x.dtype)
            return generator.random(x.shape, np.float32).astype(x.dtype)

        state = jax.tree.map(filled, abstract_state(run, tx))
        state = jax.tree.map(jax.numpy.asarray, state)
        with Checkpoints(folder.checkpoints, keep=1) as saved:
            saved.save(step, state, about(run, "0" * 64, 1.0))
    return state


def build(run):
    return build_optimizer(
        run.optimizer, run.schedule, run.train.steps, stacked=run.model.scan
    )


def switched(folder, run, devices=None, *, say=lambda line: None, sha256="0" * 64):
    """The state with which a run goes on, and its shapes and places."""
    run = dataclasses.replace(
        run,
        checkpoint=dataclasses.replace(
            run.checkpoint, switch_to=run.optimizer.rule.name
        ),
    )
    mesh = make_mesh(run.mesh, devices)
    with jax.set_mesh(mesh), Checkpoints(folder.checkpoints, keep=1) as saved:
        places = state_sharding(run, build(run), mesh)
        like = placed(abstract_state(run, build(run)), places)
        found = last_state(saved, run, sha256, like, say)
        return found.state, like


def equal(ours, theirs):
    for one, other in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


MESH = {"mesh__data": 2, "mesh__fsdp": 2, "mesh__tensor": 2}


@pytest.mark.parametrize("scan", ["false", "true"])
def test_what_is_carried_is_carried_bit_for_bit(corpus, tmp_path, scan):
    """From one device to eight; the state lives where a new one would."""
    folder = RunFolder(tmp_path)
    sizes = {"model__layers": 2, "model__scan": scan}
    before = saved_by(folder, config(corpus, optimizer__name="adamw", **sizes))
    run = config(corpus, optimizer__name="ademamix", **sizes, **MESH)
    state, like = switched(folder, run, jax.local_devices())
    equal(state.params, before.params)
    assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(
        lambda x: x.sharding, like
    )
    labels = ("single", "stacked") if scan == "true" else (None,)
    for label in labels:
        old, new = (
            s.optimizer
            if label is None
            else s.optimizer.inner_states[label].inner_state
            for s in (before, state)
        )
        fast, slow = new["precondition"].direction.parts
        equal(fast, old["precondition"].direction)
        equal(new["precondition"].by, old["precondition"].by)
        equal(new["rate"], old["rate"])
        assert all(np.all(x == 0) for x in jax.tree.leaves(slow))
        assert np.all(new["precondition"].direction.count == 0)


@pytest.mark.parametrize("name", ["came", "lion", "mars_shampoo", "mars_soap"])
def test_every_kind_of_optimizer_takes_over_from_adamw(corpus, tmp_path, name):
    """With the shapes, dtypes and tree of its own state, scanned or not."""
    for scan in ("false", "true"):
        folder = RunFolder(tmp_path / scan)
        sizes = {"model__layers": 2, "model__scan": scan}
        before = saved_by(folder, config(corpus, optimizer__name="adamw", **sizes))
        state, like = switched(folder, config(corpus, optimizer__name=name, **sizes))
        equal(state.params, before.params)
        assert jax.tree.structure(state) == jax.tree.structure(like)
        for x, expected in zip(*map(jax.tree.leaves, (state, like)), strict=True):
            assert (x.shape, x.dtype) == (expected.shape, expected.dtype)
        rates = [
            leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(state.optimizer)
            if "'rate'" in jax.tree_util.keystr(path)
        ]
        assert all(np.all(rate == STOP) for rate in rates)
        assert rates


def test_to_int8_on_a_mesh(corpus, tmp_path):
    """What is small is not coded, but its counters go along."""
    sizes = {"optimizer__name": "adamw", "model__width": 64, "model__scan": "true"}
    wide = config(corpus, **sizes)
    coded = config(corpus, **sizes, **MESH, optimizer__state="int8")
    before, said = saved_by(RunFolder(tmp_path), wide), []
    state, like = switched(
        RunFolder(tmp_path), coded, jax.local_devices(), say=said.append
    )
    assert jax.tree.structure(state) == jax.tree.structure(like)
    assert "single/precondition/direction (4 arrays, float32 to int8" in said[1]
    assert "stacked/precondition/by (12 arrays, float32 to uint8" in said[1]
    inner = state.optimizer.inner_states["single"].inner_state
    m = before.optimizer.inner_states["single"].inner_state["precondition"].direction
    codes = inner.inner["precondition"].direction.average["wte"]["embedding"]
    theirs = optimx.int8_blockwise().decode(codes, "signed")
    np.testing.assert_allclose(theirs, m.average["wte"]["embedding"], atol=1 / 127)
    assert inner.inner["precondition"].direction.count == STOP
    assert "; stacked/rate (counter)" in said[1]


def test_stale_gradients_begin_and_end_with_exact_mars(corpus, tmp_path):
    exact = config(corpus, optimizer__name="mars_adamw_exact")
    plain = config(corpus, optimizer__name="adamw")
    saved_by(RunFolder(tmp_path / "plain"), plain)
    state, _ = switched(RunFolder(tmp_path / "plain"), exact)
    assert all(np.all(x == 0) for x in jax.tree.leaves(state.stale_grads))
    assert jax.tree.structure(state.stale_grads) == jax.tree.structure(state.params)
    saved_by(RunFolder(tmp_path / "exact"), exact)
    state, _ = switched(RunFolder(tmp_path / "exact"), plain)
    assert state.stale_grads is None


def test_a_switched_run_goes_on_as_if_it_had_not_stopped(run, tmp_path):
    """Killed before its first checkpoint of the new optimizer, and after one."""
    others = [RunFolder(tmp_path / name) for name in ("before", "after")]
    for other in others:
        shutil.copytree(run.path, other.path)
    assert resume_words(run, *TO_ADEMAMIX) == 0
    for other, step in zip(others, (STOP, STOP + 2), strict=True):
        assert resume_words(other, *TO_ADEMAMIX) == 0
        cut(other, step)
        # No word of the optimizer: config.toml has it.
        assert resume_words(other) == 0
        assert numbers(other) == numbers(run)
        same = (state_at(folder, STEPS) for folder in (other, run))
        jax.tree.map(np.testing.assert_array_equal, *same)
        summaries = [json.loads(f.summary.read_text()) for f in (other, run)]
        for summary in summaries:
            summary.pop("seconds")
        assert summaries[0] == summaries[1]
        assert other.config.read_text() == run.config.read_text()


def test_a_run_can_be_switched_twice_and_back(run, capsys):
    assert resume_words(run, *TO_ADEMAMIX) == 0
    cut(run, STOP + 2)
    assert resume_words(run, "--optimizer.name", "adamw") == 0
    switched = json.loads(run.summary.read_text())["switched"]
    assert [(s["step"], s["from"], s["to"]) for s in switched] == [
        (STOP, "adamw", "ademamix"),
        (STOP + 2, "ademamix", "adamw"),
    ]
    state = state_at(run, STEPS).optimizer
    assert int(state["precondition"].direction.count) == STEPS
    assert "dropped: precondition/direction (counter); " in capsys.readouterr().out


def test_another_learning_rate_is_a_switch_that_carries_everything(run):
    other = switch_config(run.config, [("optimizer.learning_rate", "1e-3")])
    # Hyperparameters of the same optimizer stay what they were.
    assert other.optimizer.rule.hyperparameters["b2"] == 0.99
    assert other.optimizer.rule.learning_rate == 1e-3
    before, said = state_at(run, STOP), []
    sha256 = other.data.sha256
    state, _ = switched(run, other, say=said.append, sha256=sha256)
    equal(state, before)
    assert said[0] == "Step 4: from adamw to adamw"
    assert said[2:] == ["  reset: nothing", "  dropped: nothing"]


def test_others_can_be_added_and_everything_is_carried(run):
    """AdamW for all, then MARS for the matrices and AdamW for the rest."""
    settings = {"optimizer.name": "mars_adamw", "optimizer.others.name": "adamw"}
    other = switch_config(run.config, settings.items())
    before, said = state_at(run, STOP).optimizer["precondition"], []
    state, _ = switched(run, other, say=said.append, sha256=other.data.sha256)
    assert said[2:] == ["  reset: matrix/correct (6 arrays)", "  dropped: nothing"]
    found = []
    for masked in state.optimizer.inner_states.values():
        inner = masked.inner_state
        assert int(inner["precondition"].direction.count) == STOP
        assert int(inner["rate"].count) == STOP
        found += jax.tree.leaves(inner["precondition"].direction.average)
    theirs = jax.tree.leaves(before.direction.average)
    ours = {np.asarray(x).tobytes() for x in found}
    assert ours == {np.asarray(x).tobytes() for x in theirs}
    assert len(found) == len(theirs)


def test_a_checkpoint_that_failed_leads_to_the_same_switch(run, capsys):
    """The new optimizer's only checkpoint is damaged: the old one's counts again."""
    assert resume_words(run, *TO_ADEMAMIX) == 0
    whole = numbers(run)
    cut(run, STOP + 1)
    damaged = run.checkpoints / str(STOP + 1)
    next(p for p in damaged.rglob("*") if p.is_file()).write_bytes(b"")
    capsys.readouterr()
    assert resume_words(run) == 0
    assert "Step 4: from adamw to ademamix" in capsys.readouterr().out
    assert numbers(run) == whole


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--train.steps", "9"], "--train.steps: a run goes on with its own settings"),
        (["--optimizer.name", "adamix"], "no such optimizer; did you mean ademamix"),
        (["--optimizer.b3", "0.9"], r"command line: \[optimizer\] adamw has no b3"),
        ([*TO_ADEMAMIX, "--optimizer.alpha", "-1"], "alpha must be a finite number"),
        ([*TO_ADEMAMIX, "--schedule.warmup", "1"], "--schedule.warmup: a run goes on"),
    ],
)
def test_bad_settings_change_nothing(run, capsys, words, error):
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    assert resume_words(run, *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    with pytest.raises(AssertionError, match=error):
        raise AssertionError(line)
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before


def test_no_step_is_left_to_another_optimizer(run, capsys):
    assert resume_words(run) == 0
    before = run.config.read_text()
    assert resume_words(run, *TO_ADEMAMIX) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has taken all of the run's 8 steps; none is left to ademamix" in line
    assert run.config.read_text() == before


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ('name = "adamw"', 'name = "ademamix"', "ademamix"),
        ('name = "adamw"', 'name = "adamw"\nstate = "bfloat16"', "adamw"),
    ],
)
def test_an_optimizer_changed_in_the_file_alone_is_refused(run, old, new, name):
    run.config.write_text(run.config.read_text().replace(old, new))
    offer = f"optimx resume {run.path.absolute()} --optimizer.name {name}"
    with pytest.raises(InputError, match="is of another model or optim.*" + offer):
        resume(run)


def test_a_run_without_checkpoints_begins_with_the_other(run):
    shutil.rmtree(run.checkpoints)
    assert resume_words(run, *TO_ADEMAMIX) == 0
    summary = json.loads(run.summary.read_text())
    assert summary["optimizer"] == "ademamix"
    assert "switched" not in summary
