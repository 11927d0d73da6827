import jax
import numpy as np

from optimx.training.optimizer import build_optimizer
from optimx.training.state import abstract_state, init_state, state_bytes
from training.small import config


def state_of(chosen, make=init_state):
    tx = build_optimizer(chosen.optimizer, chosen.schedule, chosen.train.steps)
    return make(chosen, tx)


def test_only_exact_mars_keeps_stale_gradients(corpus):
    assert state_of(config(corpus)).stale_grads is None
    exact = state_of(config(corpus, optimizer__name="mars_adamw_exact"))
    assert jax.tree.structure(exact.stale_grads) == jax.tree.structure(exact.params)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(exact.stale_grads))


def test_others_that_need_stale_gradients_get_them(corpus):
    chosen = config(
        corpus, optimizer__name="adamw", optimizer__others__name="mars_adamw_exact"
    )
    assert state_of(chosen).stale_grads is not None


def test_shapes_are_those_of_the_state(corpus):
    def shape(leaf):
        return leaf.shape, leaf.dtype

    chosen = config(corpus, optimizer__name="came")
    real, abstract = state_of(chosen), state_of(chosen, abstract_state)
    assert jax.tree.map(shape, real) == jax.tree.map(shape, abstract)


def test_state_is_counted_as_it_is_kept(corpus):
    def bytes_each(**given):
        chosen = config(corpus, optimizer__name="adamw", **given)
        tx = build_optimizer(chosen.optimizer, chosen.schedule, chosen.train.steps)
        params = jax.tree.leaves(abstract_state(chosen, tx).params)
        return state_bytes(chosen, tx) / sum(leaf.size for leaf in params)

    assert 8 <= bytes_each() < 8.05
    assert bytes_each(optimizer__state="int8") < bytes_each()
