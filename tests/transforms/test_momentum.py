import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimx
from optimx.transforms.momentum import EmaState
from tests import runs


def outputs(average, gradients):
    state = average.init(jnp.zeros(1))
    out = []
    for gradient in gradients:
        updates, state = average.update(jnp.array([gradient]), state)
        out.append(float(updates[0]))
    return out, state


def test_debiased_by_hand():
    out, state = outputs(optimx.ema(0.5), [2.0, 5.0])
    # m = 1, then 0.5 * 1 + 0.5 * 5 = 3; divided by 1 - 1/2 and 1 - 1/4.
    np.testing.assert_allclose(out, [2.0, 4.0], rtol=1e-6)
    assert isinstance(state, EmaState)
    assert int(state.count) == 2
    np.testing.assert_allclose(state.average, [3.0])


def test_from_zero_by_hand():
    out, _ = outputs(optimx.ema(0.5, debias=False), [2.0, 5.0])
    np.testing.assert_allclose(out, [1.0, 3.0])


def test_a_scheduled_decay_counts_from_1():
    average = optimx.ema(lambda count: 1 - 1 / count, debias=False)
    out, _ = outputs(average, [2.0, 4.0, 9.0])
    np.testing.assert_allclose(out, [2.0, 3.0, 5.0], rtol=1e-6)


def test_debiasing_keeps_its_digits_for_a_long_memory():
    """1 - 0.9999 written as a difference in float32 is off by 1e-4 and more."""
    out, _ = outputs(optimx.ema(0.9999), [3.0])
    np.testing.assert_allclose(out, [3.0], rtol=1e-6)


def test_a_decay_of_zero_keeps_nothing():
    average = optimx.ema(0.0)
    assert average.init(jnp.ones(3)) == optax.EmptyState()
    out, _ = outputs(average, [2.0, 5.0])
    assert out == [2.0, 5.0]


def test_an_array_of_zero_keeps_its_average():
    """What state there is must not depend on a number that is meant to change."""
    average = optimx.ema(jnp.asarray(0.0))
    out, state = outputs(average, [2.0, 5.0])
    assert out == [2.0, 5.0]
    assert isinstance(state, EmaState)


def test_averages_of_bfloat16_are_float32_unless_asked():
    params = jnp.ones(2, jnp.bfloat16)
    assert optimx.ema(0.9).init(params).average.dtype == jnp.float32
    narrow = optimx.ema(0.9, accumulator_dtype=jnp.bfloat16)
    assert narrow.init(params).average.dtype == jnp.bfloat16


@pytest.fixture
def double():
    with runs.double_precision():
        yield


def test_a_wide_average_is_taken_in_its_own_precision(double):
    gradients = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    average = optimx.ema(0.9, debias=False, accumulator_dtype=jnp.float64)
    state, exact = average.init(jnp.zeros(3, jnp.float32)), np.zeros(3)
    for gradient in gradients:
        updates, state = average.update(jnp.asarray(gradient), state)
        exact = 0.9 * exact + (1 - 0.9) * gradient.astype(np.float64)
    assert updates.dtype == jnp.float32
    np.testing.assert_allclose(state.average, exact, rtol=1e-14)


def test_a_narrow_average_is_taken_in_float32():
    gradient = jnp.full(1, 1 + 2.0**-12)
    average = optimx.ema(0.5, debias=False, accumulator_dtype=jnp.bfloat16)
    updates, state = average.update(gradient, average.init(gradient))
    np.testing.assert_array_equal(updates, gradient / 2)
    np.testing.assert_array_equal(state.average.astype(jnp.float32), [0.5])


def test_small_contributions_to_a_large_average_are_kept():
    """A bfloat16 average would not move: 1/256 of 1 is below its last digit."""
    average = optimx.ema(1 - 2.0**-8, debias=False)
    state = average.init(jnp.ones(1, jnp.bfloat16))._replace(average=jnp.ones(1))
    _, state = average.update(jnp.full(1, 2.0, jnp.bfloat16), state)
    np.testing.assert_allclose(state.average, 1 + 2.0**-8)


@pytest.mark.parametrize("value", [1.0, 1.5, -0.1, np.nan, None])
def test_decays_outside_their_range_are_refused(value):
    with pytest.raises(ValueError, match=r"ema: decay must be in \[0, 1\).*, got"):
        optimx.ema(value)


def test_a_scheduled_decay_has_no_bias_correction():
    with pytest.raises(ValueError, match="debias=True needs a constant decay"):
        optimx.ema(lambda count: 0.9)


def test_integer_leaves_are_named():
    with pytest.raises(ValueError, match="ema: parameter 'steps' has dtype int32"):
        optimx.ema(0.9).init({"steps": jnp.asarray(3)})
