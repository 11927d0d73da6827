"""A comparison for its readers: pictures, a page, a table in the terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from optimx.bench.compare.figures import as_svg, draw
from optimx.bench.compare.page import page
from optimx.bench.compare.table import HEADINGS, cells, wide
from optimx.training.checkpoints.manifest import write_text


def write_report(results: Mapping[str, Any], out: Path) -> None:
    """Writes ``report.html``, and each picture as SVG and PNG under ``pictures``."""
    pictures = out / "pictures"
    pictures.mkdir(exist_ok=True)
    drawn = {}
    for name, figure in draw(results).items():
        drawn[name] = as_svg(figure)
        write_text(pictures / f"{name}.svg", drawn[name])
        figure.savefig(pictures / f"{name}.png", dpi=160)
    write_text(out / "report.html", page(results, drawn))


def show_table(results: Mapping[str, Any], console: Console) -> None:
    """Prints the table and the conclusion."""
    table = Table(box=None, pad_edge=False)
    for index, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if index > 1 else "left")
    for row in results["contenders"]:
        table.add_row(*map(escape, cells(row, results)))
    console.print()
    wide(console).print(table)
    console.print()
    for sentence in results["conclusion"]:
        console.print(sentence, markup=False, soft_wrap=True)
