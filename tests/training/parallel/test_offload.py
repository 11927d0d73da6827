"""State in the host's memory: the same numbers, wherever a run goes on."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from optimx.training.checkpoints.checkpoint import Checkpoints
from optimx.training.errors import InputError
from optimx.training.folder import RunFolder
from optimx.training.optimizer import build_optimizer
from optimx.training.parallel.layout import (
    describe,
    placed,
    state_sharding,
)
from optimx.training.parallel.mesh import make_mesh
from optimx.training.parallel.offload import HOST, check_offload, copied
from optimx.training.state import abstract_state, init_state
from optimx.training.train import resume, train
from training.small import config
from training.test_sharded_runs import lines, losses

OLD = jax.__version_info__ < (0, 8)
needs_host_memory = pytest.mark.skipif(
    OLD, reason="JAX 0.7 compiles nothing for the host's memory of a CPU"
)


def test_devices_without_such_memory():
    memory = types.SimpleNamespace(kind="device")
    device = types.SimpleNamespace(
        platform="abacus", addressable_memories=lambda: [memory]
    )
    check_offload("none", [device])
    with pytest.raises(InputError) as caught:
        check_offload("state", [device])
    assert str(caught.value) == (
        'mesh.offload = "state": needs memory of kind pinned_host; abacus devices have '
        'device; mesh.offload = "none" is all that they allow'
    )


@pytest.mark.skipif(not OLD, reason="JAX compiles for the host's memory of a CPU")
def test_a_compiler_that_does_not_know_it(corpus, tmp_path):
    with pytest.raises(InputError, match=r"cpu devices of jax .* compile nothing"):
        train(config(corpus, mesh__offload="state"), RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_words_that_move_nothing(corpus):
    with pytest.raises(InputError, match=r"offload = 'disk': must be one of none, sta"):
        config(corpus, mesh__offload="disk")


def start(run, devices):
    mesh = make_mesh(run.mesh, jax.local_devices()[:devices])
    tx = build_optimizer(run.optimizer, run.schedule, run.train.steps)
    with jax.set_mesh(mesh):
        shardings = state_sharding(run, tx, mesh)
        shapes = placed(abstract_state(run, tx), shardings)
        return init_state(run, tx, shardings), shapes, describe(run, tx, shapes, mesh)


def resting(tree):
    return {leaf.ndim for leaf in jax.tree.leaves(tree) if is_on_host(leaf)}


def is_on_host(leaf):
    return leaf.sharding.memory_kind == HOST


@needs_host_memory
def test_matrices_rest_and_come_back_to_rest(corpus, tmp_path):
    run = config(corpus, optimizer__name="mars_adamw_exact", mesh__offload="state")
    state, shapes, (line,) = start(run, 1)
    rests = state.optimizer, state.stale_grads
    assert resting(rests) == {2}
    assert resting(state.params) == set()
    assert all(is_on_host(x) == (x.ndim > 1) for x in jax.tree.leaves(rests))
    size = sum(x.nbytes for x in jax.tree.leaves(rests) if x.ndim > 1)
    assert line == f"{size / 1e6:,.1f} MB of optimizer state rest in the host's memory"
    with Checkpoints(tmp_path, 1) as saved:
        saved.save(0, state)
    with Checkpoints(tmp_path) as saved:
        found = saved.restore(0, shapes)
    kinds = jax.tree.map(lambda a, b: a.sharding == b.sharding, found, state)
    assert all(jax.tree.leaves(kinds))
    jax.tree.map(np.testing.assert_array_equal, found, state)


@functools.cache
def found_losses(corpus, offload, **axes):
    return losses(
        config(
            corpus,
            optimizer__name="mars_adamw_exact",
            train__batch_size=8,
            mesh__offload=offload,
            **{"mesh__data": 1} | axes,
        )
    )


@needs_host_memory
def test_losses_are_those_without(corpus):
    assert found_losses(corpus, "state") == found_losses(corpus, "none")


@needs_host_memory
def test_losses_on_a_mesh(corpus):
    axes = {"mesh__data": 2, "mesh__fsdp": 2, "mesh__tensor": 2}
    found = found_losses(corpus, "state", **axes)
    np.testing.assert_allclose(found, found_losses(corpus, "none"), rtol=1e-5)


@needs_host_memory
def test_a_run_goes_on_with_and_without(corpus, tmp_path):
    """Stopped at its checkpoint of step 4: with and then without, and the reverse."""
    more = {"checkpoint__every": 4}
    runs = {}
    for first, second in (("none", "state"), ("state", "none")):
        folder = RunFolder(tmp_path / f"{first}_{second}")
        train(config(corpus, mesh__offload=first, **more), folder)
        whole = lines(folder.path)
        (folder.checkpoints / "manifests" / "8.json").unlink()
        text = folder.config.read_text()
        assert f'offload = "{first}"' in text
        folder.config.write_text(
            text.replace(f'offload = "{first}"', f'offload = "{second}"')
        )
        resume(folder)
        assert lines(folder.path) == whole
        runs[first] = whole
    assert runs["none"] == runs["state"]


@needs_host_memory
def test_a_copy_is_apart():
    where = SingleDeviceSharding(jax.devices()[0], memory_kind=HOST)
    ours = jax.device_put(jnp.arange(8.0), where)
    theirs = copied({"x": ours})["x"]
    assert theirs.sharding == ours.sharding
    assert theirs.unsafe_buffer_pointer() != ours.unsafe_buffer_pointer()
    np.testing.assert_array_equal(theirs, ours)
    beside = jnp.arange(8.0)
    assert copied(beside) is beside
