"""``optimx bench claim`` as a person calls it."""

import json
import xml.etree.ElementTree

import pytest

from optimx import cli
from optimx.bench.claims import command, instability
from optimx.bench.claims.command import CLAIMS


def words(overrides):
    return [word for key, value in overrides for word in (f"--{key}", value)]


@pytest.fixture
def claim(overrides):
    def claim(name, *more):
        given = [str(word) for word in more]
        return cli.main(["bench", "claim", name, "--quick", *given, *words(overrides)])

    return claim


@pytest.fixture
def one_rate(monkeypatch):
    """Three runs of ``instability`` in place of twelve."""
    size = instability.Size(50, seeds=1, rates=(2.0,))
    monkeypatch.setattr(instability, "QUICK", size)


@pytest.mark.usefixtures("one_rate")
@pytest.mark.parametrize("name", CLAIMS)
def test_numbers_picture_and_sentences(claim, tmp_path, capsys, name):
    out, figure = tmp_path / "numbers.json", tmp_path / "picture.svg"
    status = claim(name, *ONLY[name], "--out", out, "--figure", figure)
    printed = capsys.readouterr()
    assert status == 0, printed.err
    found = json.loads(out.read_text())
    assert found["claim"] == name
    begun = " ".join([f"optimx bench claim {name} --quick", *ONLY[name], "--model."])
    assert found["command"].startswith(begun)
    assert found["steps"] == 50
    assert found["seed"] == 0
    assert found["versions"]["jax"]
    assert len(found["data_sha256"]) == 64
    assert printed.out.splitlines() == found["conclusion"]
    tree = xml.etree.ElementTree.parse(figure)
    text = " ".join(
        "".join(e.itertext()) for e in tree.iter() if e.tag.endswith("text")
    )
    assert "QUICK" in text
    for run in found["runs"]:
        assert run["optimizer"] in text
    CHECKS[name](found)


def check_variance(found):
    rows = [row for run in found["runs"] for row in run["checkpoints"]]
    assert [row["step"] for row in rows] == [12, 25, 50]
    for row in rows:
        for group in ("all", "matrices"):
            both = [row[group][mode] for mode in ("approximate", "exact")]
            # At gamma 0 there is no correction of either kind.
            assert both[0]["error"][0] == both[1]["error"][0]
            for one in both:
                assert len(one["variance"]) == len(found["gammas"])
                assert one["variance_ratio"][0] == 1
                assert one["variance_ratio_standard_error"][0] == 0
                assert min(one["error_ratio_standard_error"][1:]) > 0
                assert min(one["variance"]) > 0
                # Numbers have five digits here.
                assert one["best_error"] <= min(one["error"]) * (1 + 1e-4)


def check_forgetting(found):
    assert found["injected_at"] == 25
    for run in found["runs"]:
        assert len(run["gains"]) == len(run["by_seed"]) == 2
        assert run["ages"][:3] == [1, 2, 3]
        assert run["ages"][-1] == 25
        assert {len(gains) for gains in run["gains"]} == {len(run["ages"])}
        weights = run["weights"]["at_end"]
        assert len(weights["weights"]) == weights["step"] == 50
        # Numbers have five digits here.
        assert weights["sum"] == pytest.approx(sum(weights["weights"]), rel=1e-4)


def check_instability(found):
    adamw, without, came = found["runs"]
    sizes = [run["state_bytes_per_parameter"] for run in (adamw, without, came)]
    assert sizes[0] == pytest.approx(8, abs=0.01)
    assert 4 < sizes[1] < sizes[2] < 8
    for run in found["runs"]:
        (series,) = run["series"]
        assert {len(values) for values in series.values()} == {50}
        assert run["times_recipe"] == 2
    assert adamw["learning_rate"] == 3 * came["learning_rate"]
    # Seen from both sides, on other gradients: without confidence steps are shorter.
    assert came["summary"][0]["came without confidence/rms_median"] > 1
    assert without["summary"][0]["came/rms_median"] < 1


# One run of each tells as much of the machinery as several.
ONLY = {
    "variance": ("--only", "mars_adamw"),
    "forgetting": ("--only", "ademamix"),
    "instability": (),
}
CHECKS = {
    "variance": check_variance,
    "forgetting": check_forgetting,
    "instability": check_instability,
}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("varience", "no such claim; did you mean variance?"),
        ("variance --only adam", "--only adam: there is no such optimizer; did you"),
        ("instability --only lion", "--only lion: instability is about adamw, came w"),
        ("variance --figure a.gif", "--figure a.gif: must end in one of .svg, .png"),
        ("variance --out absent/a.json", "--out absent/a.json: cannot be written"),
        ("variance --optimizer.b1 0.5", "--optimizer.b1: the optimizers of a claim"),
        ("variance --train.steps 20", "train.steps = 20: must be at least 40"),
        ("forgetting --train.steps 3", "train.steps = 3: must be at least 4"),
        ("forgetting --train.steps 0", "train.steps = 0: must be"),
        ("variance --train.batch_size 0", "train.batch_size = 0: must be"),
        ("instability --train.steps 2", "schedule.warmup = 2: must be below"),
        ("forgetting --train.stepz 3", "has no key stepz; did you mean steps?"),
    ],
)
def test_one_line_and_status_2(claim, capsys, arguments, message, overrides):
    name, *more = arguments.split()
    chosen = ["bench", "claim", name, "--quick", *words(overrides), *more]
    assert cli.main(chosen) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_numbers_are_short_and_lists_are_lines():
    found = {"a": [1.23456789e-7, float("nan"), 3], "b": [{"c": (0.1, 2.0)}, "x [ y"]}
    text = command.as_json(found)
    expected = {"a": [1.2346e-07, None, 3], "b": [{"c": [0.1, 2.0]}, "x [ y"]}
    assert json.loads(text) == expected
    assert '"a": [ 1.2346e-07, null, 3 ]' in text


def test_an_interruption_is_told(claim, capsys, monkeypatch):
    def stop(request, progress):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "measured", stop)
    assert claim("variance") == 130
    assert "interrupted before the last number" in capsys.readouterr().err
