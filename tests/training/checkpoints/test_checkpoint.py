import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimx
from optimx.training.checkpoints.checkpoint import Checkpoints
from optimx.training.errors import InputError, StorageError
from optimx.training.optimizer import build_optimizer
from optimx.training.state import abstract_state, init_state
from training.small import config


def filled(chosen):
    """A state in which every number is another."""
    tx = build_optimizer(chosen.optimizer, chosen.schedule, chosen.train.steps)
    leaves, tree = jax.tree.flatten(init_state(chosen, tx))
    drawn = np.random.default_rng(0)
    leaves = [
        jnp.asarray(drawn.integers(1, 1000, leaf.shape)).astype(leaf.dtype) / 1
        if jnp.issubdtype(leaf.dtype, jnp.floating)
        else jnp.asarray(drawn.integers(1, 1000, leaf.shape), leaf.dtype)
        for leaf in leaves
    ]
    return tree.unflatten(leaves), abstract_state(chosen, tx)


def equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert (a.dtype, a.weak_type, a.sharding) == (b.dtype, b.weak_type, b.sharding)
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", [*optimx.registry.names(), "with others"])
def test_a_state_survives(corpus, tmp_path, name):
    if name == "with others":
        chosen = config(corpus, optimizer__name="came", optimizer__others__name="adamw")
    else:
        chosen = config(corpus, optimizer__name=name)
    state, like = filled(chosen)
    with Checkpoints(tmp_path / "new", keep=1) as saved:
        assert saved.latest() is None
        saved.save(3, state, {"seconds": 1.5})
    with Checkpoints(tmp_path / "new") as saved:
        assert saved.about(3)["seconds"] == 1.5
        restored = saved.restore(saved.latest(), like)
        params = saved.restore_params(like.params)
    equal(restored, state)
    equal(params, state.params)


def test_the_latest_are_kept(corpus, tmp_path):
    state, _ = filled(config(corpus))
    with Checkpoints(tmp_path, keep=2) as saved:
        for step in (1, 2, 5):
            saved.save(step, state)
        assert saved.latest() == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "5", "manifests"]
    manifests = sorted(p.name for p in (tmp_path / "manifests").iterdir())
    assert manifests == ["2.json", "5.json"]


def test_without_a_checkpoint_there_are_no_parameters(corpus, tmp_path):
    _, like = filled(config(corpus))
    with (
        Checkpoints(tmp_path) as saved,
        pytest.raises(InputError, match="holds no checkpoint"),
    ):
        saved.restore_params(like.params)
    with pytest.raises(InputError, match="absent: holds no checkpoint"):
        Checkpoints(tmp_path / "absent")


@pytest.fixture
def three(corpus, tmp_path):
    """Checkpoints of steps 2, 4 and 6, each of a state of that step."""
    state, like = filled(config(corpus))
    with Checkpoints(tmp_path, keep=3) as saved:
        for step in (2, 4, 6):
            saved.save(step, dataclasses.replace(state, step=jnp.int32(step)))
    return tmp_path, like


