"""What the contract runs on: every registered optimizer, and trees of few numbers."""

import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimx import registry

every = pytest.mark.parametrize("name", registry.names())

SHAPES = {
    "block": {"bias": (3,), "kernel": (4, 3)},
    "stack": (2, 4, 3),
}

# XLA fuses what it compiles as one: products are contracted into sums and sums are
# taken in another order. Each of the about ten roundings of an update is 6e-8.
SINGLE = {"rtol": 1e-5, "atol": 1e-7}


# An inverse fourth root with a ridge of 1e-6 magnifies rounding 32 times on each side,
# and a basis carries it over the gaps between eigenvalues, here of a tenth and more.
OF_MATRICES = {"rtol": 1e-3, "atol": 1e-4}

STACKED = re.compile(
    r"\.(left|right|left_root|right_root|left_basis|right_basis|inner|turn|skipped|kept)"
    r"(?!\w)"
)


def in_stacks(where):
    """Whether a part of a state is kept in stacks, by the field in its path."""
    return STACKED.search(where) is not None


def single(name):
    """How closely two float32 programs of one optimizer agree."""
    return OF_MATRICES if turns(name) else SINGLE


def turns(name):
    """Whether the optimizer refreshes roots or bases every so many steps."""
    return "update_every" in registry.hyperparameters(name)


def of_matrices(name):
    """Whether the optimizer has another rule for what is not a matrix."""
    return "otherwise" in registry.hyperparameters(name)


def rule(name, state):
    """The state of the optimizer's own stages."""
    return state.inner_states["matrix"].inner_state if of_matrices(name) else state


def is_shape(x):
    return isinstance(x, tuple)


def draw(seed, shapes=SHAPES, dtype=jnp.float32):
    """A tree of normal numbers."""
    rng = np.random.default_rng(seed)

    def numbers(shape):
        x = rng.normal(size=shape)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            x = x + 1j * rng.normal(size=shape)
        return jnp.asarray(x, dtype)

    return jax.tree.map(numbers, shapes, is_leaf=is_shape)


def build(name, **hyperparameters):
    """An optimizer with weight decay, so that updates depend on the parameters."""
    settings = {"learning_rate": 0.1, "weight_decay": 0.1} | hyperparameters
    if turns(name):
        # Otherwise most matrices would wait for their first basis.
        settings = {"update_every": 1} | settings
    return registry.build(name, **settings)


def numbers(name):
    """The hyperparameters that are numbers, with values inside every range."""
    defaults = registry.hyperparameters(name) | {"weight_decay": 0.1}
    return {"learning_rate": 0.1} | {
        key: value for key, value in defaults.items() if isinstance(value, float)
    }


def injected(name):
    """The factory with its numbers in the state; what shapes the program is not."""
    fixed = set(registry.hyperparameters(name)) - set(numbers(name))
    factory = optax.inject_hyperparams(registry.get(name).factory, static_args=fixed)
    return functools.partial(factory, update_every=1) if turns(name) else factory


def scheduled(name, wrap):
    """Every hyperparameter that may be a schedule, as ``wrap(key, value)``."""
    return {
        key: wrap(key, value)
        for key, value in numbers(name).items()
        if key in ("learning_rate", "b3", "alpha", "gamma")
        # CAME's b3 is the decay of the confidence, a constant.
        and not (key == "b3" and name in ("came", "mars_came"))
    }


def extra(name, grads):
    """The further arguments that an update needs, made from the gradients."""
    return {
        key: jax.tree.map(lambda g: g / 2, grads) for key in registry.get(name).needs
    }


def stepping(tx):
    """A training step: parameters and state in, parameters and state out."""
    tx = optax.with_extra_args_support(tx)

    def step(params, state, grads, extra):
        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    return step


traces = collections.Counter()


@functools.cache
def plain(name):
    """The optimizer as :func:`build` makes it, and its step, compiled once for all."""
    tx = build(name)
    step = stepping(tx)

    @jax.jit
    def counted(*arguments):
        traces[name] += 1
        return step(*arguments)

    return tx, counted


def one_update(name, tx, params, grads):
    """The first state, the updates and the second state, op by op.

    Nothing is compiled for one optimizer alone: ops of one shape are shared.
    An optimizer whose first step prepares the second is seen at the second.
    """
    tx = optax.with_extra_args_support(tx)
    state = warmed(name, tx, params, grads)
    return state, *tx.update(grads, state, params, **extra(name, grads))


def prepare(grads):
    """Gradients that span other directions: in those of none, rounding is divided by
    its own size."""
    return jax.tree.map(jnp.flip, grads)


def warmed(name, tx, params, grads):
    """The state before the first update that moves matrices."""
    state = tx.init(params)
    if turns(name):
        before = prepare(grads)
        _, state = tx.update(before, state, params, **extra(name, before))
    return state


def run(name, step, params, state, seeds):
    """Steps over gradients drawn from seeds, on the parameters' own shapes."""
    for seed in seeds:
        grads = like(params, seed)
        params, state = step(params, state, grads, extra(name, grads))
    return params, state


def like(params, seed):
    """Normal numbers with the shapes and dtypes of a tree."""
    leaves, structure = jax.tree.flatten(params)
    new = [draw((seed, i), x.shape, x.dtype) for i, x in enumerate(leaves)]
    return structure.unflatten(new)


def avals(tree):
    """Shape, dtype and weak type of every leaf, of arrays or of abstract values."""

    def aval(x):
        x = jax.typeof(x) if isinstance(x, jax.Array) else x
        return x.shape, str(x.dtype), bool(x.weak_type)

    return jax.tree.map(aval, tree)


def assert_same(ours, theirs, **tolerance):
    """The same tree, shapes and dtypes, and values to within a tolerance."""
    paths, structure = jax.tree_util.tree_flatten_with_path(ours)
    others, expected = jax.tree.flatten(theirs)
    assert structure == expected
    for (path, x), y in zip(paths, others, strict=True):
        where = jax.tree_util.keystr(path)
        assert x.dtype == y.dtype, where
        assert x.shape == y.shape, where
        x, y = (np.asarray(v, _comparable(v.dtype)) for v in (x, y))
        if tolerance:
            np.testing.assert_allclose(x, y, err_msg=where, **tolerance)
        else:
            np.testing.assert_array_equal(x, y, err_msg=where)


def _comparable(dtype):
    return np.complex128 if jnp.issubdtype(dtype, jnp.complexfloating) else np.float64


def assert_finite(tree):
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        assert bool(jnp.all(jnp.isfinite(x))), jax.tree_util.keystr(path)


def assert_moves(before, after):
    """Every leaf that holds numbers changed: an equality of nothing proves nothing."""
    paths = jax.tree_util.tree_leaves_with_path(before)
    for (path, x), y in zip(paths, jax.tree.leaves(after), strict=True):
        if x.size:
            assert bool(jnp.any(x != y)), jax.tree_util.keystr(path)
