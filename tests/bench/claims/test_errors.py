"""Errors from inner products, against the arithmetic that they stand for."""

import numpy as np
import pytest

from optimx.bench.claims.errors import MODES, Errors, jackknife

REPLAYS, BATCHES, SIZE = 5, 11, 40


def drawn(seed):
    generator = np.random.default_rng(seed)
    target = generator.normal(size=SIZE) + 2
    plain = target + 0.3 + 0.5 * generator.normal(size=(REPLAYS, SIZE))
    corrections = 0.2 * generator.normal(size=(2, REPLAYS, SIZE)) - 0.1 * target
    batches = target + generator.normal(size=(BATCHES, SIZE))
    return target, plain, corrections, batches


def errors_of(plain, corrections, batches):
    mean = batches.mean(axis=0)
    trees = np.concatenate([plain, *corrections, mean[None]])
    one_batch = ((batches - mean) ** 2).sum() / (BATCHES - 1)
    return Errors(trees @ trees.T, len(plain), BATCHES, one_batch)


@pytest.mark.parametrize("mode", MODES)
def test_by_hand(mode):
    _, plain, corrections, batches = drawn(0)
    errors = errors_of(plain, corrections, batches)
    gamma, full = 0.4, batches.mean(axis=0)
    estimates = plain + gamma * corrections[MODES.index(mode)]
    own = errors.one_batch / BATCHES
    variance = estimates.var(axis=0, ddof=1).sum()
    away = ((estimates.mean(axis=0) - full) ** 2).sum()
    each = ((estimates - full) ** 2).sum(axis=1)
    scale = full @ full - own
    found = errors.of(mode, gamma)
    assert found["variance"] * scale == pytest.approx(variance)
    assert found["bias2"] * scale == pytest.approx(away - variance / REPLAYS - own)
    # The error is the mean over replays, less what the full gradient is off.
    assert found["error"] * scale == pytest.approx(each.mean() - own)
    scatter = each.std(ddof=1) / REPLAYS**0.5
    assert found["error_standard_error"] * scale == pytest.approx(scatter)


def test_they_are_free_of_bias():
    """On the average over many draws bias and variance are the true ones."""
    found = [errors_of(*drawn(seed)[1:]) for seed in range(400)]
    rows = [one.of("exact", 0.0) for one in found]
    scales = np.array([one.full for one in found])
    variance = np.mean([row["variance"] for row in rows] * scales)
    bias2 = np.mean([row["bias2"] for row in rows] * scales)
    assert variance == pytest.approx(0.25 * SIZE, rel=0.02)
    # Naively it would be 5.6 more: variance / 5 and 40 / 11.
    assert bias2 == pytest.approx(0.09 * SIZE, abs=0.35)
    true = np.mean([np.square(drawn(seed)[0]).sum() for seed in range(400)])
    assert scales.mean() == pytest.approx(true, rel=0.01)


@pytest.mark.parametrize("mode", MODES)
def test_the_best_gamma(mode):
    _, *rest = drawn(3)
    errors = errors_of(*rest)
    gamma, error = errors.best(mode)
    for other in (gamma - 0.01, gamma + 0.01, 0.0, 1.0):
        assert errors.of(mode, other)["error"] > error


def test_the_jackknife():
    """Of a mean it is the usual standard error; left out is a whole replay."""
    _, plain, corrections, batches = drawn(4)
    errors = errors_of(plain, corrections, batches)
    kept = [0, 1, 3, 4]
    fewer = errors_of(plain[kept], corrections[:, kept], batches)
    np.testing.assert_allclose(errors.without(2).products, fewer.products)
    assert errors.without(2).of("exact", 0.4) == pytest.approx(fewer.of("exact", 0.4))
    value, spread = jackknife(errors, lambda of: of.of("exact", 0.4)["error"])
    usual = errors.of("exact", 0.4)
    assert value == usual["error"]
    assert spread == pytest.approx(usual["error_standard_error"])


def test_the_jackknifes_spread_is_that_of_repetitions():
    """Of a ratio there is no formula: its spread over many draws."""

    def ratio(errors):
        return errors.of("exact", 0.4)["error"] / errors.of("exact", 0.0)["error"]

    found = [jackknife(errors_of(*drawn(seed)[1:]), ratio) for seed in range(300)]
    values, spreads = np.array(found).T
    # Draws share no target here, which adds a little to the spread of values.
    assert np.sqrt(np.mean(spreads**2)) == pytest.approx(values.std(), rel=0.35)
