"""Steps are timed over whole cycles of whoever has them."""

import pytest
from training.small import config

from optimx.bench.compare import timing
from optimx.bench.compare.timing import Stopwatch
from optimx.training.interrupt import StopRequest

SOAP = {"optimizer__name": "soap", "optimizer__update_every": 7}
OTHERS = {"optimizer__name": "adamw", "optimizer__others.name": "adamw"}


@pytest.fixture
def timed(corpus, monkeypatch):
    """Times one optimizer beside another; returns the steps of all measurements."""
    asked = []

    class Subject:
        def __init__(self, program, mesh):
            pass

        def seconds(self, steps, stop):
            asked.append(steps)
            return 1.0

    monkeypatch.setattr(timing, "_Subject", Subject)
    monkeypatch.setattr(timing, "alone", lambda config, data, mesh: None)

    def timed(baseline, contender):
        asked.clear()
        stopwatch = Stopwatch(config(corpus, **baseline), None, StopRequest())
        found = stopwatch.time(config(corpus, **contender))
        assert found.over_baseline == 1
        return set(asked)

    return timed


def test_both_take_as_many_steps(timed):
    assert timed(OTHERS, OTHERS) == {4}
    assert timed(OTHERS, SOAP) == {7}
    assert timed(SOAP, OTHERS) == {7}
    assert timed(SOAP, SOAP | {"optimizer__update_every": 11}) == {11}


def test_what_is_no_matrix_has_cycles_too(timed):
    rest = SOAP | {"optimizer__name": "muon", "optimizer__others.name": "soap"}
    del rest["optimizer__update_every"]
    assert timed(OTHERS, rest) == {10}
