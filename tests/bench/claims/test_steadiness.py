"""Numbers for runs, and how spikes are counted."""

import numpy as np
import pytest

from optimx.bench.claims.steadiness import spikes, summary


def test_spikes():
    calm = np.random.default_rng(0).normal(5, 0.1, 200)
    assert spikes(calm.tolist()) == 0
    for place, value in ((100, 6.0), (150, float("nan")), (180, float("inf"))):
        calm[place] = value
    assert spikes(calm.tolist()) == 3
    assert spikes([float("nan")] * 60) == 10
    calm[20] = 9.0  # nothing before it to be held against
    assert spikes(calm.tolist()) == 3


def test_a_summary():
    series = {"rms": [0.0, 4.0, 2.0, 2.0, 4.0], "loss": [5.0, 4.0, 3.0, 2.0, 1.0]}
    found = summary(series, warmup=2)
    assert found["rms_max"] == 4
    assert found["rms_max_step"] == 2
    assert found["rms_median"] == 2
    assert found["rms_change"] == pytest.approx(np.log(2) / 2)
    assert found["last_loss"] == 1
