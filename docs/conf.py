"""How Sphinx builds these pages: ``python -m sphinx -W docs build/site``."""

import importlib.util
import pathlib
import re
import shutil
import sys

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "optimx"
author = copyright = "the optimx authors"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4  # links to sections read as they do on GitHub

# Notebooks are kept without outputs: each build runs them, and an error is its own.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_ipywidgets_js = {}  # pages need no network

napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
autodoc_typehints = "none"  # an argument's meaning is in its docstring
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 72
python_trailing_comma_in_multi_line_signatures = False
nitpicky = True  # a name that leads nowhere is a warning; theirs are not ours to find
nitpick_ignore_regex = [("py:.*", r"(fnmatch|jax|optax)(\..*)?")]
highlight_language = "none"  # blocks without a language are commands
highlight_options = {  # a blank line ends a doctest, not what is shown
    "python": {"stripnl": True},
    "pycon": {"stripnl": True},
}

# Copied are the statements of an example, without prompts and output.
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

# MathJax in one file, out of a package: formulas need no network and no fonts.
_package = importlib.util.find_spec("sphinx-mathjax-offline")
MATHJAX = f"{_package.submodule_search_locations[0]}/static/mathjax/tex-svg-full.js"
mathjax_path = "tex-svg-full.js"
mathjax3_config = {"tex": {"packages": {"[+]": ["textmacros"]}}}

html_theme = "furo"
html_title = "optimx"
html_static_path = ["_static", MATHJAX]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
exclude_patterns = ["_static", "results"]


def _from_any_module(app, env, node, content):
    """Links a docstring's short names: they are documented where users import them."""
    if node.get("refdomain") != "py":
        return None
    node["refspecific"] = True  # any path that ends in the name will do
    where, kind, name = node["refdoc"], node["reftype"], node["reftarget"]
    python = env.get_domain("py")
    return python.resolve_xref(env, where, app.builder, kind, name, node, content)


def _copy_notebooks(app, config):
    """Brings the checkout's notebooks among the pages, and their links along."""
    copies = pathlib.Path(app.srcdir) / "notebooks"
    shutil.rmtree(copies, ignore_errors=True)
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        copies.mkdir(exist_ok=True)
        text = notebook.read_text(encoding="utf-8").replace("](../docs/", "](../")
        (copies / notebook.name).write_text(text, encoding="utf-8")


def _break_names(app, pagename, templatename, context, doctree):
    """Lets paths, and names of tests behind them, break where their words end."""
    code = re.compile(r'(?<=<span class="pre">)[^<]*/[^<]*(?=</span>)')
    context["body"] = code.sub(
        lambda name: re.sub(r"(::|[/_](?=\w))", r"\1<wbr>", name[0]),
        context.get("body", ""),
    )


def setup(app):
    """Extends Sphinx for these pages."""
    app.connect("config-inited", _copy_notebooks)
    app.connect("html-page-context", _break_names)
    app.connect("missing-reference", _from_any_module)
