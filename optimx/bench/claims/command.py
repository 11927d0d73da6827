"""``optimx bench claim``, behind the command line."""

import json
import math
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from optimx.bench.circumstances import hardware, versions
from optimx.bench.claims.figures import FIGURES, write_figure
from optimx.bench.claims.forgetting import forgetting
from optimx.bench.claims.instability import instability
from optimx.bench.claims.progress import Progress
from optimx.bench.claims.request import Request, data_of
from optimx.bench.claims.variance import variance
from optimx.training.config import tables
from optimx.training.errors import InputError, InterruptedRunError, nearest
from optimx.training.files import require_writable
from optimx.training.network.model import parameter_count

Measure = Callable[[Request, Progress], dict[str, Any]]

CLAIMS: dict[str, Measure] = {
    "variance": variance,
    "forgetting": forgetting,
    "instability": instability,
}
_KINDS = (".svg", ".png", ".pdf")


def bench_claim(
    request: Request, out: Path | None = None, figure: Path | None = None
) -> None:
    """Measures, writes what is asked for, and prints what was found.

    Args:
      request: what to measure.
      out: a file for all the numbers, as JSON.
      figure: a file for the picture.

    Raises:
      InputError: no such claim, a file that cannot be written, settings that cannot
        be used.
      InterruptedRunError: Ctrl-C.
    """
    if request.claim not in CLAIMS:
        hint = nearest(request.claim, CLAIMS)
        raise InputError(f"bench claim {request.claim}: there is no such claim{hint}")
    if figure is not None and figure.suffix not in _KINDS:
        raise InputError(f"--figure {figure}: must end in one of {', '.join(_KINDS)}")
    for option, path in (("--out", out), ("--figure", figure)):
        if path is not None:
            require_writable(option, path)
    try:
        with Progress() as progress:
            found = measured(request, progress)
    except KeyboardInterrupt:
        raise InterruptedRunError("interrupted before the last number") from None
    if out is not None:
        out.write_text(as_json(found), encoding="utf-8")
    if figure is not None:
        write_figure(FIGURES[request.claim](found), figure)
    console = Console(highlight=False)
    for sentence in found["conclusion"]:
        console.print(sentence, markup=False, soft_wrap=True)


def measured(request: Request, progress: Progress) -> dict[str, Any]:
    """The contents of the JSON file: circumstances, and the claim's own numbers."""
    found = CLAIMS[request.claim](request, progress)
    # The claim's own number of steps is that of its size.
    base = request.config("adamw", found["size"]["steps"])
    return {
        "claim": request.claim,
        "command": _command(request),
        "quick": request.quick,
        "versions": versions(),
        "hardware": hardware(),
        "seed": base.train.seed,
        "parameters": parameter_count(base.model),
        "steps": base.train.steps,
        "tokens_per_step": base.tokens_per_step,
        "data_sha256": data_of(base).sha256,
        "run": {k: v for k, v in tables(base).items() if k != "optimizer"},
        **found,
    }


def as_json(found: Mapping[str, Any]) -> str:
    """The numbers to five digits, each list of them on a line.

    JSON has no word for what is not finite: null.
    """
    text = json.dumps(_short(found), indent=1, allow_nan=False)
    flat = re.compile(r'\[[^][{}"]*]')
    return flat.sub(lambda found: re.sub(r"\s+", " ", found[0]), text) + "\n"


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _short(one) for key, one in value.items()}
    return [_short(one) for one in value] if isinstance(value, list | tuple) else value


def _command(request: Request) -> str:
    words = ["optimx", "bench", "claim", request.claim]
    words += ["--quick"] if request.quick else []
    words += ["--only", ",".join(request.only)] if request.only else []
    for key, value in request.overrides:
        words += [f"--{key}", value]
    return shlex.join(words)
