"""The floors of the house: imports run downward only, and the core stays light."""

import ast
import graphlib
import json
import os
import pathlib
import statistics
import subprocess
import sys

import pytest

import optimx

ROOT = pathlib.Path(optimx.__file__).parent

# The types that signatures share lie under everything, under floor 0 too.
FLOORS = {
    "typing": -1,
    "_tree": 0,
    "_checks": 0,
    "_layout": 0,
    "_order": 0,
    "_probe": 0.5,
    "_measure": 0.7,
    "_recompute": 0.7,
    "linalg.decompositions": 0.8,
    "linalg": 1,
    "partition": 1,
    "stacks": 1,
    # Numbers in fewer bits, over the bits of linalg.
    "codecs": 1.5,
    "transforms": 2,
    "combine": 2,
    "wrappers": 2,
    # Codes know the states of the parts, and wrap whatever is made of them.
    "wrappers.kinds": 2.3,
    "wrappers.quantize": 2.6,
    "schedules": 2,
    "sharding": 2,
    "monitor": 2,
    "switching": 3,
    "switching.plan": 3.3,
    "switching.switch": 3.6,
    "optimizers": 3,
    # Rules for matrices take one of floor 3 for what is not a matrix.
    "optimizers.matrices": 3.5,
    "registry": 4,
    "training": 5,
    "bench": 6,
    "commands": 7,
    "cli": 8,
    "__main__": 8,
}

CORE = 4  # The highest floor that needs nothing but jax and optax.

CORE_NEEDS = {"jax", "optax", "numpy"} | sys.stdlib_module_names


def module_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def floor_of(module):
    """The floor of a module; the roof, which is the package itself, is above all."""
    _, _, rest = module.partition(".")
    if not rest:
        return max(FLOORS.values()) + 1
    while rest not in FLOORS:
        rest = rest.rpartition(".")[0]
    return FLOORS[rest]


def imports_of(path):
    """What a file imports, wherever in it, names resolved to modules of ours."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the floor"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in FILES else node.module


def ours(path):
    return {name for name in imports_of(path) if name.split(".")[0] == "optimx"}


ROOMS = [module for module in FILES if module != "optimx"]

UP_TO_CORE = [
    module for module in ROOMS if FLOORS.get(module.split(".")[1], CORE) <= CORE
]


@pytest.mark.parametrize("module", ROOMS)
def test_every_file_has_a_floor(module):
    assert module.split(".")[1] in FLOORS


@pytest.mark.parametrize("module", ROOMS)
def test_imports_run_downward(module):
    here = floor_of(module)
    for name in ours(FILES[module]):
        level = here > CORE and floor_of(name) == here
        assert floor_of(name) < here or level, f"{module} (floor {here}) uses {name}"


def test_above_the_core_neighbours_import_one_way():
    """The loop stands on the step, the step on the model; never back."""
    above = [module for module in ROOMS if floor_of(module) > CORE]
    assert above
    graph = {module: (ours(FILES[module]) & set(above)) - {module} for module in above}
    # Raises CycleError, whose text names the circle.
    list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", ["optimx", *UP_TO_CORE])
def test_the_core_needs_jax_and_optax_only(module):
    needed = {name.split(".")[0] for name in imports_of(FILES[module])}
    assert needed <= CORE_NEEDS | {"optimx"}


def test_the_package_shows_the_core_only():
    assert all(floor_of(name) <= CORE for name in ours(FILES["optimx"]))


@pytest.mark.parametrize(
    "module", [name for name in UP_TO_CORE if FILES[name].name == "__init__.py"]
)
def test_rooms_of_the_core_have_empty_doors(module):
    """Who wants a part imports its file: a door that imports would be a floor."""
    assert not set(imports_of(FILES[module]))


IMPORT = """
import json, sys, time
import optax
before = set(sys.modules)
start = time.process_time()
import optimx
seconds = time.process_time() - start
print(json.dumps([seconds, sorted(set(sys.modules) - before)]))
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """What `import optimx` adds to `import optax`: seconds, and modules, each time.

    Measured in one process after the other import, so that the noise is that of the
    difference and not of two long imports; seconds of work, not of waiting for a core.
    The first import compiles our source, which an installation does once.
    """
    environment = os.environ | {
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("bytecode")),
    }
    runs = []
    for _ in range(4):
        command = [sys.executable, "-c", IMPORT]
        done = subprocess.run(
            command,
            cwd=ROOT.parent,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        runs.append(json.loads(done.stdout))
    return runs[1:]


def test_importing_loads_nothing_that_optax_does_not(imported):
    for _, modules in imported:
        foreign = {name.split(".")[0] for name in modules} - {"optimx", "jax", "optax"}
        assert foreign <= sys.stdlib_module_names
        assert not {"optimx.training", "optimx.bench", "optimx.cli"} & set(modules)


def test_importing_takes_no_longer_than_optax(imported):
    """0.2 s more at most; the median, since one of three may be disturbed."""
    assert statistics.median(seconds for seconds, _ in imported) < 0.2
