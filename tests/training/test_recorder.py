import io
import json

import pytest

from optimx.training.errors import DivergedError
from optimx.training.recorder import Recorder
from training.small import config


class Silent:
    """A report that nobody reads."""

    def start(self, step): ...

    def train_line(self, line): ...

    def evaluation_line(self, line): ...


def record(corpus):
    log = io.StringIO()
    chosen = config(corpus, train__log_every=3, train__steps=8)
    return Recorder(chosen, log, Silent(), 0), log


def metrics(**more):
    return {"loss": 2.0, "grad_norm": 1.0, "learning_rate": 0.1} | more


def test_lines_have_the_published_keys(corpus):
    recorder, log = record(corpus)
    for step in range(1, 9):
        recorder.push(step, metrics(loss=float(step)))
        recorder.flush()
        recorder.flush()  # nothing new: nothing twice
    recorder.evaluated(8, 1.5)
    *train, last = map(json.loads, log.getvalue().splitlines())
    assert [line["step"] for line in train] == [1, 3, 6, 8]
    for line in train:
        assert list(line) == [
            "step",
            "tokens",
            "loss",
            "learning_rate",
            "grad_norm",
            "tokens_per_second",
        ]
        assert line["tokens"] == line["step"] * 4 * 16
        assert line["loss"] == line["step"]
        assert line["tokens_per_second"] > 0
    assert last == {"step": 8, "tokens": 512, "val_loss": 1.5}


def test_pauses_do_not_count(corpus, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("optimx.training.recorder.time.monotonic", lambda: now[0])
    recorder, log = record(corpus)
    for step in (1, 2, 3):
        now[0] += 2.0
        with recorder.paused():
            now[0] += 100.0
        recorder.push(step, metrics())
        recorder.flush()
    rates = [
        json.loads(line)["tokens_per_second"] for line in log.getvalue().splitlines()
    ]
    assert rates == [32.0, 32.0]


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_ends_the_run(corpus, name, value):
    recorder, log = record(corpus)
    recorder.push(2, metrics(**{name: value}))  # step 2 has no line of its own
    with pytest.raises(DivergedError, match=f"step 2: {name} is {value}"):
        recorder.flush()
    assert log.getvalue() == ""


def test_a_validation_loss_that_is_none_ends_the_run(corpus):
    recorder, _ = record(corpus)
    with pytest.raises(DivergedError, match="step 4: val_loss is nan"):
        recorder.evaluated(4, float("nan"))
