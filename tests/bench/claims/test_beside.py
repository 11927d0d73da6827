"""Updates compared on the same gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimx.bench.claims.beside import beside

PARAMS = {"a": jnp.ones(3), "b": jnp.ones((2, 2))}


def grads(seed):
    generator = np.random.default_rng(seed)
    return jax.tree.map(
        lambda p: jnp.asarray(generator.normal(size=p.shape), p.dtype), PARAMS
    )


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_it_moves_as_the_optimizer_alone_and_measures():
    tx, other = optax.adamw(0.1, weight_decay=0.5), optax.sgd(2.0, momentum=0.9)
    both = beside(tx, {"sgd": other})
    state, alone, there = both.init(PARAMS), tx.init(PARAMS), other.init(PARAMS)
    last = np.zeros(7)
    for seed in range(3):
        moved, state = both.update(grads(seed), state, PARAMS)
        expected, alone = tx.update(grads(seed), alone, PARAMS)
        beside_it, there = other.update(grads(seed), there, PARAMS)
        u, o = flat(expected), flat(beside_it)
        np.testing.assert_array_equal(flat(moved), u)
        found = {key: float(value) for key, value in state.measures.items()}
        norms = np.linalg.norm(u), np.linalg.norm(o), np.linalg.norm(last)
        leaves = [np.sqrt(np.mean(np.square(x))) for x in jax.tree.leaves(expected)]
        turned = 1 - u @ last / (norms[0] * norms[2]) if seed else 0.0
        assert found == {
            "rms": pytest.approx(norms[0] / 7**0.5, rel=1e-5),
            "largest": pytest.approx(max(leaves), rel=1e-5),
            "turn": pytest.approx(turned, abs=1e-5),
            "sgd/rms": pytest.approx(norms[0] / norms[1], rel=1e-5),
            "sgd/turn": pytest.approx(1 - u @ o / (norms[0] * norms[1]), abs=1e-5),
        }
        last = u


def test_nothing_over_nothing():
    both = beside(optax.sgd(0.0), {"sgd": optax.sgd(0.0)})
    _, state = both.update(grads(0), both.init(PARAMS), PARAMS)
    assert all(float(value) == 0 for value in state.measures.values())
