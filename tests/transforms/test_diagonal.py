import jax.numpy as jnp
import numpy as np
import pytest

import optimx
from optimx.transforms.diagonal import ScaleByRmsState
from tests import runs


def test_first_update_is_the_sign():
    rms = optimx.scale_by_rms(0.99, eps=0.0)
    gradient = jnp.array([3.0, -0.1])
    updates, state = rms.update(gradient, rms.init(gradient))
    np.testing.assert_allclose(updates, [1.0, -1.0], rtol=1e-6)
    assert isinstance(state, ScaleByRmsState)
    assert int(state.count) == 1
    np.testing.assert_allclose(state.second_moment, [0.09, 1e-4], rtol=1e-5)


def test_two_updates_by_hand():
    rms = optimx.scale_by_rms(0.5, eps=1.0)
    state = rms.init(jnp.zeros(1))
    _, state = rms.update(jnp.array([2.0]), state)
    # v = 0.5 * 2 + 0.5 * 16 = 9, debiased 9 / 0.75 = 12.
    updates, state = rms.update(jnp.array([4.0]), state)
    np.testing.assert_allclose(state.second_moment, [9.0])
    np.testing.assert_allclose(updates, 4 / (np.sqrt(12) + 1), rtol=1e-6)


def test_without_debiasing():
    rms = optimx.scale_by_rms(0.75, eps=0.0, debias=False)
    updates, _ = rms.update(jnp.array([3.0]), rms.init(jnp.zeros(1)))
    np.testing.assert_allclose(updates, [2.0])


def test_statistics_are_those_of_the_observed_signal():
    rms = optimx.scale_by_rms(0.9, eps=0.0)
    state = rms.init(jnp.zeros(2))
    updates, state = rms.update(
        jnp.array([6.0, 6.0]), state, observed=jnp.array([2.0, -3.0])
    )
    np.testing.assert_allclose(updates, [3.0, 2.0], rtol=1e-6)
    np.testing.assert_allclose(state.second_moment, [0.4, 0.9], rtol=1e-6)


def test_a_decay_of_zero_keeps_the_last_square():
    rms = optimx.scale_by_rms(0.0, eps=0.0)
    state = rms.init(jnp.zeros(1))
    for gradient in (5.0, -2.0):
        updates, state = rms.update(jnp.array([gradient]), state)
    np.testing.assert_allclose(updates, [-1.0])
    np.testing.assert_allclose(state.second_moment, [4.0])


@pytest.fixture
def double():
    with runs.double_precision():
        yield


def test_a_wide_second_moment_is_taken_in_its_own_precision(double):
    gradients = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    rms = optimx.scale_by_rms(0.9, eps=0.0, accumulator_dtype=jnp.float64)
    state, exact = rms.init(jnp.zeros(3, jnp.float32)), np.zeros(3)
    for gradient in gradients:
        updates, state = rms.update(jnp.asarray(gradient), state)
        exact = 0.9 * exact + (1 - 0.9) * gradient.astype(np.float64) ** 2
    np.testing.assert_allclose(state.second_moment, exact, rtol=1e-14)
    assert updates.dtype == jnp.float32
    expected = gradient / np.sqrt(exact / (1 - 0.9**20))
    np.testing.assert_array_equal(updates, expected.astype(np.float32))


def test_a_narrow_second_moment_is_taken_in_float32():
    gradient = jnp.full(1, 1 + 2.0**-12)
    rms = optimx.scale_by_rms(0.0, eps=0.0, accumulator_dtype=jnp.bfloat16)
    updates, state = rms.update(gradient, rms.init(gradient))
    np.testing.assert_allclose(updates, [1.0], rtol=1e-6)
    np.testing.assert_array_equal(state.second_moment.astype(jnp.float32), [1.0])


@pytest.mark.parametrize("value", [1.0, -0.1, np.nan, 2, "0.9"])
def test_decays_outside_their_range_are_refused(value):
    with pytest.raises(ValueError, match=r"scale_by_rms: decay .*\[0, 1\), got"):
        optimx.scale_by_rms(value)


@pytest.mark.parametrize("value", [-1e-8, np.nan, np.inf])
def test_epsilons_outside_their_range_are_refused(value):
    with pytest.raises(ValueError, match=r"scale_by_rms: eps .*>= 0, got"):
        optimx.scale_by_rms(0.9, eps=value)


def test_schedules_are_no_decays():
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), got <function"):
        optimx.scale_by_rms(lambda count: 0.9)


def test_integer_leaves_are_named():
    with pytest.raises(ValueError, match=r"scale_by_rms: parameter 'a/1' has dtype"):
        optimx.scale_by_rms(0.9).init({"a": [jnp.ones(1), jnp.arange(2)]})
