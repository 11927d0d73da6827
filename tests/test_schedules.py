import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimx
from tests import runs


def half_life(decay):
    return np.log(0.5) / np.log(decay)


class TestHalfLifeWarmup:
    def test_ends(self):
        b3 = optimx.half_life_warmup(0.9, 0.9999, 100)
        np.testing.assert_allclose(b3(0), 0.9, rtol=1e-6)
        for count in (100, 101, 10**6):
            np.testing.assert_allclose(b3(count), 0.9999, rtol=1e-7)

    def test_half_lives_rise_linearly(self):
        with runs.double_precision():
            b3 = optimx.half_life_warmup(0.9, 0.999, 4)
            lives = [half_life(float(b3(count))) for count in range(5)]
        expected = np.linspace(half_life(0.9), half_life(0.999), 5)
        np.testing.assert_allclose(lives, expected, rtol=1e-10)

    def test_the_interpolation_of_the_paper(self):
        """With the paper's f, which is the half-life less one step."""

        def inverse(x):
            return 0.5 ** (1 / (x + 1))

        ours = optimx.half_life_warmup(0.9, 0.9999, 1000)
        for count in (1, 250, 999):
            share = count / 1000
            f = (1 - share) * (half_life(0.9) - 1) + share * (half_life(0.9999) - 1)
            np.testing.assert_allclose(ours(count), inverse(f), rtol=1e-6)

    def test_may_start_from_no_memory(self):
        b3 = optimx.half_life_warmup(0.0, 0.999, 10)
        values = np.array([b3(count) for count in range(11)])
        assert values[0] == 0.0
        assert np.all(np.diff(values) > 0)
        assert np.all(np.isfinite(values))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((1.0, 0.9, 10), r"start must be in \[0, 1\), got 1.0"),
            ((np.nan, 0.9, 10), r"start must be in \[0, 1\), got nan"),
            ((0.9, 1.0, 10), r"end must be in \[0, 1\), got 1.0"),
            ((0.9, 0.0, 10), r"end must be > 0, got 0.0"),
            ((0.9, 0.99, 0), r"steps must be a whole number >= 1, got 0"),
            ((0.9, 0.99, -5), r"steps must be a whole number >= 1, got -5"),
            ((0.9, 0.99, 2.5), r"steps must be a whole number >= 1, got 2.5"),
        ],
    )
    def test_what_is_out_of_range_is_refused(self, arguments, message):
        with pytest.raises(ValueError, match=f"half_life_warmup: {message}"):
            optimx.half_life_warmup(*arguments)


class TestLinearWarmup:
    def test_values(self):
        alpha = optimx.linear_warmup(8.0, 4)
        assert [float(alpha(count)) for count in (0, 1, 2, 4, 9)] == [0, 2, 4, 8, 8]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((8.0, 0), r"steps must be a whole number >= 1, got 0"),
            ((8.0, None), r"steps must be a whole number >= 1, got None"),
            ((np.inf, 10), r"end must be a finite number, got inf"),
        ],
    )
    def test_what_is_out_of_range_is_refused(self, arguments, message):
        with pytest.raises(ValueError, match=f"linear_warmup: {message}"):
            optimx.linear_warmup(*arguments)


class TestWarmupStableDecay:
    def test_values(self):
        rate = optimx.warmup_stable_decay(2.0, steps=10, warmup=4, decay=4, end=1.0)
        values = [float(rate(count)) for count in range(12)]
        expected = [0, 0.5, 1, 1.5, 2, 2, 2, 1.75, 1.5, 1.25, 1, 1]
        np.testing.assert_allclose(values, expected)

    def test_without_ramps(self):
        rate = optimx.warmup_stable_decay(2.0, steps=3, warmup=0, decay=0)
        assert [float(rate(count)) for count in range(5)] == [2.0] * 5

    def test_only_a_fall(self):
        rate = optimx.warmup_stable_decay(2.0, steps=4, warmup=0, decay=4)
        values = [float(rate(count)) for count in range(6)]
        np.testing.assert_allclose(values, [2, 1.5, 1, 0.5, 0, 0])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"steps": 0}, "steps must be a whole number >= 1, got 0"),
            ({"warmup": -1}, "warmup must be a whole number >= 0, got -1"),
            ({"decay": 0.5}, "decay must be a whole number >= 0, got 0.5"),
            ({"end": -1.0}, "end must be a finite number >= 0, got -1.0"),
            ({"peak": np.nan}, "peak must be a finite number >= 0, got nan"),
            ({"warmup": 6}, r"warmup \+ decay must be at most steps, got 6 \+ 5 > 10"),
        ],
    )
    def test_what_is_out_of_range_is_refused(self, arguments, message):
        fits = {"peak": 1.0, "steps": 10, "warmup": 5, "decay": 5}
        with pytest.raises(ValueError, match=f"warmup_stable_decay: {message}"):
            optimx.warmup_stable_decay(**fits | arguments)


class TestHorizon:
    def test_values(self):
        np.testing.assert_allclose(optimx.horizon(5000), 0.999)
        np.testing.assert_allclose(optimx.horizon(100, fraction=0.5), 0.98)

    @pytest.mark.parametrize("steps", [1, 2, 5])
    def test_a_memory_shorter_than_an_update_is_none(self, steps):
        assert optimx.horizon(steps) == 0.0

    def test_is_a_decay_of_every_length(self):
        for steps in (1, 10, 10**6, 10**9):
            optimx.ema(optimx.horizon(steps))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((0,), "steps must be a whole number >= 1, got 0"),
            ((10, 0.0), "fraction must be > 0, got 0.0"),
        ],
    )
    def test_what_is_out_of_range_is_refused(self, arguments, message):
        with pytest.raises(ValueError, match=f"horizon: {message}"):
            optimx.horizon(*arguments)


@pytest.mark.parametrize(
    "schedule",
    [
        optimx.half_life_warmup(0.9, 0.999, 5),
        optimx.linear_warmup(8.0, 5),
        optimx.warmup_stable_decay(1.0, steps=9, warmup=3, decay=3),
    ],
    ids=["half life", "linear", "stable"],
)
def test_counts_may_be_traced_and_batched(schedule):
    counts = jnp.arange(12, dtype=jnp.int32)
    together = jax.jit(jax.vmap(schedule))(counts)
    each = [float(schedule(count)) for count in range(12)]
    np.testing.assert_allclose(together, each, rtol=1e-6)
    assert together.dtype == jnp.float32
