import dataclasses
import io
import json

import pytest
from rich.console import Console

from optimx.bench.report import WIDTH, Report, Row

ROW = Row(
    name="mars_adamw",
    passes=11,
    seconds=[0.2, 0.22, 0.3],
    adamw_median=0.1,
    axpy_median=0.03,
    adamw_passes=7,
    axpy_passes=3,
    state_bytes_per_parameter=12.0,
    temporary_bytes=500_000_000,
    temporary_bytes_per_parameter=4.02,
    compile_seconds=3.14,
    warm_up_steps=1,
    update_every=None,
)
# Minutes a step, and no count of passes.
SLOW = dataclasses.replace(
    ROW, name="optax.contrib.ademamix", passes=None, seconds=[99.0, 98.0, 99.4]
)
ABOUT = {
    "preset": "small",
    "matrices_only": False,
    "parameters": 124_439_808,
    "dtype": "float32",
    "device": "A processor",
    "cpu_cores": 2,
    "jax": "0.10.2",
}
REPORT = Report(ABOUT, [ROW, SLOW])


def test_ratios_are_to_the_local_yardsticks():
    assert ROW.median == 0.22
    assert ROW.step_over_adamw == pytest.approx(2.2)
    assert ROW.pass_over_adamw == pytest.approx((0.22 / 11) / (0.1 / 7))
    assert ROW.pass_over_axpy == pytest.approx((0.22 / 11) / (0.03 / 3))


def test_where_passes_are_not_counted_only_the_step_is_compared():
    assert SLOW.step_over_adamw == pytest.approx(990)
    assert SLOW.pass_over_adamw is SLOW.pass_over_axpy is None


def test_json_holds_every_step_and_what_follows():
    read = json.loads(REPORT.as_json())
    assert {key: read[key] for key in ABOUT} == ABOUT
    first, second = read["optimizers"]
    assert first["seconds"] == [0.2, 0.22, 0.3]
    assert (first["min"], first["max"]) == (0.2, 0.3)
    assert first["mean"] == pytest.approx(0.24)
    assert first["worst_over_median"] == pytest.approx(0.3 / 0.22)
    assert second["passes"] is second["pass_over_axpy"] is None


def test_the_table_fits():
    console = Console(file=io.StringIO(), width=WIDTH)
    REPORT.show(console)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= WIDTH <= 100
    first, second = (" ".join(line.split()) for line in lines[-2:])
    assert first == "mars_adamw 220.0 200.0 300.0 2.20 11 1.40 2.00 12.00 4.02 0.50 3.1"
    assert second == (
        "optax.contrib.ademamix 99000 98000 99400 990.00 - - - 12.00 4.02 0.50 3.1"
    )


def test_markdown_has_the_same_cells():
    caption, empty, headings, rules, *rows = REPORT.markdown().splitlines()
    assert caption == REPORT.caption()
    assert empty == ""
    assert headings.startswith("| optimizer | step ms | min ms |")
    assert {line.count("|") for line in (headings, rules, *rows)} == {13}
    assert rows == [f"| {' | '.join(row.cells())} |" for row in (ROW, SLOW)]


def test_the_caption_names_the_circumstances():
    assert REPORT.caption() == (
        "One update of the small preset, 124,439,808 parameters in float32, on "
        "A processor, 2 CPU cores, jax 0.10.2."
    )
    matrices = Report(ABOUT | {"matrices_only": True}, [])
    assert "the block matrices of the small preset" in matrices.caption()
