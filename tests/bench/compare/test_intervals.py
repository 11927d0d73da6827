"""The picture of differences: who stands where, and what is shown of it."""

import pytest

from optimx.bench.compare.intervals import draw_intervals


def row(label, value, low=None, high=None, tokens=0.8, against="adamw"):
    return {
        "label": label,
        "against": against,
        "loss_difference": {"value": value, "low": low, "high": high},
        "token_ratio": {"value": tokens, "low": tokens, "high": None},
    }


def drawn(*rows):
    contenders = [{"label": "adamw", "against": "adamw"}, *rows]
    figure = draw_intervals({"contenders": contenders, "baseline": "adamw"})
    (axes,) = figure.axes
    return axes


def dots(axes):
    return [line for line in axes.lines if line.get_marker() in ("o", ">")]


def labels(axes):
    return [text.get_text() for text in axes.texts if text.get_ha() == "right"]


def test_the_lowest_is_at_the_top():
    axes = drawn(row("b", 0.1, 0.05, 0.2), row("a", -0.1, -0.2, -0.05))
    assert labels(axes) == ["a", "b"]
    assert [line.get_ydata()[0] for line in dots(axes)] == [0, 1]
    assert [line.get_xdata()[0] for line in dots(axes)] == [-0.1, 0.1]
    bottom, top = axes.get_ylim()
    assert bottom > top


@pytest.mark.parametrize(
    ("low", "high", "full"),
    [(-0.2, -0.05, True), (0.01, 0.2, True), (-0.1, 0.1, False), (None, None, False)],
)
def test_a_full_dot_is_a_difference_that_was_shown(low, high, full):
    axes = drawn(row("a", -0.1, low, high))
    (dot,) = dots(axes)
    assert (dot.get_markerfacecolor() != "none") == full
    intervals = [line for line in axes.lines if len(set(line.get_xdata())) == 2]
    assert [list(line.get_xdata()) for line in intervals] == (
        [] if low is None else [[low, high]]
    )


def test_what_is_far_worse_is_an_arrow():
    near = [row(f"a{k}", -0.1 * k, -0.1 * k - 0.05, 0.05) for k in (1, 2)]
    axes = drawn(*near, row("bad", 5.0, 4.9, 5.1, tokens=None))
    *_, arrow = dots(axes)
    assert arrow.get_marker() == ">"
    assert arrow.get_xdata()[0] == axes.get_xlim()[1] < 1
    assert ">1" in [text.get_text() for text in axes.texts]


@pytest.mark.parametrize("values", [(0.05, 0.06, 0.07, 0.5), (0.5, 0.6, 5.0)])
def test_the_baseline_is_in_the_picture(values):
    """Also where all are worse, and one is far worse."""
    axes = drawn(*(row(f"{v}", v, v - 0.02, v + 0.02) for v in values))
    low, high = axes.get_xlim()
    assert low < 0 < high < max(values)


def test_whoever_else_it_is_held_against_is_named():
    axes = drawn(row("MARS", -0.1, -0.2, -0.05, against="gamma 0"))
    assert labels(axes) == ["MARS less\ngamma 0"]


def test_a_baseline_alone_has_no_picture():
    found = {"contenders": [{"label": "adamw"}], "baseline": "adamw"}
    assert draw_intervals(found) is None
