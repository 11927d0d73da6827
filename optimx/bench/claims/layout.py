"""What all the claims' pictures have in common."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optimx.bench.compare.palette import INK

_LINE = 0.21  # inches of a legend's line


def add_heading(figure: Figure, text: str, legend_of: Axes, columns: int) -> None:
    """A title and a legend above the panels, and room for a line below them.

    Args:
      figure: whose panels are moved to where there is room.
      text: of the title.
      legend_of: axes that hold an entry for everything.
      columns: of the legend.
    """
    high = figure.get_figheight()
    figure.text(
        0.012,
        1 - 0.08 / high,
        text,
        va="top",
        fontsize=11.5,
        fontweight="bold",
        color=INK,
    )
    handles, labels = legend_of.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(0.0, 1 - 0.27 / high),
        ncols=columns,
    )
    lines = -(-len(labels) // columns)
    top = 0.38 + _LINE * lines
    figure.tight_layout(rect=(0, 0.35 / high, 1, 1 - top / high))
