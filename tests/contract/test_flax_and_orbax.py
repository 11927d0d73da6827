"""Every optimizer in Flax's train states and in Orbax's checkpoints."""

import flax
import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint
import pytest
from flax import nnx
from flax.training.train_state import TrainState

from optimx import registry
from tests.contract import _trees
from tests.contract._trees import every


class Perceptron(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(3, 4, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.hidden(x)))


def loss(model):
    return jnp.mean((model(jnp.ones((5, 3))) - 1.0) ** 2)


def holds_masks(tx):
    state = tx.init({"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)})

    def masked(x):
        return isinstance(x, optax.MaskedNode)

    return any(masked(x) for x in jax.tree.leaves(state, is_leaf=masked))


OLD_FLAX = tuple(map(int, flax.__version__.split(".")[:2])) < (0, 12)


@every
def test_nnx_optimizer(name):
    """Flax's own loop and Optax's, over the same module, land on the same numbers."""
    tx = _trees.build(name)
    model = Perceptron(nnx.Rngs(0))
    if OLD_FLAX and holds_masks(tx):
        own = optax.masked(
            optax.ema(0.9), lambda p: jax.tree.map(lambda x: x.ndim > 1, p)
        )
        with pytest.raises(TypeError):
            nnx.Optimizer(model, own, wrt=nnx.Param)
        pytest.skip("nnx.Optimizer of Flax 0.11 takes no masked state, Optax's neither")
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    graph, params = nnx.split(model)
    params, state = jax.tree.map(jnp.copy, (params, tx.init(params)))

    for _ in range(2):
        grads = nnx.grad(loss)(model)
        optimizer.update(model, grads, **_trees.extra(name, grads))
        grads = jax.grad(lambda params: loss(nnx.merge(graph, params)))(params)
        extra = _trees.extra(name, grads)
        updates, state = tx.update(grads, state, params, **extra)
        params = optax.apply_updates(params, updates)
    ours = jax.tree.leaves(nnx.state(model, nnx.Param))
    _trees.assert_same(ours, jax.tree.leaves(params), **_trees.single(name))


@every
def test_train_state(name):
    tx, step = _trees.plain(name)
    params, grads = _trees.draw(0), _trees.draw(1)
    extra = _trees.extra(name, grads)
    state = TrainState.create(apply_fn=None, params=params, tx=tx)
    if registry.get(name).needs:
        # `apply_gradients` hands on no extra arguments: its body, with them.
        updates, opt_state = state.tx.update(grads, state.opt_state, params, **extra)
        moved = optax.apply_updates(params, updates)
        state = state.replace(params=moved, opt_state=opt_state)
    else:
        state = state.apply_gradients(grads=grads)
    expected = step(params, tx.init(params), grads, extra)
    _trees.assert_same((state.params, state.opt_state), expected, **_trees.single(name))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The states of all optimizers after two updates, saved and restored at once."""
    saved, blank = {}, {}
    for name in registry.names():
        tx, step = _trees.plain(name)
        params = _trees.draw(0)
        saved[name] = _trees.run(name, step, params, tx.init(params), (1, 2))
        blank[name] = jax.eval_shape(lambda p, tx=tx: (p, tx.init(p)), params)
    path = tmp_path_factory.mktemp("checkpoint") / "states"
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, saved)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(path, blank)
    return saved, restored


@every
def test_orbax_round_trip(name, checkpoint):
    saved, restored = (states[name] for states in checkpoint)
    _trees.assert_same(restored, saved)
    _, step = _trees.plain(name)
    _trees.assert_same(
        _trees.run(name, step, *restored, (3,)), _trees.run(name, step, *saved, (3,))
    )
