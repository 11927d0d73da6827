import json

import pytest

from optimx.bench import command
from optimx.bench.report import Report
from optimx.bench.request import Request
from optimx.training.errors import InputError, InterruptedRunError

from .test_report import REPORT, ROW


@pytest.fixture
def measured(monkeypatch):
    """A measurement that takes no time."""

    def measure(request, notice):
        notice(ROW)
        return Report(dict(REPORT.about, preset=request.preset), REPORT.rows)

    monkeypatch.setattr(command, "measure", measure)


@pytest.mark.usefixtures("measured")
def test_the_table_goes_to_stdout_and_progress_beside_it(capsys):
    command.bench_update(Request("tiny"))
    out, err = capsys.readouterr()
    assert "optax.contrib.ademamix" in out
    assert "| --- |" not in out
    assert err == "mars_adamw: 220.0 ms a step\n"


@pytest.mark.usefixtures("measured")
def test_markdown_and_json(capsys, tmp_path):
    file = tmp_path / "cost.json"
    file.write_text("what was here before")
    command.bench_update(Request("tiny"), file, markdown=True)
    report = Report(dict(REPORT.about, preset="tiny"), REPORT.rows)
    assert capsys.readouterr().out == report.markdown()
    assert json.loads(file.read_text()) == report.as_dict()


@pytest.mark.parametrize("place", ["absent/cost.json", "."])
def test_a_file_that_cannot_be_written_stops_it_first(monkeypatch, tmp_path, place):
    monkeypatch.delattr(command, "measure")
    with pytest.raises(InputError, match=r"--out .*: cannot be written: "):
        command.bench_update(Request("tiny"), tmp_path / place)


def test_an_interruption_is_told(monkeypatch):
    def measure(request, notice):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "measure", measure)
    with pytest.raises(InterruptedRunError, match="interrupted before"):
        command.bench_update(Request("tiny"))
