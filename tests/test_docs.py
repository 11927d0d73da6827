"""The pages name what there is: public names, pages, measured numbers."""

import ast
import importlib
import inspect
import json
import pathlib
import re
import types

import pytest

import optimx
from optimx import registry
from tests import choosing

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"

# Modules whose public names are all to be documented, constants included.
MODULES = ("monitor", "registry", "schedules", "typing")

# Where classes live that users meet in states and results.
WITH_CLASSES = (
    "codecs.py",
    "combine.py",
    "switching/switch.py",
    "transforms/*.py",
    "wrappers/*.py",
)

# What iterates inside of optimizers of matrices, and numbers to give them.
NUMERICS = (
    "newton_schulz.polar",
    "newton_schulz.QUINTIC",
    "newton_schulz.POLAR_EXPRESS",
    "roots.inverse_root",
    "roots.inverse_root_newton",
)

_DIRECTIVE = re.compile(r"^\.\. (?:auto(?:function|class|data)|py:data):: (\S+)$", re.M)


def documented():
    pages = [page.read_text() for page in sorted((DOCS / "api").glob("*.md"))]
    return [name for page in pages for name in _DIRECTIVE.findall(page)]


def public_names():
    """Each public object: the paths that it may be documented under."""
    for name in optimx.__all__:
        if not isinstance(getattr(optimx, name), types.ModuleType):
            yield (f"optimx.{name}",)
    for name in NUMERICS:
        yield (f"optimx.linalg.{name}",)
    for short in MODULES:
        for name in _defined(ROOT / "optimx" / f"{short}.py"):
            yield _paths(f"optimx.{short}", name)
    for pattern in WITH_CLASSES:
        for file in sorted((ROOT / "optimx").glob(pattern)):
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            for name in _defined(file, ast.ClassDef):
                yield _paths(module.removesuffix(".__init__"), name)


def _defined(file, kinds=(ast.FunctionDef, ast.ClassDef, ast.Assign)):
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, kinds):
            name = node.targets[0].id if isinstance(node, ast.Assign) else node.name
            if not name.startswith("_"):
                yield name


def _paths(module, name):
    found = getattr(importlib.import_module(module), name)
    exported = getattr(optimx, name, None) is found
    return (f"{module}.{name}", *([f"optimx.{name}"] if exported else []))


def test_every_public_name_is_in_the_api_reference():
    listed = set(documented())
    missing = {paths[0] for paths in public_names() if not listed.intersection(paths)}
    assert not missing


def test_the_api_reference_has_nothing_else():
    known = {path for paths in public_names() for path in paths}
    assert set(documented()) <= known


def test_the_api_reference_has_each_name_once():
    names = documented()
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", sorted({p[-1] for p in public_names()}))
def test_what_the_api_reference_shows_has_a_docstring(name):
    module, _, attribute = name.rpartition(".")
    found = getattr(importlib.import_module(module), attribute)
    if inspect.isclass(found) or inspect.isfunction(found):
        assert inspect.getdoc(found)


def test_every_page_is_in_a_table_of_contents():
    listed = set()
    for page in DOCS.rglob("*.md"):
        for block in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.S):
            entries = [line for line in block.split() if not line.startswith(":")]
            for entry in entries:  # "a**" is "a" and the pages in a/, copied by builds
                found = page.parent.glob(entry.replace("**", "*") + ".md")
                listed |= {path.resolve() for path in found}
    pages = {page.resolve() for page in DOCS.rglob("*.md")}
    assert pages - listed == {(DOCS / "index.md").resolve()}


def test_the_pages_have_the_numbers_that_were_measured():
    for page, table in choosing.tables():
        text = (DOCS / page).read_text()
        assert table in text, f"python -m tests.choosing prints what belongs in {page}"


def test_the_decision_page_says_whether_the_comparison_was_run():
    said = "**has not been run yet**" in (DOCS / "choosing.md").read_text()
    assert said == (choosing.comparison() is None)


def test_the_table_of_the_readme_has_the_evidence():
    said = choosing.evidence()
    rows = re.findall(
        r"^\| `(\w+)` \|.*\| (.*) \|$", (ROOT / "README.md").read_text(), re.M
    )
    assert dict(rows) == {name: said.get(name, "-") for name in registry.names()}


def test_the_comparison_becomes_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(choosing, "RESULTS", tmp_path)
    assert choosing.comparison() is None
    row = {
        "label": "mars_adamw",
        "against": "adamw",
        "optimizer": {"learning_rate": 6e-3},
        "point": {"learning_rate": 6e-3},
        "losses": [4.5, 4.7],
        "mean": 4.6,
        "spread": 0.1,
        "loss_difference": {"value": -0.1, "low": -0.2, "high": 0.0},
        "token_ratio": {"value": 0.8, "low": 0.7, "high": None},
        "state_bytes": 24,
        "timing": None,
    }
    results = {"baseline": "adamw", "parameters": 2, "conclusion": ["One sentence."]}
    results["contenders"] = [row, {"label": "lion"}]
    (tmp_path / "cpu_1m.json").write_text(json.dumps(results))
    table = choosing.comparison()
    assert "| mars_adamw | learning_rate 0.006 | 4.6000 | 0.1000 | -0.1" in table
    assert "| lion | - | diverged |" in table
    assert table.endswith("\n\n- One sentence.")


def formulas():
    block = re.compile(r"\.\. math::((?:.*\n)(?:\s*\n|      +.*\n)*)")
    for file in sorted((ROOT / "optimx").rglob("*.py")):
        for found in block.findall(file.read_text()):
            yield str(file.relative_to(ROOT)), found
    for page in sorted(DOCS.rglob("*.md")):
        for found in re.findall(r"\$\$(.*?)\$\$", page.read_text(), re.S):
            yield str(page.relative_to(ROOT)), found


def test_formulas_can_be_set():
    """What sets them is a script in the reader's browser: no build sees it fail."""
    seen = list(formulas())
    assert len(seen) > 50
    for where, formula in seen:
        if "&" in formula:  # aligned, and so of several rows
            assert r"\\" in formula, (where, formula)
        bare = re.sub(r"\\[{}]", "", formula)
        assert bare.count("{") == bare.count("}"), (where, formula)
        left, right = (
            len(re.findall(rf"\\{side}(?![a-z])", formula))
            for side in ("left", "right")
        )
        assert left == right, (where, formula)
