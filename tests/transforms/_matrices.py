"""What the tests of preconditioners of matrices share."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np


def draw(seed, *shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def at(tree, t):
    return jax.tree.map(lambda x: x[t], tree)


@functools.cache
def compiled(tx):
    """`init` and `update`, compiled once for all tests of a transformation."""

    def update(updates, state, **extra):
        return tx.update(updates, state, **extra)

    return jax.jit(tx.init), jax.jit(update)


def follow(tx, gradients, **extra):
    """Updates and states after each step, in numpy; the initial state comes first.

    `gradients` and the trees in `extra` carry the steps along the first axis.
    """
    gradients, extra = jax.tree.map(np.asarray, (gradients, extra))
    init, update = compiled(tx)
    state = init(at(gradients, 0))
    updates, states = [], [state]
    for t in range(len(jax.tree.leaves(gradients)[0])):
        out, state = update(at(gradients, t), state, **at(extra, t))
        updates.append(out)
        states.append(state)
    return jax.device_get((updates, states))


def _operations(function, *args):
    """The names of all operations in the compiled program of a function."""
    text = jax.jit(function).lower(*args).compile().as_text()
    # "%name = shape{layout} operation(...", the shape maybe a tuple of such.
    return set(re.findall(r"^ .* = .*? ([a-z][a-z0-9-]*)\(", text, re.MULTILINE))


def has_no_branch(tx, tree):
    """Whether the compiled update has loops, as it must, but no branch."""
    found = _operations(tx.update, tree, tx.init(tree))
    # One would be found.
    branch = _operations(
        lambda yes, x: jax.lax.cond(yes, jnp.sin, jnp.cos, x), True, jnp.ones(3)
    )
    assert "conditional" in branch
    return "while" in found and "conditional" not in found


def changed(before, after):
    """Which items of a stack are not what they were."""
    different = np.asarray(before) != np.asarray(after)
    return different.reshape(len(different), -1).any(axis=1)


def same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def bad(kind, shape):
    """A signal with a number that is none, or whose products are none."""
    signal = np.ones(shape, np.float32)
    signal[-1, -1] = {"nan": np.nan, "infinity": -np.inf, "overflow": 1e30}[kind]
    return signal
