import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimx
from optimx.transforms.decay import decay_weights

PARAMS = {"block": {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.ones(2)}}


def decayed(weight_decay, mask=None, params=PARAMS):
    decay = decay_weights(weight_decay, mask)
    zeros = jax.tree.map(jnp.zeros_like, params)
    return decay.update(zeros, decay.init(params), params)[0]


def test_adds_the_parameters():
    out = decayed(0.25)
    np.testing.assert_array_equal(out["block"]["kernel"], 0.5)
    np.testing.assert_array_equal(out["block"]["bias"], 0.25)


@pytest.mark.parametrize("mask", [None, {"w": True}], ids=["all", "mask"])
@pytest.mark.parametrize(
    "weight_decay", [0.5, jnp.asarray(0.5)], ids=["number", "array"]
)
def test_sums_are_rounded_to_the_dtype_of_the_updates_once(weight_decay, mask):
    """Half of 1 + 1/64 is no bfloat16 between 128 and 256, but carries the sum up."""
    decay = decay_weights(weight_decay, mask)
    for of_updates, of_params in (("bfloat16", "float32"), ("float32", "bfloat16")):
        params = {"w": jnp.full(2, 1 + 1 / 64, of_params)}
        updates = {"w": jnp.full(2, 128, of_updates)}
        out = decay.update(updates, decay.init(params), params)[0]["w"]
        exact = jnp.full(2, 128 + (1 + 1 / 64) / 2)
        assert out.dtype == of_updates
        np.testing.assert_array_equal(out, exact.astype(of_updates))


@pytest.mark.parametrize(
    "mask",
    [
        {"block": {"kernel": True, "bias": False}},
        lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
        {"block": {"kernel": np.True_, "bias": np.False_}},
    ],
    ids=["tree", "function", "numpy"],
)
def test_a_mask_chooses_the_leaves(mask):
    out = decayed(0.25, mask)
    np.testing.assert_array_equal(out["block"]["kernel"], 0.5)
    np.testing.assert_array_equal(out["block"]["bias"], 0.0)


def test_a_mask_may_be_a_prefix():
    out = decayed(0.25, {"block": False})
    np.testing.assert_array_equal(out["block"]["kernel"], 0.0)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"block": {"kernel": True}}, r"mask does not fit.*'block/bias'"),
        (
            {"block": {"kernel": True, "bias": True, "gate": True}},
            r"mask does not fit.*'block/gate'",
        ),
        (
            {"block": {"kernel": "yes", "bias": True}},
            r"mask must hold booleans, got 'yes' at 'block/kernel'",
        ),
        (
            {"block": {"kernel": 1, "bias": 0}},
            r"mask must hold booleans, got 0 at 'block/bias'",
        ),
        (lambda params: {"other": True}, r"mask does not fit.*'other'"),
    ],
    ids=["lacking", "foreign", "text", "integers", "function"],
)
def test_a_mask_that_does_not_fit_is_named_at_init(mask, message):
    for tx in (decay_weights(0.1, mask), optimx.adamw(0.1, mask=mask)):
        with pytest.raises(ValueError, match=f"weight_decay: {message}"):
            tx.init(PARAMS)


def test_decay_asks_for_the_parameters():
    decay = decay_weights(0.1, None)
    with pytest.raises(ValueError, match=r"weight_decay: .* got params=None"):
        decay.update(PARAMS, decay.init(PARAMS))


def test_no_decay_asks_for_nothing():
    decay = decay_weights(0.0, None)
    state = decay.init(PARAMS)
    assert decay.update(PARAMS, state) == (PARAMS, optax.EmptyState())


def test_an_empty_tree_needs_no_parameters():
    decay = decay_weights(0.1, None)
    assert decay.update({}, decay.init({}), {})[0] == {}
