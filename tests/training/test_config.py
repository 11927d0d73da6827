from pathlib import Path

import pytest

from optimx.training.config import dump_config, load_config
from optimx.training.errors import InputError

CONFIGS = Path(__file__).parents[2] / "configs"
# Those of configs/compare are comparisons, which tests/bench/compare reads.
FILES = sorted(p for p in CONFIGS.rglob("*.toml") if p.parent.name != "compare")
NAMES = [f"{file.parent.name}/{file.name}" for file in FILES]


def test_there_are_configurations():
    assert "run/cpu_small.toml" in NAMES


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_every_configuration_resolves_and_survives_being_written(file, tmp_path):
    config = load_config(file)
    written = tmp_path / "config.toml"
    written.write_text(dump_config(config))
    assert load_config(written) == config


def test_lists_survive_being_written(tmp_path):
    triples = [[3.0, -3.2, 1.2], [1.875, -1.25, 0.375]]
    file, written = tmp_path / "mine.toml", tmp_path / "config.toml"
    file.write_text(f"[optimizer]\nname = 'muon'\ncoefficients = {triples}\n")
    config = load_config(file)
    written.write_text(dump_config(config))
    assert load_config(written) == config
    held = config.optimizer.rule.hyperparameters["coefficients"]
    assert held == tuple(map(tuple, triples))


def test_the_small_run_is_the_default():
    (file,) = (file for file in FILES if file.name == "cpu_small.toml")
    assert load_config(file) == load_config()


@pytest.mark.parametrize(
    ("name", "rate", "others", "final_rate", "tokens"),
    [
        ("adamw", 6e-4, None, 3e-5, 480 * 1024),
        ("mars", 6e-3, 3e-3, 3e-5, 480 * 1024),
        ("ademamix", 1e-3, None, 1e-5, 64 * 1024),
        ("came", 4e-4, None, 2e-5, 480 * 1024),
    ],
)
def test_gpt2_small_runs_are_the_published_recipes(
    name, rate, others, final_rate, tokens
):
    (file,) = (file for file in FILES if file.name == f"gpt2_small_{name}.toml")
    config = load_config(file)
    rule, rest = config.optimizer.rule, config.optimizer.others
    assert rule.learning_rate == rate
    assert (rest and rest.learning_rate) == others
    assert config.schedule.final * rate == pytest.approx(final_rate)
    assert config.tokens_per_step == tokens
    assert config.model.preset == "small"


def test_the_command_line_wins_over_the_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("[train]\nsteps = 5\nseed = 4")
    config = load_config(file, [("train.steps", "50"), ("optimizer.name", "came")])
    assert (config.train.steps, config.train.seed) == (50, 4)
    assert config.optimizer.rule.name == "came"


def test_paths_are_written_from_the_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(None, [("data.source", "text"), ("data.path", "here")])
    assert config.data.path == str(tmp_path / "here")
    assert config.data.tokenizer == ""


def test_an_unknown_section_of_the_command_line():
    with pytest.raises(InputError, match="did you mean optimizer"):
        load_config(None, [("optimiser.name", "came")])
