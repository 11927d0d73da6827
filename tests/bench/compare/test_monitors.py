"""What optimizers measured, from the runs of a comparison to its report."""

import io
import json

from rich.console import Console

from optimx.bench.compare.command import compare
from optimx.bench.compare.monitors import draw_monitors, monitored_values
from optimx.bench.compare.trials import Result


def run(*measured):
    keys = ("update", "update_rms", "cosine")
    return Result({}, (), tuple(dict(zip(keys, one, strict=True)) for one in measured))


def test_updates_that_all_runs_measured_count():
    runs = [
        run((3, 0.1, -0.5), (103, 0.2, None)),
        run((3, 0.3, -0.7), (103, 0.4, -0.1), (203, 0.5, -0.2)),
    ]
    found = monitored_values(runs)
    assert found == {
        "updates": [3, 103],
        "update_rms": [[0.1, 0.2], [0.3, 0.4]],
        "cosine": [[-0.5, None], [-0.7, -0.1]],
    }
    rows = [{"label": "a", "monitor": found}, {"label": "b", "monitor": None}]
    figure = draw_monitors({"contenders": rows, "baseline": "a"})
    size, cosine = figure.axes
    (line,) = size.lines
    assert line.get_xydata().round(6).tolist() == [[3.0, 0.2], [103.0, 0.3]]
    # A value that is not finite in one run leaves a gap.
    assert cosine.lines[0].get_ydata().round(6).tolist()[0] == -0.6


def test_without_monitors_there_is_no_picture():
    assert monitored_values([run(), run()]) is None
    rows = [{"label": "a", "monitor": None}, {"label": "b"}]
    assert draw_monitors({"contenders": rows, "baseline": "a"}) is None


MONITORED = """
[train]
monitor = true
[compare]
baseline = "adamw"
seeds = 2
together = "always"
[[compare.contender]]
optimizer = {{ name = "adamw" }}
"""


def test_runs_of_one_program_tell_their_own_values(write, overrides, tmp_path):
    out, console = tmp_path / "out", Console(file=io.StringIO(), width=200)
    compare(write(MONITORED), overrides, out, console=console)
    results = json.loads((out / "results.json").read_text())
    (row,) = results["contenders"]
    found = row["monitor"]
    assert found["updates"] == [3]
    (first,), (second,) = found["update_rms"]
    assert 0 < first != second > 0
    assert all(-1 <= cosine < 0 for (cosine,) in found["cosine"])
    assert (out / "pictures" / "monitors.png").stat().st_size > 0
    assert "What the optimizers did" in (out / "report.html").read_text()
