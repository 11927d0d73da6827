import math

from matplotlib.figure import Figure
from matplotlib.image import imread

from optimx.training.plot import plot_losses

LINES = [
    {"step": 1, "loss": 3.0},
    {"step": 2, "loss": 2.0},
    {"step": 3, "loss": None, "skipped": True},
    {"step": 2, "val_loss": 2.5},
    {"step": 4, "val_loss": 2.25},
]


def test_the_picture_shows_both_losses(tmp_path, monkeypatch):
    figures = []
    save = Figure.savefig

    def keep(self, *args, **kwargs):
        figures.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    plot_losses(LINES, "came, GPT-2 tiny", tmp_path / "loss.png")
    (axes,) = figures[0].axes
    assert axes.get_title() == "came, GPT-2 tiny"
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "step",
        "cross entropy (nats per token)",
    )
    curves = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    (step, gap) = curves["training"].pop()
    assert step == 3
    assert math.isnan(gap)
    assert curves == {
        "training": [[1.0, 3.0], [2.0, 2.0]],
        "validation, 2.250 at the end": [[2.0, 2.5], [4.0, 2.25]],
    }
    picture = imread(tmp_path / "loss.png")
    assert picture.shape[0] > 500
    assert picture.std() > 0


def test_what_was_monitored_has_panels(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: figures.append(self))
    values = {
        "update": 3,
        "update_rms": 0.2,
        "update_rms/wte": 0.1,
        "cosine": -0.5,
        "matrix/clip/shrunk": None,
        "rate/change": 1,
        "direction/age": 0.9,
    }
    lines = [*LINES, {"step": 4, "loss": 1.0, "monitor": values}]
    plot_losses(lines, "mars", tmp_path / "loss.png")
    losses, *below = figures[0].axes
    # Nothing has factors: there is no panel of their conditions.
    drawn = [
        {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
        for axes in below
    ]
    size, shares, age = drawn
    assert size == {"update_rms": [[3.0, 0.2]]}
    assert age == {"direction/age": [[3.0, 0.9]]}
    assert shares["cosine"] == [[3.0, -0.5]]
    assert math.isnan(shares["matrix/clip/shrunk"][0][1])
    assert set(shares) == {"cosine", "matrix/clip/shrunk"}
    assert below[0].get_yscale() == "log"
    assert losses.get_xlim() == below[-1].get_xlim()
