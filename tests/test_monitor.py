import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimx
from optimx import monitor
from optimx.linalg import roots

PARAMS = {"block": {"kernel": jnp.ones((2, 3, 3)), "bias": jnp.ones(3)}}


def ones(bad=0):
    """Gradients of ones; so many of the two matrices are no numbers."""
    kernel = np.ones((2, 3, 3), np.float32)
    kernel[:bad, 0, 0] = np.nan
    return {"block": {"kernel": jnp.asarray(kernel), "bias": jnp.ones(3)}}


def refused(matrix, p, *, eps):
    root, residual = roots.inverse_root(matrix, p, eps=eps)
    return root, jnp.full_like(residual, jnp.inf)


def counted(state):
    """The counts by what they count; the paths end in the leaf's."""
    found = {}
    for path, count in monitor.read(state).items():
        assert count.shape == ()
        assert count.dtype == jnp.int32
        assert path.endswith("block/kernel")
        (name,) = (name for name in monitor.MEASURES if f"{name}/" in path)
        found[name] = found.get(name, 0) + int(count)
    return found


def wrapped(tx):
    return optax.chain(
        optax.scale(2.0),
        optimx.matrices_only(
            optimx.stages(first=optimx.ema(0.9), then=tx, rate=optax.scale(-0.1)),
            otherwise=optimx.adamw(0.1),
        ),
    )


@pytest.mark.parametrize(
    ("tx", "expected"),
    [
        (optimx.in_eigenbasis(optimx.scale_by_rms(0.9, eps=1e-8), decay=0.9), {}),
        (optimx.scale_by_kronecker(0.9), {"kept": 0}),
    ],
    ids=["eigenbasis", "kronecker"],
)
def test_skipped_signals_are_found_however_deep(tx, expected):
    tx = wrapped(tx)
    state, update = tx.init(PARAMS), jax.jit(tx.update)
    assert counted(state) == {"skipped": 0} | expected
    # The average holds on to what is no number: once seen, twice more.
    for bad, skipped in ((0, 0), (1, 1), (2, 3), (0, 5)):
        _, state = update(ones(bad), state, PARAMS)
        assert counted(state) == {"skipped": skipped} | expected


def test_kept_roots_are_counted_one_by_one():
    tx = wrapped(optimx.scale_by_kronecker(0.9, update_every=1, root=refused))
    state, update = tx.init(PARAMS), jax.jit(tx.update)
    for t in (1, 2):
        _, state = update(ones(), state, PARAMS)
        # A root of rows and one of columns for either matrix.
        assert counted(state) == {"skipped": 0, "kept": 4 * t}


@pytest.mark.parametrize("build", [optimx.soap, optimx.shampoo])
def test_counts_are_read_where_the_step_is_compiled(build):
    tx = build(0.1)

    @jax.jit
    def step(gradients, state):
        updates, state = tx.update(gradients, state, PARAMS)
        return updates, state, monitor.read(state)

    _, state, inside = step(ones(bad=1), tx.init(PARAMS))
    outside = monitor.read(state)
    assert inside == outside
    assert {path.split("/")[-3]: int(n) for path, n in inside.items()} == (
        {"skipped": 1} if build is optimx.soap else {"skipped": 1, "kept": 0}
    )


def test_every_stage_is_told_apart():
    kronecker = optimx.scale_by_kronecker(0.9)
    tx = optimx.stages(one=kronecker, two=kronecker)
    params = {"up": jnp.ones((2, 3)), "down": jnp.ones((3, 2))}
    found = monitor.read(tx.init(params))
    assert set(found) == {
        f"{stage}/{name}/{leaf}"
        for stage in ("one", "two")
        for name in ("skipped", "kept")
        for leaf in ("up", "down")
    }


@pytest.mark.parametrize("tx", [optax.adam(0.1), optimx.muon(0.1), optax.identity()])
def test_where_nothing_counts_there_is_nothing_to_read(tx):
    assert monitor.read(tx.init(PARAMS)) == {}


def test_a_parameter_of_that_name_is_no_count():
    assert monitor.read(optax.adam(0.1).init({"skipped": jnp.ones((2, 2))})) == {}
