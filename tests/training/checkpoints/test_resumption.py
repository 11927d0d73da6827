"""Every optimizer goes on from a checkpoint as if it had never stopped."""

import json
import shutil
import tomllib

import jax
import numpy as np
import pytest
import tomli_w

import optimx
from optimx.training import run as runs
from optimx.training.checkpoints.checkpoint import Checkpoints
from optimx.training.config import load_config
from optimx.training.errors import InputError
from optimx.training.folder import RunFolder
from optimx.training.optimizer import build_optimizer
from optimx.training.state import abstract_state
from optimx.training.train import resume, train
from training.small import config

STEPS, STOP = 6, 4


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """Only numbers are compared here."""
    monkeypatch.setattr(runs, "sample", lambda *args, **kwargs: "")
    monkeypatch.setattr(runs, "plot_losses", lambda *args: None)


def chosen_for(corpus, name, **more):
    more |= {"optimizer__name": name, "train__steps": STEPS}
    if "update_every" in optimx.registry.hyperparameters(name):
        # Stopped between two refreshes, and refreshed once more after.
        more["optimizer__update_every"] = 3
    return config(
        corpus,
        train__accumulation=2,
        train__batch_size=2,
        checkpoint__every=1,
        checkpoint__keep=STEPS,
        **more,
    )


def lines(folder):
    found = list(folder.read_metrics())
    for line in found:
        line.pop("tokens_per_second", None)
    return found


def last_state(folder):
    config = load_config(folder.config)
    tx = build_optimizer(config.optimizer, config.schedule, config.train.steps)
    with Checkpoints(folder.checkpoints) as saved:
        return saved.restore(config.train.steps, abstract_state(config, tx))


def cut(folder, step):
    """The folder of a run that was killed right after that checkpoint."""
    folder.summary.unlink()
    for later in range(step + 1, STEPS + 1):
        shutil.rmtree(folder.checkpoints / str(later))
        (folder.checkpoints / "manifests" / f"{later}.json").unlink()


@pytest.mark.parametrize(
    ("name", "state"),
    [
        *((name, "float32") for name in optimx.registry.names()),
        *(("ademamix", state) for state in ("int8", "float8", "bfloat16")),
    ],
)
def test_a_run_goes_on_as_if_it_had_not_stopped(corpus, tmp_path, name, state):
    whole, parted = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parted")
    train(chosen_for(corpus, name, optimizer__state=state), whole)
    shutil.copytree(whole.path, parted.path)
    cut(parted, STOP)
    resume(parted)
    assert lines(parted) == lines(whole)
    assert len(lines(parted)) == STEPS + 2
    ends = last_state(parted), last_state(whole)
    jax.tree.map(np.testing.assert_array_equal, *ends)
    # Of a coded state the embedding is: it alone has numbers enough.
    codes = {str(x.dtype) for x in jax.tree.leaves(ends[0].optimizer)}
    forms = {"int8": "uint8", "float8": "float8_e4m3fn", "float32": "float32"}
    assert forms.get(state, state) in codes


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("finished") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "sample", lambda *args, **kwargs: "")
        train(chosen_for(corpus, "adamw"), folder)
    return folder


@pytest.fixture
def stopped(finished, tmp_path):
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(finished.path, folder.path)
    cut(folder, STOP)
    return folder


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    stopped, finished, capsys
):
    folder = stopped.checkpoints / str(STOP) / "about"
    damaged = min(path for path in folder.rglob("*") if path.is_file())
    damaged.write_bytes(damaged.read_bytes()[:-1])
    resume(stopped)
    shown = capsys.readouterr().out
    assert f"The checkpoint of step {STOP} is damaged, it is not used: {damaged}" in (
        shown
    )
    assert lines(stopped) == lines(finished)


def rewrite(folder, old, new):
    text = folder.config.read_text()
    assert old in text
    folder.config.write_text(text.replace(old, new))


def test_the_checkpoint_of_another_optimizer_is_refused(stopped):
    table = tomllib.loads(stopped.config.read_text())
    table["optimizer"] = {"name": "lion"}
    stopped.config.write_text(tomli_w.dumps(table))
    before = sorted(stopped.path.rglob("*"))
    with pytest.raises(InputError) as error:
        resume(stopped)
    line = str(error.value)
    assert f"checkpoints/{STOP}: the checkpoint is of another model or optim" in line
    assert line.count("expected") == 3
    assert "\n" not in line
    assert sorted(stopped.path.rglob("*")) == before


def test_the_checkpoint_of_another_model_is_refused(stopped):
    rewrite(stopped, "width = 16", "width = 32")
    before = stopped.metrics.read_text()
    with pytest.raises(InputError, match="leaves differ: params/h_0/attention/out/b"):
        resume(stopped)
    assert stopped.metrics.read_text() == before


def test_the_checkpoint_of_other_data_is_refused(stopped, corpus, tmp_path):
    other = shutil.copytree(corpus, tmp_path / "other")
    (other / "file_0.txt").write_text("def x ( y ) : return z " * 100)
    text = stopped.config.read_text()
    sha = load_config(stopped.config).data.sha256
    text = text.replace(sha, "").replace(str(corpus), str(other))
    stopped.config.write_text(text)
    with pytest.raises(InputError, match="the checkpoint learned from other data"):
        resume(stopped)


def test_other_numbers_are_allowed_and_said(stopped, capsys):
    rate = load_config(stopped.config).optimizer.rule.learning_rate
    rewrite(stopped, f"learning_rate = {rate}", "learning_rate = 1e-4")
    resume(stopped)
    assert "Not as an uninterrupted run would go on" in capsys.readouterr().out
    assert json.loads(stopped.summary.read_text())["steps"] == STEPS
    assert lines(stopped)[-2]["learning_rate"] < 1e-4
