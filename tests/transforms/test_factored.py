import jax.numpy as jnp
import numpy as np
import pytest

import optimx
from optimx.transforms.factored import ScaleByFactoredRmsState


def first(gradient, decay=0.75, **arguments):
    factored = optimx.scale_by_factored_rms(decay, **arguments)
    return factored.update(gradient, factored.init(gradient))


def test_shapes_of_the_state():
    params = {"v": jnp.zeros(5), "m": jnp.zeros((6, 4)), "s": jnp.zeros((2, 6, 4))}
    state = optimx.scale_by_factored_rms(0.9).init(params)
    assert isinstance(state, ScaleByFactoredRmsState)
    assert {k: v.shape for k, v in state.row.items()} == {
        "v": (5,),
        "m": (6,),
        "s": (2, 6),
    }
    assert {k: v.shape for k, v in state.column.items()} == {
        "v": (),
        "m": (4,),
        "s": (2, 4),
    }


def test_a_matrix_of_rank_one_by_hand():
    """Squares of rank one are reproduced exactly: only the sign is left, times the
    missing bias correction, 1 / sqrt(1 - 0.75) = 2."""
    gradient = jnp.array([[1.0, -2.0], [-3.0, 6.0]])
    updates, state = first(gradient)
    np.testing.assert_allclose(updates, 2 * np.sign(gradient), rtol=1e-6)
    np.testing.assert_allclose(state.row, [0.625, 5.625], rtol=1e-6)
    np.testing.assert_allclose(state.column, [1.25, 5.0], rtol=1e-6)


def test_vectors_keep_the_full_second_moment():
    updates, state = first(jnp.array([2.0, -4.0]))
    np.testing.assert_allclose(updates, [2.0, -2.0], rtol=1e-6)
    np.testing.assert_allclose(state.row, [1.0, 4.0])
    np.testing.assert_array_equal(state.column, 0.0)


def test_leading_axes_are_batch_axes():
    stack = jnp.stack([jnp.full((2, 3), 1.0), jnp.full((2, 3), 100.0)])
    updates, state = first(stack)
    np.testing.assert_allclose(updates, 2.0, rtol=1e-6)
    np.testing.assert_allclose(state.row[1], 2500.0)


def test_statistics_are_those_of_the_observed_signal():
    factored = optimx.scale_by_factored_rms(0.75)
    state = factored.init(jnp.zeros((2, 2)))
    observed = jnp.full((2, 2), 4.0)
    updates, _ = factored.update(jnp.ones((2, 2)), state, observed=observed)
    np.testing.assert_allclose(updates, 0.5, rtol=1e-6)


def test_epsilon_is_added_to_the_squares():
    updates, _ = first(jnp.full((2, 2), 3.0), decay=0.0, eps=16.0)
    np.testing.assert_allclose(updates, 3 / 5, rtol=1e-6)


def test_bfloat16_has_float32_statistics():
    gradient = jnp.full((2, 3), 1e-18, jnp.bfloat16)
    updates, state = first(gradient)
    assert updates.dtype == jnp.bfloat16
    assert state.row.dtype == state.column.dtype == jnp.float32
    assert bool(jnp.all(jnp.isfinite(updates)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": 1.0}, r"decay must be in \[0, 1\), got 1.0"),
        ({"decay": np.nan}, r"decay must be in \[0, 1\), got nan"),
        ({"decay": 0.9, "eps": 0.0}, "eps must be > 0, got 0.0"),
        ({"decay": 0.9, "eps": -1e-30}, "eps must be > 0, got -1e-30"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"scale_by_factored_rms: {message}"):
        optimx.scale_by_factored_rms(**arguments)


def test_integer_leaves_are_named():
    with pytest.raises(ValueError, match="scale_by_factored_rms: parameter 'table'"):
        optimx.scale_by_factored_rms(0.9).init({"table": jnp.ones((2, 2), int)})
