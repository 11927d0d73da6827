import pytest

from optimx.training.errors import InputError
from optimx.training.settings import Setting, merge, read_file, read_overrides, section


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.toml").write_text(text)


def values(layer):
    return {key: setting.value for key, setting in layer.items()}


def test_a_file_wins_over_what_it_includes_and_a_later_include_over_an_earlier(
    tmp_path,
):
    write(
        tmp_path,
        first='[train]\nsteps = 1\nseed = 1\n[model]\npreset = "tiny"',
        second="[train]\nsteps = 2\nbatch_size = 2",
        run='include = ["first.toml", "second.toml"]\n[train]\nbatch_size = 3',
    )
    assert values(read_file(tmp_path / "run.toml")) == {
        "train.steps": 2,
        "train.seed": 1,
        "train.batch_size": 3,
        "model.preset": "tiny",
    }


def test_includes_are_found_from_the_folder_of_their_file(tmp_path):
    (tmp_path / "a").mkdir()
    write(tmp_path, base="[train]\nsteps = 5")
    write(tmp_path / "a", run='include = ["../base.toml"]')
    layer = read_file(tmp_path / "a" / "run.toml")
    assert layer["train.steps"] == Setting(5, str(tmp_path / "a" / ".." / "base.toml"))


def test_another_optimizer_drops_what_was_said_about_the_first():
    low = {
        "optimizer.name": Setting("mars_adamw", "file"),
        "optimizer.gamma": Setting(0.1, "file"),
        "optimizer.others.name": Setting("adamw", "file"),
        "train.steps": Setting(3, "file"),
    }
    same = {"optimizer.name": Setting("mars_adamw", "line")}
    other = {"optimizer.name": Setting("came", "line")}
    assert "optimizer.gamma" in merge([low, same])
    assert values(merge([low, other])) == {"optimizer.name": "came", "train.steps": 3}


def test_another_rule_for_the_others_keeps_their_paths():
    low = {
        "optimizer.name": Setting("came", "file"),
        "optimizer.others.name": Setting("adamw", "file"),
        "optimizer.others.eps": Setting(1e-6, "file"),
        "optimizer.others.paths": Setting(["wte/*"], "file"),
    }
    other = {"optimizer.others.name": Setting("lion", "line")}
    assert values(merge([low, other])) == {
        "optimizer.name": "came",
        "optimizer.others.name": "lion",
        "optimizer.others.paths": ["wte/*"],
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("1e-3", 1e-3),
        ("true", True),
        ("tiny", "tiny"),
        ('"tiny"', "tiny"),
        ("a b", "a b"),
        ('["x", "y"]', ["x", "y"]),
        ("1\nother = 2", "1\nother = 2"),
    ],
)
def test_an_override_is_toml_or_else_text(text, value):
    layer = read_overrides([("optimizer.others.paths", text)])
    assert layer == {"optimizer.others.paths": Setting(value, "command line")}


def test_section_strips_its_name():
    layer = read_overrides([("train.steps", "3"), ("model.width", "8")])
    assert section(layer, "train") == {"steps": Setting(3, "command line")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[trian]\nsteps = 1", r"no section \[trian\]; did you mean train\?"),
        ("steps = 1", r"no section \[steps\]"),
        ("train = 1", "train = 1: must be a section"),
        ("include = 3", "include = 3: must be a list of files"),
        ("[train\n", "is not TOML"),
        ('include = ["run.toml"]', "includes itself"),
        ('include = ["absent.toml"]', "absent.toml: cannot be read: No such file"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, text, message):
    write(tmp_path, run=text)
    with pytest.raises(InputError, match=message):
        read_file(tmp_path / "run.toml")


def test_an_override_of_an_unknown_section_offers_the_nearest():
    with pytest.raises(InputError, match=r"--trian\.steps: .* did you mean train\?"):
        read_overrides([("trian.steps", "3")])