def flip(file):
    """One bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def files_of(folder):
    return sorted(file for file in folder.rglob("*") if file.is_file())


def test_a_flipped_bit_in_any_file_of_a_checkpoint_is_found(three):
    folder, _ = three
    files = [file for file in files_of(folder / "6") if file.stat().st_size]
    assert len(files) > 10
    for file in files:
        sound, said = file.read_bytes(), []
        flip(file)
        with Checkpoints(folder) as saved:
            assert saved.choose(said.append) == 4
        assert said == [
            "The checkpoint of step 6 is damaged, it is not used: "
            f"{file}: has another SHA-256 than when it was saved"
        ]
        file.write_bytes(sound)
    with Checkpoints(folder) as saved:
        assert saved.choose(said.append) == 6


def test_from_an_older_checkpoint_the_later_ones_are_written_again(three):
    folder, like = three
    flip(folder / "6" / "_CHECKPOINT_METADATA")
    (folder / "4" / "_CHECKPOINT_METADATA").unlink()
    said = []
    with Checkpoints(folder, keep=2) as saved:
        step = saved.choose(said.append)
        state = saved.restore(step, like)
        assert (step, int(state.step), len(said)) == (2, 2, 2)
        saved.save(4, state)
        saved.save(6, state)
    with Checkpoints(folder) as saved:
        assert saved.choose(said.append) == 6
        assert int(saved.restore(6, like).step) == 2
    names = sorted(file.name for file in folder.iterdir())
    assert names == ["4", "6", "manifests"]
    assert len(said) == 2


def wait_until(holds):
    """Fails after ten seconds."""
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_reading_removes_nothing(three):
    folder, like = three
    flip(folder / "6" / "_CHECKPOINT_METADATA")
    unfinished = folder / "8.orbax-checkpoint-tmp"
    unfinished.mkdir()
    before = sorted(folder.rglob("*"))
    with Checkpoints(folder) as saved:
        saved.restore_params(like.params)
        saved.restore(saved.choose(lambda line: None), like)
    assert sorted(folder.rglob("*")) == before
    with Checkpoints(folder, keep=3):
        # Orbax cleans up in the background.
        wait_until(lambda: not unfinished.exists())


def test_a_step_without_a_manifest_counts_only_if_there_is_no_other(three):
    folder, _ = three
    said = []
    (folder / "manifests" / "6.json").unlink()
    with Checkpoints(folder) as saved:
        assert saved.choose(said.append) == 4
        assert said == []
        (folder / "manifests" / "4.json").unlink()
        flip(folder / "2" / "_CHECKPOINT_METADATA")
        assert saved.choose(said.append) == 6
    assert len(said) == 2
    assert "checkpoint of step 2 is damaged" in said[0]
    assert said[1] == "The checkpoint of step 6 has no manifest to verify it with"


def test_when_every_checkpoint_is_damaged_nothing_is_touched(three):
    folder, _ = three
    for step in (2, 4, 6):
        flip(folder / str(step) / "_CHECKPOINT_METADATA")
    before = sorted(folder.rglob("*"))
    with (
        Checkpoints(folder, keep=1) as saved,
        pytest.raises(InputError, match=r"every checkpoint is damaged: .*/6/_CHECK"),
    ):
        saved.choose(lambda line: None)
    assert sorted(folder.rglob("*")) == before


def test_a_checkpoint_of_another_model_is_refused(corpus, three):
    folder, _ = three
    _, other = filled(config(corpus, model__width=32, optimizer__name="came"))
    before = sorted(folder.rglob("*"))
    with Checkpoints(folder, keep=1) as saved:
        with pytest.raises(InputError) as error:
            saved.restore(4, other)
        with pytest.raises(InputError, match=r"6: .* 16 of 16 leaves differ"):
            saved.restore_params(other.params)
    line = str(error.value)
    assert line.startswith(f"{folder / '4'}: the checkpoint is of another model or op")
    shown = "params/h_0/attention/out/bias: expected float32[32], found float32[16]"
    assert shown in line
    assert line.count("expected") == 3
    assert sorted(folder.rglob("*")) == before


def test_leaves_go_where_they_are_wanted(corpus, tmp_path):
    """From one way of cutting parameters to another, bit for bit."""
    state, like = filled(config(corpus))
    devices = np.array(jax.local_devices())
    eight = jax.sharding.Mesh(devices.reshape(4, 2), ("a", "b"))
    three = jax.sharding.Mesh(devices[:3][::-1], ("c",))

    def cut(leaf, mesh, size, name):
        divides = leaf.ndim and leaf.shape[0] % size == 0
        spec = jax.sharding.PartitionSpec(*[name] if divides else [])
        return jax.sharding.NamedSharding(mesh, spec)

    def place(leaf):
        return jax.device_put(leaf, cut(leaf, eight, 4, "a"))

    def want(leaf):
        sharding = cut(leaf, three, 3, "c")
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    placed, wanted = jax.tree.map(place, state), jax.tree.map(want, like)
    with Checkpoints(tmp_path, keep=1) as saved:
        saved.save(1, placed)
    with Checkpoints(tmp_path) as saved:
        found = saved.restore(1, wanted)
        equal(saved.restore(1, like), state)
    trees = map(jax.tree.leaves, (found, wanted, state))
    for leaf, shape, original in zip(*trees, strict=True):
        assert leaf.sharding == shape.sharding
        np.testing.assert_array_equal(leaf, original)
    for tree in (placed, found):
        cut_up = [not x.sharding.is_fully_replicated for x in jax.tree.leaves(tree)]
        assert any(cut_up)


def test_what_the_background_cannot_write_is_said_at_the_next_save(
    corpus, tmp_path, monkeypatch
):
    state, _ = filled(config(corpus))

    def fail(self, step):
        raise OSError(28, "No space left on device")

    with Checkpoints(tmp_path, keep=1) as saved:
        saved.save(1, state)
    monkeypatch.setattr("optimx.training.checkpoints.manifest.Manifests.write", fail)

    def save():
        with Checkpoints(tmp_path, keep=1) as saved:
            saved.save(2, state)
            saved.save(3, state)

    with pytest.raises(StorageError, match=r"cannot be written: .*No space left"):
        save()
    with Checkpoints(tmp_path) as saved:
        assert saved.choose(lambda line: None) == 1
