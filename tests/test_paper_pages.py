"""A paper's page: what it must have, and that its sentence is the optimizer's."""

import ast
import inspect
import pathlib
import re

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimx
from tests import runs

ROOT = pathlib.Path(__file__).parents[1]
PAPERS = ROOT / "docs" / "papers"
STEPS = 6
HYPER = {"learning_rate": 0.1, "weight_decay": 0.2}

# The optimizers that a page has in code, in the order of its blocks.
SENTENCES = {
    "mars": ("mars_adamw", "mars_adamw_lean"),
    "ademamix": ("ademamix",),
    "came": ("came",),
    "mars_shampoo": ("mars_shampoo",),
    "mars_m": ("mars_m",),
    "muon": ("muon",),
    "shampoo": ("shampoo",),
    "soap": ("soap",),
}


def section(page, heading):
    parts = re.split(r"^## ", (PAPERS / f"{page}.md").read_text(), flags=re.M)
    (found,) = [part for part in parts if part.startswith(heading)]
    return found


def blocks(page):
    return re.findall(r"```python\n(.*?)```", section(page, "The sentence"), re.S)


class Spoken(ast.NodeTransformer):
    """Fills in what a sentence leaves open: `...`, and weights that depend on t."""

    def visit_Call(self, node):
        self.generic_visit(node)
        for keyword in node.keywords:
            if isinstance(keyword.value, ast.Constant) and keyword.value.value is ...:
                keyword.value = ast.Name(keyword.arg, ast.Load())
        return node

    def visit_Tuple(self, node):
        self.generic_visit(node)
        weight = node.elts[0]
        if any(isinstance(x, ast.Name) and x.id == "t" for x in ast.walk(weight)):
            spoken = f"lambda t: (lambda t: {ast.unparse(weight)})(real(t))"
            node.elts[0] = ast.parse(spoken).body[0].value
        return node


def spoken(sentence, **names):
    """The transformation that a sentence is, with the names that it speaks of."""
    # `...` behind keywords stands for more of them, those that have defaults.
    body = ast.parse(re.sub(r",\s*\.\.\.\)", ")", sentence)).body
    body[-1] = ast.Assign([ast.Name("spoken", ast.Store())], body[-1].value)
    module = ast.Module([Spoken().visit(line) for line in body], [])
    names |= {"optax": optax, "real": runs.real}
    names |= {name: getattr(optimx, name) for name in optimx.__all__}
    exec(compile(ast.fix_missing_locations(module), "<sentence>", "exec"), names)
    return names["spoken"]


def draw():
    random = np.random.default_rng(0)
    shapes = {"up": (6, 4), "down": (4, 9), "bias": (5,)}
    params = {k: random.normal(size=shape) for k, shape in shapes.items()}
    gradients = {k: random.normal(size=(STEPS, *s)) for k, s in shapes.items()}
    return params, gradients


@pytest.mark.parametrize(
    ("page", "block", "name"),
    [(p, i, n) for p, names in SENTENCES.items() for i, n in enumerate(names)],
    ids=[name for names in SENTENCES.values() for name in names],
)
def test_the_sentence_is_the_optimizer(page, block, name):
    optimizer = getattr(optimx, name)
    parameters = inspect.signature(optimizer).parameters
    defaults = {k: v.default for k, v in parameters.items()} | HYPER
    sentence = spoken(
        blocks(page)[block],
        decay=optax.add_decayed_weights(HYPER["weight_decay"]),
        rate=optax.scale_by_learning_rate(HYPER["learning_rate"]),
        **defaults,
    )
    with runs.double_precision():
        said = runs.trajectory(sentence, *draw(), jnp.float64)
        done = runs.trajectory(optimizer(**HYPER), *draw(), jnp.float64)
    for leaf, path in done.items():
        # The order of a few operations, over six steps in float64.
        np.testing.assert_allclose(said[leaf], path, rtol=1e-11, atol=1e-11)


def test_every_papers_page_has_a_sentence_that_is_run():
    pages = {page.stem for page in PAPERS.glob("*.md")}
    assert pages - set(SENTENCES) == {"index", "crossings"}  # a table has those
    for page, names in SENTENCES.items():
        assert len(blocks(page)) == len(names)


@pytest.mark.parametrize("page", SENTENCES)
def test_a_papers_page_has_equations_a_recipe_and_deviations(page):
    assert "$$" in section(page, "The method")
    recipe = section(page, "Use it")
    assert ">>> tx = optimx." in recipe
    configs = re.findall(r"`(configs/[\w/]+\.toml)`", recipe)
    assert configs
    assert all((ROOT / config).is_file() for config in configs)
    rows = [x for x in section(page, "Deviations").splitlines() if x.startswith("| ")]
    assert len(rows) > 2
    for row in rows[1:]:
        assert "`tests/" in row.split(" | ")[-1], row


def test_every_optimizer_stands_on_a_papers_page():
    text = "".join(page.read_text() for page in PAPERS.glob("*.md"))
    yardsticks = {"adamw", "lion"}
    missing = {
        name
        for name in optimx.registry.names()
        if name not in yardsticks and f"`{name}`" not in text
    }
    assert not missing
