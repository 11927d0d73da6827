import io

from rich.console import Console

from optimx.training.report import Report

TRAIN = {"step": 3, "loss": 2.34567, "tokens_per_second": 12345.6}
SUMMARY = {
    "optimizer": "came",
    "final_val_loss": 1.23456,
    "steps": 10,
    "tokens": 10_240,
    "seconds": 75.2,
}


def show(terminal, act):
    console = Console(
        file=io.StringIO(), force_terminal=terminal, width=100, highlight=False
    )
    with Report(10, console) as report:
        act(report)
    return console.file.getvalue()


def run(report):
    report.say("Reading the text")
    report.start(0)
    report.train_line(TRAIN)
    report.evaluation_line({"step": 5, "val_loss": 2.5})
    report.finish(SUMMARY, "def f(x):\n    return x[0]", "runs/here")


def test_without_a_terminal_evaluations_are_plain_lines():
    text = show(False, run)
    assert "\x1b" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("step")]
    assert line.startswith("step 5/10  loss 2.346  validation 2.500  12,346 tokens/s")
    assert line.endswith(" left")


def test_without_a_terminal_a_long_silence_is_broken(monkeypatch):
    monkeypatch.setattr("optimx.training.report._PLAIN_SECONDS", 0.0)
    assert "step 3/10  loss 2.346  validation -" in show(False, run)


def test_in_a_terminal_one_line_is_drawn_again_and_again():
    text = show(True, run)
    for word in ("\x1b", "loss 2.346", "validation 2.500", "12,346 tokens/s", "5/10"):
        assert word in text


def test_a_skipped_update_is_shown_at_once():
    def skip(report):
        report.start(0)
        report.skipped(3, "loss is nan", 2, 5)
        report.train_line(TRAIN | {"loss": None})

    for terminal in (True, False):
        assert (
            "step 3/10  loss is nan, the update is skipped (2 in a row, 5 in all)"
            in (show(terminal, skip))
        )


def test_the_end_has_the_result_the_sample_and_the_folder():
    for terminal in (True, False):
        text = show(terminal, run)
        assert (
            "came: validation loss 1.2346 after 10 steps, 10,240 tokens, 1:15" in text
        )
        assert "  def f(x):\n      return x[0]\n" in text
        assert "The run is in runs/here" in text
