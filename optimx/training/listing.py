"""What ``optimx list`` shows."""

import jax
from rich.console import Console
from rich.table import Table

from optimx import registry
from optimx.training.network import model
from optimx.training.optimizer import resolve_optimizer, transformation
from optimx.training.resolve import resolve_model
from optimx.training.sections import PRESETS, Model
from optimx.training.settings import Setting

_STEPS = 1000  # recipes that follow the length of a run need one


def state_bytes_per_parameter(
    name: str, params: model.Params, state: str = "float32"
) -> float:
    """Bytes of optimizer state for each parameter; nothing is allocated.

    Args:
      name: of a registered optimizer, built by its recipe.
      params: shapes and dtypes.
      state: how the state is kept, one of ``registry.STATES``.
    """
    given = {"name": Setting(name, "list"), "state": Setting(state, "list")}
    rule = resolve_optimizer(given, _STEPS).rule
    held = jax.eval_shape(transformation(rule, rule.learning_rate).init, params)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(held))
    return size / sum(leaf.size for leaf in jax.tree.leaves(params))


def show_list(console: Console | None = None) -> None:
    """Prints the optimizers and the presets, on standard output if nowhere else."""
    console = console or Console(highlight=False)
    small = model.parameter_shapes(resolve_model(Model(preset="small")))
    table = Table(title="Optimizers", title_justify="left", box=None, pad_edge=False)
    for heading, justify in (
        ("name", "left"),
        ("state bytes per parameter", "right"),
        ("int8", "right"),
        ("needs", "left"),
        ("what it is", "left"),
    ):
        table.add_column(heading, justify=justify)
    for name in registry.names():
        entry = registry.get(name)
        sizes = (
            f"{state_bytes_per_parameter(name, small, state):.2f}"
            for state in ("float32", "int8")
        )
        table.add_row(name, *sizes, ", ".join(entry.needs) or "-", entry.summary)
    console.print(table)
    table = Table(title="Presets", title_justify="left", box=None, pad_edge=False)
    table.add_column("name")
    for heading in ("layers", "heads", "width", "context", "vocab", "parameters"):
        table.add_column(heading, justify="right")
    for name, sizes in PRESETS.items():
        count = model.parameter_count(resolve_model(Model(preset=name)))
        table.add_row(name, *map(str, sizes.values()), f"{count:,}")
    console.print()
    console.print(table)
