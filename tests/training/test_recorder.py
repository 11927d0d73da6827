import io
import json

import pytest

from optimx.training.errors import DivergedError
from optimx.training.recorder import Recorder
from training.small import config


class Silent:
    """A report that nobody reads."""

    def __init__(self):
        self.shown = []

    def start(self, step): ...

    def train_line(self, line): ...

    def skipped(self, *what):
        self.shown.append(what)

    def evaluation_line(self, line): ...


def record(corpus, **more):
    log, report = io.StringIO(), Silent()
    chosen = config(corpus, train__log_every=3, train__steps=8, **more)
    recorder = Recorder(chosen, log, report, 0)
    recorder.shown = report.shown
    return recorder, log


def metrics(**more):
    usual = {"loss": 2.0, "grad_norm": 1.0, "learning_rate": 0.1}
    return usual | {"skipped": 0, "skipped_in_row": 0} | more


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
def test_a_skipped_update_has_a_line(corpus, name, value):
    recorder, log = record(corpus)
    # Step 2 has no line of its own.
    recorder.push(2, metrics(skipped=3, skipped_in_row=1, **{name: value}))
    recorder.flush()
    line = json.loads(log.getvalue())
    assert line[name] is None
    assert (line["step"], line["skipped"], line["batch"]) == (2, True, [0, 1])
    assert recorder.shown == [(2, f"{name} is {value}", 1, 3)]
    assert recorder.diverged is None


def test_too_many_skipped_updates_end_the_run(corpus):
    recorder, _ = record(corpus, train__max_skipped=3)
    for in_row in (1, 2, 3):
        assert recorder.diverged is None
        recorder.push(
            4 + in_row,
            metrics(loss=float("nan"), skipped=in_row, skipped_in_row=in_row),
        )
        recorder.flush()
    assert recorder.diverged == "step 7: loss is nan (3 skipped in a row)"


def test_the_first_skipped_update_can_end_the_run(corpus):
    recorder, _ = record(corpus, train__stop_on_divergence="true")
    recorder.push(5, metrics(skipped=1, skipped_in_row=1))
    recorder.flush()
    why = "step 5: the stale gradient is not finite (1 skipped in a row)"
    assert recorder.diverged == why


def test_a_validation_loss_that_is_none_ends_the_run(corpus):
    recorder, _ = record(corpus)
    with pytest.raises(DivergedError, match="step 4: val_loss is nan"):
        recorder.evaluated(4, float("nan"))


def test_what_was_measured_stands_in_the_next_line_only(corpus):
    recorder, log = record(corpus)
    values = {"clip/shrunk": 0.5, "cosine": float("nan")}
    for step, measured in ((1, 0), (3, 3), (6, 3)):
        recorder.push(step, metrics(monitor={"measured": measured} | values))
        recorder.flush()
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [line.get("monitor") for line in lines] == [
        None,
        {"update": 3, "skipped_steps": 0, "clip/shrunk": 0.5, "cosine": None},
        None,
    ]
