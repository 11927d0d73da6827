import math

import numpy as np
import pytest

from optimx.bench.compare.statistics import (
    Estimate,
    loss_difference,
    reached,
    spread,
    token_ratio,
)
from optimx.bench.compare.verdict import verdict

STEPS = np.arange(10.0, 101.0, 10.0)


def test_where_a_curve_is_at_a_goal():
    losses = np.array([5.0, 4.0, 3.0])
    assert reached(STEPS[:3], losses, 3.5) == 25
    assert reached(STEPS[:3], losses, 3.0) == 30
    assert reached(STEPS[:3], losses, 6.0) == 10
    assert reached(STEPS[:3], losses, 2.9) == math.inf


def test_spread_is_the_standard_deviation():
    assert spread(np.array([1.0, 2.0, 3.0])) == 1
    assert spread(np.array([1.0])) is None


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_hold_the_truth_as_often_as_they_say(seeds):
    """Of 300 samples of normal noise; the bootstrap itself would hold 75 % of three."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        theirs = generator.normal(4.0, 0.05, seeds)
        found = loss_difference(theirs + generator.normal(-0.02, 0.01, seeds), theirs)
        held += found.low <= -0.02 <= found.high
    # Three standard errors of a share of 95 % among 300: 3.8 %.
    assert held / 300 > 0.91


def test_pairs_take_away_what_seeds_have_in_common():
    luck = np.array([-0.3, 0.1, 0.2])
    paired = loss_difference(4 + luck - 0.01 + luck / 1e3, 4 + luck)
    assert paired.high < 0
    shuffled = loss_difference(4 + luck[::-1] - 0.01, 4 + luck)
    assert shuffled.low < 0 < shuffled.high


def test_ratio_of_tokens():
    """Curves that fall by a line: the goal is reached at 60 % of the way."""
    curve = 5 - STEPS / 100
    ours = np.stack([curve + 0.001, curve, curve - 0.001])
    found = token_ratio(STEPS, ours, np.array([4.4, 4.4, 4.4]), 100)
    assert found.value == pytest.approx(0.6)
    assert 0.59 < found.low < 0.6 < found.high < 0.61


def test_a_ratio_that_some_seeds_never_reach():
    curve = 5 - STEPS / 100
    ours = np.stack([curve - 0.1, curve, curve + 0.09])
    found = token_ratio(STEPS, ours, np.array([4.05] * 3), 100)
    assert found.value < 1
    assert found.high == math.inf
    never = token_ratio(STEPS, ours + 1, np.array([4.05] * 3), 100)
    assert never == Estimate(math.inf, math.inf, math.inf)


def test_one_seed_has_no_interval():
    one = np.array([4.0])
    assert loss_difference(one, one + 1) == Estimate(-1.0, None, None)
    found = token_ratio(STEPS, 5 - STEPS[None] / 100, one + 0.4, 100)
    assert found == Estimate(pytest.approx(0.6), None, None)


@pytest.mark.parametrize(
    ("loss", "tokens", "words"),
    [
        (
            Estimate(-0.05, -0.07, -0.03),
            Estimate(0.71, 0.66, 0.77),
            "mars ends lower than adamw by 0.0500 (95% interval -0.0700 to -0.0300), "
            "and reaches adamw's final loss with 71% of its tokens "
            "(interval 0.66 to 0.77).",
        ),
        (
            Estimate(-0.05, -0.11, 0.01),
            Estimate(0.71, 0.5, math.inf),
            "mars: no difference from adamw shown in final loss "
            "(-0.0500, 95% interval -0.1100 to +0.0100).",
        ),
        (
            Estimate(0.05, 0.03, 0.07),
            Estimate(math.inf, math.inf, math.inf),
            "mars ends higher than adamw by 0.0500 (95% interval +0.0300 to +0.0700).",
        ),
        (
            Estimate(-0.05, None, None),
            Estimate(0.7, None, None),
            "mars: 0.0500 lower than adamw on one seed, which says nothing about "
            "another.",
        ),
    ],
)
def test_intervals_in_words(loss, tokens, words):
    assert verdict("mars", "adamw", loss, tokens) == words
