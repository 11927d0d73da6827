"""Weights by age, asked of the optimizers, against what the papers' sums say."""

import numpy as np
import pytest

from optimx import half_life_warmup
from optimx.bench.claims.impulse import LINEAR, ramps, weights_by_age
from optimx.training.config import load_config
from optimx.training.optimizer import Rule

STEPS = 40
AGES = np.arange(STEPS)


def fast(b1):
    return (1 - b1) * b1**AGES / (1 - b1**STEPS)


def test_adamw_forgets_at_its_rate():
    found = weights_by_age(Rule("adamw", 1.0, {"b1": 0.9}), STEPS)
    np.testing.assert_allclose(found, fast(0.9), rtol=1e-5)
    assert found.sum() == pytest.approx(1)


def test_ademamix_adds_a_slow_memory_that_is_not_debiased():
    numbers = {"b1": 0.8, "b3": 0.99, "alpha": 5.0}
    found = weights_by_age(Rule("ademamix", 1.0, numbers), STEPS)
    slow = 5.0 * (1 - 0.99) * 0.99**AGES
    np.testing.assert_allclose(found, fast(0.8) + slow, rtol=1e-5)


def test_ademamix_with_its_ramps():
    numbers = {"b1": 0.9, "b3": 0.999, "alpha": 8.0}
    lengths = {"b3_warmup": 60, "alpha_warmup": 80}
    found = weights_by_age(Rule("ademamix", 1.0, numbers | lengths), STEPS)
    decay = half_life_warmup(0.9, 0.999, 60)
    b3 = np.array([float(decay(t)) for t in range(1, STEPS + 1)])
    later = np.append(np.cumprod(b3[:0:-1])[::-1], 1.0)  # of all decays after a step
    slow = 8.0 * STEPS / 80 * ((1 - b3) * later)[::-1]
    np.testing.assert_allclose(found, fast(0.9) + slow, rtol=1e-4)


def test_mars_gives_the_present_more_and_keeps_the_sum():
    numbers = {"b1": 0.95, "gamma": 0.025}
    found = weights_by_age(Rule("mars_adamw", 1.0, numbers), STEPS)
    s = 0.025 * 0.95 / 0.05
    own = (1 + s) * fast(0.95)
    # A gradient is subtracted with the weight of the step after it.
    own[1:] -= s * fast(0.95)[:-1]
    np.testing.assert_allclose(found, own, rtol=1e-4)


@pytest.mark.parametrize("name", LINEAR)
def test_recipes_can_be_asked(name):
    config = load_config(
        None, {"optimizer.name": name, "train.steps": str(STEPS)}.items()
    )
    rule = config.optimizer.rule
    found = weights_by_age(rule, STEPS)
    assert found.shape == (STEPS,)
    assert np.isfinite(found).all()
    assert found[0] > 0
    assert "b1" in ramps(rule)
    assert ("alpha_warmup" in ramps(rule)) == ("ademamix" in name)
