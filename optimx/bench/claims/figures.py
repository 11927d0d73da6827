"""The pictures of the claims, drawn from the contents of their JSON files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from optimx.bench.claims.draw_forgetting import draw_forgetting
from optimx.bench.claims.draw_instability import draw_instability
from optimx.bench.claims.draw_variance import draw_variance
from optimx.bench.compare.palette import GRID, INK, MUTED

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "optimx",
    "font.size": 9,
    "axes.titlesize": 9,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": GRID,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}

Draw = Callable[[Mapping[str, Any]], Figure]


def _styled(draw: Draw) -> Draw:
    def drawn(results: Mapping[str, Any]) -> Figure:
        with matplotlib.rc_context(_STYLE):
            figure = draw(results)
            figure.text(0.012, 0.01, _below(results), fontsize=7.5, color=MUTED)
            return figure

    return drawn


def _below(results: Mapping[str, Any]) -> str:
    """What was measured, in one line; numbers that tell nothing say so."""
    quick = "QUICK, to see that it works: tells nothing.  " if results["quick"] else ""
    return (
        f"{quick}GPT-2 of {results['parameters'] / 1e6:.2f}M parameters, "
        f"{results['steps']} steps of {results['tokens_per_step']:,} tokens, "
        f"first seed {results['seed']}\n{results['command']}"
    )


FIGURES: dict[str, Draw] = {
    "variance": _styled(draw_variance),
    "forgetting": _styled(draw_forgetting),
    "instability": _styled(draw_instability),
}


def write_figure(figure: Figure, path: Path) -> None:
    """The picture as a file of the kind that its name says, on white."""
    dated = {"Date": None} if path.suffix == ".svg" else None
    with matplotlib.rc_context(_STYLE):
        figure.savefig(path, dpi=200, facecolor="white", metadata=dated)
