import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimx
from optimx.training.checkpoint import Checkpoints
from optimx.training.errors import InputError
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
    with Checkpoints(tmp_path / "new") as saved:
        assert saved.latest() is None
        saved.save(3, state, 1.5)
    with Checkpoints(tmp_path / "new") as saved:
        restored, seconds = saved.restore(saved.latest(), like)
        params = saved.restore_params(like.params)
    assert seconds == 1.5
    equal(restored, state)
    equal(params, state.params)


def test_the_latest_are_kept(corpus, tmp_path):
    state, _ = filled(config(corpus))
    with Checkpoints(tmp_path, keep=2) as saved:
        for step in (1, 2, 5):
            saved.save(step, state, 0.0)
        assert saved.latest() == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "5"]


def test_without_a_checkpoint_there_are_no_parameters(corpus, tmp_path):
    _, like = filled(config(corpus))
    with (
        Checkpoints(tmp_path) as saved,
        pytest.raises(InputError, match="holds no checkpoint"),
    ):
        saved.restore_params(like.params)
