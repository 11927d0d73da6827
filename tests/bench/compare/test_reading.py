import pathlib
import re

import pytest

from optimx.bench.compare.config import shown
from optimx.bench.compare.reading import read_comparison
from optimx.training.errors import InputError

ROOT = pathlib.Path(__file__).parents[3]
RUN = "[train]\nsteps = 100\n[schedule]\nwarmup = 10\n"
ADAMW = '[[compare.contender]]\noptimizer = {{ name = "adamw" }}\n'
HEAD = RUN + '[compare]\nbaseline = "adamw"\n'


def test_a_contender_is_its_settings_and_a_point_of_its_grid(write):
    text = HEAD + (
        '[[compare.contender]]\nlabel = "adamw"\n'
        'optimizer = {{ name = "adamw", b2 = 0.9, others = {{ name = "lion" }} }}\n'
        "[compare.contender.grid]\n"
        "learning_rate = [1e-3, 2e-3]\nweight_decay = [0.0, 0.1]\n"
        '"others.learning_rate" = [1e-4]\n'
    )
    comparison = read_comparison(write(text))
    (contender,) = comparison.contenders
    points = contender.points()
    assert len(points) == 4
    config = comparison.config(contender, points[3], seed=5, shorter=4)
    assert config.optimizer.rule.learning_rate == 2e-3
    assert config.optimizer.rule.hyperparameters["weight_decay"] == 0.1
    assert config.optimizer.rule.hyperparameters["b2"] == 0.9
    assert config.optimizer.others.name == "lion"
    assert config.optimizer.others.learning_rate == 1e-4
    assert config.train.seed == 5
    # A run of a quarter of the steps has a schedule of a quarter.
    assert (config.train.steps, config.schedule.warmup) == (25, 3)


def test_a_grid_of_lists(write):
    """A point names results, so what it holds has to be hashable."""
    text = HEAD + (
        '[[compare.contender]]\nlabel = "adamw"\n'
        'optimizer = {{ name = "mars_adamw", others = {{ name = "adamw" }} }}\n'
        "[compare.contender.grid]\n"
        '"others.paths" = [["wte/*"], ["wte/*", "wpe/*"]]\n'
    )
    comparison = read_comparison(write(text))
    (contender,) = comparison.contenders
    points = contender.points()
    assert len(dict.fromkeys(points)) == 2
    config = comparison.config(contender, points[1])
    assert config.optimizer.paths == ("wte/*", "wpe/*")
    ((_, value),) = points[1]
    assert shown(value) == "[wte/*, wpe/*]"


def test_optimizers_of_included_files_reach_nobody(write, tmp_path):
    (tmp_path / "run.toml").write_text(
        '[train]\nsteps = 7\n[optimizer]\nname = "adamw"\nb1 = 0.5\n'
    )
    text = 'include = ["run.toml"]\n[compare]\nbaseline = "adamw"\n' + ADAMW
    base = read_comparison(write(text), [("train.seed", "3")]).base
    assert (base.train.steps, base.train.seed) == (7, 3)
    assert base.optimizer.rule.hyperparameters["b1"] == 0.9


def test_optaxs_own_optimizers_are_contenders(write):
    text = HEAD + ADAMW
    for name in ("adamw", "lion", "contrib.ademamix", "contrib.muon"):
        text += f'[[compare.contender]]\noptimizer = {{{{ name = "optax.{name}" }}}}\n'
    labels = [c.label for c in read_comparison(write(text)).contenders]
    assert labels[-1] == "optax.contrib.muon"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RUN, r"has no section \[compare\]: nothing to compare"),
        (RUN + "[compare]\n", r"has no \[\[compare.contender\]\]"),
        (RUN + "[compare]\n" + ADAMW, "compare.baseline is missing: .* are adamw"),
        (
            RUN + '[compare]\nbaseline = "adam"\n' + ADAMW,
            "baseline = 'adam': no contender has that label; did you mean adamw",
        ),
        (HEAD + "sead = 1\n" + ADAMW, "has no key sead; did you mean seeds?"),
        (HEAD + "seeds = 0\n" + ADAMW, "compare.seeds = 0: must be at least 1"),
        (HEAD + "seeds = true\n" + ADAMW, "compare.seeds = True: must be an integer"),
        (HEAD + 'together = "yes"\n' + ADAMW, "must be one of auto, always, never"),
        (HEAD + ADAMW + ADAMW, "label = 'adamw': 2 contenders have it"),
        (HEAD + ADAMW + "grid = {{}}\n", r"contender 'adamw': grid = {}: is empty"),
        (
            HEAD + ADAMW + "grid = {{ learning_rate = [] }}\n",
            r"grid.learning_rate = \[\]: must be a list of one value or more",
        ),
        (
            HEAD + ADAMW + "grid = {{ learning_rate = [1e-3, 1e-3] }}\n",
            "has a value twice",
        ),
        (
            HEAD + ADAMW + "grid = {{ learning_rat = [1e-3] }}\n",
            "grid.learning_rat: .* adamw has no learning_rat; did you mean",
        ),
        (
            HEAD + ADAMW + 'against = "lion"\n',
            "contender 'adamw': against = 'lion': must be another contender's label",
        ),
        (HEAD + ADAMW + "grids = {{}}\n", "contender 1: has no key grids"),
        (HEAD + "[[compare.contender]]\n", "contender 1: optimizer = None: must"),
        (
            HEAD + ADAMW + 'grid = {{ name = ["lion"] }}\n',
            "grid.name: another optimizer is another contender",
        ),
        (HEAD + ADAMW + "[trian]\n", r"no section \[trian\]"),
    ],
)
def test_what_cannot_be_compared(write, text, message):
    with pytest.raises(InputError, match=message):
        read_comparison(write(text))


def test_the_command_line_changes_no_contender(write):
    with pytest.raises(InputError, match=r"--optimizer\.b1: contenders say that"):
        read_comparison(write(HEAD + ADAMW), [("optimizer.b1", "0.5")])


@pytest.mark.parametrize("path", sorted((ROOT / "configs/compare").glob("*.toml")))
def test_the_comparisons_that_come_along(path):
    comparison = read_comparison(path)
    assert comparison.baseline in [c.label for c in comparison.contenders]


def test_the_file_of_the_documentation(tmp_path):
    page = (ROOT / "docs/comparing.md").read_text()
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    path = tmp_path / "page.toml"
    path.write_text(text.replace("../model", str(ROOT / "configs/model")))
    comparison = read_comparison(path)
    assert [len(c.points()) for c in comparison.contenders] == [6, 3, 4]
    last = comparison.contenders[-1]
    config = comparison.config(last, last.points()[-1])
    assert config.optimizer.others.learning_rate == 3e-3
