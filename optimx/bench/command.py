"""``optimx bench update``, behind the command line."""

import sys
from pathlib import Path

from rich.console import Console

from optimx.bench.report import WIDTH, Row
from optimx.bench.request import Request
from optimx.bench.update_cost import measure
from optimx.training.errors import InterruptedRunError
from optimx.training.files import require_writable


def bench_update(
    request: Request, out: Path | None = None, markdown: bool = False
) -> None:
    """Measures, and prints the table.

    Args:
      request: what to measure.
      out: a file for all the numbers, as JSON.
      markdown: print the table as Markdown.

    Raises:
      InputError: a file that cannot be written.
      InterruptedRunError: Ctrl-C.
    """
    if out is not None:
        require_writable("--out", out)
    try:
        found = measure(request, _notice)
    except KeyboardInterrupt:
        raise InterruptedRunError("interrupted before the last optimizer") from None
    if out is not None:
        out.write_text(found.as_json())
    if markdown:
        print(found.markdown(), end="")
    else:
        # Where the output is no terminal, rich would squeeze it into 80 columns.
        found.show(Console(highlight=False, width=WIDTH))


def _notice(row: Row) -> None:
    # Beside the table, which may go into a file.
    print(f"{row.name}: {row.median * 1e3:.1f} ms a step", file=sys.stderr)
