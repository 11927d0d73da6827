"""What is said of gains: by hand, and of gains whose numbers are known."""

import numpy as np
import pytest

from optimx.bench.claims.memory import differences, mean, memory

AGES = np.array([1, 2, 3, 5, 8, 9, 10])


def test_of_one_curve():
    found = memory(AGES, np.array([0.2, 0.8, 0.6, 0.3, 0.1, 0.2, 0.3]))
    assert found == {
        "peak_gain": 0.8,
        "peak_age": 2,
        "half_gone_age": 5,
        # The last fifth of the updates: ages over 8.
        "late_gain": pytest.approx(0.25),
        "kept": pytest.approx(0.25 / 0.8),
    }
    never = memory(AGES, np.array([0.2, 0.3, 0.3, 0.2, 0.2, 0.2, 0.2]))
    assert never["half_gone_age"] is None


def test_intervals_hold_the_truth():
    """Of means over four seeds, nearly 19 times in 20."""
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        found = mean(generator.normal(0.3, 0.1, 4).tolist())
        inside += found["low"] < 0.3 < found["high"]
    assert 0.87 < inside / 200 < 0.99
    assert mean([0.25]) == {"value": 0.25, "low": None, "high": None}


def test_differences_are_taken_in_pairs():
    def run(label, rule, shift):
        seeds = [{"late_gain": x + shift, "kept": 2 * x} for x in (0.1, 0.9, 0.4)]
        return {"optimizer": label, "rule": rule, "by_seed": seeds}

    runs = [
        run("adamw", "adamw", 0.0),
        run("ademamix", "ademamix", 0.05),
        run("adamw at 0.001", "adamw", -0.01),
    ]
    found = differences(runs)
    assert [(one["optimizer"], one["less"]) for one in found] == [
        ("ademamix", "adamw"),
        ("ademamix", "adamw at 0.001"),
    ]
    # Seeds are far from each other, and their differences all alike.
    for one, value in zip(found, (0.05, 0.06), strict=True):
        ends = [one["late_gain"][key] for key in ("value", "low", "high")]
        assert ends == pytest.approx([value] * 3)
        assert one["kept"]["value"] == 0
