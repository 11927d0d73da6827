"""Notebooks as they are kept. The build of the site executes them."""

import ast
import importlib
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
NAMES = (
    "1_a_chain_by_hand",
    "2_three_papers",
    "3_crossings",
    "4_sharded_gpt2",
)
NEEDS = {"4_sharded_gpt2": "optimx.training.train"}

nbformat = pytest.importorskip("nbformat", reason="the core's other stacks lack it")
every_notebook = pytest.mark.parametrize("name", NAMES)


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=nbformat.NO_CONVERT)


def sources(name, kind="code"):
    return [cell.source for cell in read(name).cells if cell.cell_type == kind]


def test_these_are_all():
    assert {path.stem for path in FOLDER.iterdir() if path.is_file()} == set(NAMES)


@every_notebook
def test_is_valid_and_without_outputs(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.nbformat == 4
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@every_notebook
def test_begins_with_a_title_and_ends_with_an_exercise(name):
    texts = sources(name, "markdown")
    assert read(name).cells[0].source == texts[0]
    assert texts[0].startswith("# ")
    assert "## Exercise" in texts[-1]
    headings = re.findall(r"^# .+", "\n".join(texts), re.M)
    assert len(headings) == 1


@every_notebook
def test_links_lead_to_files(name):
    targets = re.findall(r"\]\(([^)#]+)", "\n".join(sources(name, "markdown")))
    assert targets
    assert [t for t in targets if not (FOLDER / t).exists()] == []


def used(name):
    """The dotted names below optimx that the cells use."""
    tree = ast.parse("\n".join(sources(name)))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("optimx"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            if re.fullmatch(r"optimx(\.\w+)+", text):
                yield text


def exists(dotted):
    """Whether a dotted name is a module, or something in one."""
    module, _, attribute = dotted.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError:
        return hasattr(importlib.import_module(module.rpartition(".")[0]), attribute)


@every_notebook
def test_uses_public_names_that_exist(name):
    names = set(used(name))
    assert len(names) >= 5
    assert sorted(n for n in names if not exists(n)) == []
    assert sorted(n for n in names if "._" in n) == []


def install_cell(name):
    return sources(name)[0]


@every_notebook
def test_the_install_cell_is_the_first(name):
    first, *rest = sources(name)
    needed = NEEDS.get(name, "optimx")
    assert f'import_module("{needed}")' in first
    assert first.replace(needed, "optimx") == install_cell(NAMES[0])
    assert not any("pip" in source for source in rest)


@pytest.fixture
def installing(monkeypatch):
    """Runs an install cell where optimx is missing: what would be installed."""
    commands = []

    def missing(name):
        raise ImportError(name)

    def run(folder, archive=""):
        monkeypatch.chdir(folder)
        cell = install_cell(NAMES[0]).replace('ARCHIVE = ""', f"ARCHIVE = {archive!r}")
        with monkeypatch.context() as patch:
            patch.setattr(importlib, "import_module", missing)
            patch.setattr(
                subprocess, "run", lambda words, check: commands.append(words)
            )
            patch.setattr(sys, "path", list(sys.path))
            exec(cell, {})
        (words,) = commands
        assert words[:5] == [sys.executable, "-m", "pip", "install", "-q"]
        return words[5:]

    return run


def test_where_optimx_is_there_nothing_is_installed(monkeypatch):
    monkeypatch.setattr(subprocess, "run", None)
    exec(install_cell(NAMES[0]), {})


def test_in_a_checkout_the_checkout_is_installed(installing):
    assert installing(FOLDER) == ["-e", f"{ROOT}[train]"]


def test_elsewhere_an_archive_is_installed(installing, tmp_path):
    (tmp_path / "optimx.zip").touch()
    url = (tmp_path / "optimx.zip").resolve().as_uri()
    assert installing(tmp_path, "optimx.zip") == [f"optimx[train] @ {url}"]


def test_an_archive_may_be_a_url(installing, tmp_path):
    url = "https://host.example/optimx.zip"
    assert installing(tmp_path, url) == [f"optimx[train] @ {url}"]


def test_without_either_the_reader_is_asked(installing, tmp_path):
    with pytest.raises(RuntimeError, match="set ARCHIVE"):
        installing(tmp_path)
