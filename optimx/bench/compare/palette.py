"""Colours of a report: one for each contender, the baseline in that of the text.

Pictures are drawn for a light page. Where a picture stands inside the page, each of
its colours is a variable of the page's, which has another value on a dark one.
"""

from collections.abc import Sequence

INK, MUTED, GRID = "#1a1c1f", "#5f6670", "#dfe2e6"

_DARK = {INK: "#e9ebee", MUTED: "#a2a9b3", GRID: "#343a42"}
_HUES = (
    "#1769c5",
    "#d0342c",
    "#1d8a3b",
    "#8a4fc4",
    "#c96a00",
    "#0f8c8c",
    "#c2257f",
    "#7d5a3c",
    "#71820a",
    "#4551d8",
    "#e2574c",
    "#00695c",
    "#a0307a",
    "#a37c00",
    "#4a7a94",
)


def colours(labels: Sequence[str], baseline: str) -> dict[str, str]:
    """A colour for each label; they repeat where there are more than hues."""
    others = [label for label in labels if label != baseline]
    chosen = {label: _HUES[i % len(_HUES)] for i, label in enumerate(others)}
    return {label: chosen.get(label, INK) for label in labels}


def variables() -> tuple[str, str]:
    """The page's variables as CSS: for a light page, and for a dark one."""
    dark = _DARK | {hue: _lighter(hue) for hue in _HUES}
    light = " ".join(f"{name_of(colour)}: {colour};" for colour in dark)
    return light, " ".join(f"{name_of(a)}: {b};" for a, b in dark.items())


def name_of(colour: str) -> str:
    """The variable that stands for a colour."""
    return f"--c{colour.removeprefix('#')}"


def with_variables(svg: str) -> str:
    """A picture whose colours are those of the page that it stands in."""
    for colour in (*_DARK, *_HUES):
        svg = svg.replace(colour, f"var({name_of(colour)})")
    return svg


def _lighter(colour: str) -> str:
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(part + (255 - part) * 0.42):02x}" for part in parts)
