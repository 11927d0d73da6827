"""``optimx plan``, behind the command line: what to compile, and the table of it."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from optimx.training.config import Config, load_config
from optimx.training.errors import InputError
from optimx.training.files import require_writable
from optimx.training.parallel.mesh import AXES
from optimx.training.planning.plan import Plan, plan
from optimx.training.planning.topologies import devices_of

WIDTH = 125

_HEADINGS = (
    "\noptimizer",
    "\nmesh",
    "par.\nGB",
    "state\nGB",
    "temp\nGB",
    "total\nGB",
    "host\nGB",
    "of\nchip",
    "work\nTFLOP",
    "moved\nGB",
    "sent\nGB",
    "step\nms",
    "\ntokens/s",
    "opt.\nshare",
    "compile\ns",
)


def plans(
    path: Path,
    overrides: Sequence[tuple[str, str]],
    topology: str,
    optimizers: Sequence[str] = (),
    meshes: Sequence[str] = (),
) -> list[tuple[Config, str]]:
    """The configurations that were asked for, each checked before one is compiled.

    Args:
      path: of the run's file.
      overrides: dotted settings.
      topology: to compile for.
      optimizers: names, or ``NAME:STATE`` such as ``adamw:int8``, in place of the run's
        own.
      meshes: such as ``data=4,fsdp=4,offload=state``, in place of the run's own.

    Raises:
      InputError: a mesh that cannot be read, and what :func:`load_config` raises.
    """
    named = [read_optimizer(name) for name in optimizers] or [[]]
    placed = [read_mesh(mesh) for mesh in meshes] or [[]]
    return [
        (load_config(path, [*overrides, *name, *mesh]), topology)
        for name in named
        for mesh in placed
    ]


def read_optimizer(text: str) -> list[tuple[str, str]]:
    """The settings of ``adamw``, or of ``adamw:int8``."""
    name, _, state = text.partition(":")
    return [("optimizer.name", name), *([("optimizer.state", state)] if state else [])]


def read_mesh(text: str) -> list[tuple[str, str]]:
    """The settings of ``data=4,fsdp=4``; axes that it leaves out are 1.

    ``offload=state`` may be among them; left out, it is as the run has it.

    Raises:
      InputError: an axis that there is not, a size that is no number.
    """
    chosen = dict.fromkeys(AXES, "1")
    for part in text.split(","):
        key, _, value = part.strip().partition("=")
        if key != "offload" and (key not in AXES or not value.lstrip("-").isdigit()):
            raise InputError(
                f"--mesh {text!r}: must be AXIS=DEVICES[,...] with axes of "
                f"{', '.join(AXES)}, and offload=state or offload=none"
            )
        chosen[key] = value
    return [(f"mesh.{key}", value) for key, value in chosen.items()]


def show_plans(
    wanted: Sequence[tuple[Config, str]], out: Path | None, markdown: bool
) -> None:
    """Compiles one after the other and prints the table.

    Raises:
      InputError: a file that cannot be written, and what :func:`plan` raises.
    """
    if out is not None:
        require_writable("--out", out)
    for topology in {topology for _, topology in wanted}:
        devices_of(topology)
    errors = Console(stderr=True, highlight=False)
    found = []
    for config, topology in wanted:
        errors.print(f"compiling {config.optimizer.rule.label} for {topology}")
        found.append(plan(config, topology))
    if out is not None:
        about = {"jax": jax.__version__, "plans": list(map(as_dict, found))}
        out.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    if markdown:
        print(as_markdown(found), end="")
    else:
        _show(found, Console(highlight=False, width=WIDTH))


def as_dict(one: Plan) -> dict[str, Any]:
    """All of a plan, for JSON."""
    return dataclasses.asdict(one) | {"fits": one.fits}


def _title(one: Plan) -> str:
    chips = f"{one.mesh['data'] * one.mesh['fsdp'] * one.mesh['tensor']} devices"
    return f"{one.topology}, {chips}, {one.parameters / 1e6:,.1f}M parameters"


def as_markdown(found: Sequence[Plan]) -> str:
    """The table, as Markdown."""
    heads = [" ".join(h.split()) for h in _HEADINGS]
    rows = [
        f"{_title(found[0])}; sizes are of one device.\n",
        "| " + " | ".join(heads) + " |",
        "| --- | --- |" + " ---: |" * (len(heads) - 2),
        *("| " + " | ".join(_cells(one)) + " |" for one in found),
    ]
    return "\n".join(rows) + "\n"


def _show(found: Sequence[Plan], console: Console) -> None:
    table = Table(title=_title(found[0]), box=None, title_justify="left")
    for index, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="left" if index < 2 else "right")
    for one in found:
        table.add_row(*_cells(one))
    console.print(table)
    for one in found:
        if one.sent_bytes:
            console.print(f"{one.optimizer} sends: {_exchange(one)}", soft_wrap=True)
        if one.fits is False:
            console.print(f"{one.optimizer} does not fit on {one.topology}")


def _exchange(one: Plan) -> str:
    return ", ".join(
        f"{one.collectives[kind]} {kind} of {size / 1e9:.3f} GB together"
        for kind, size in sorted(one.sent_bytes.items())
    )


def _cells(one: Plan) -> list[str]:
    axes = [f"{axis}={n}" for axis, n in one.mesh.items() if n > 1] or ["one device"]
    if one.offload != "none":
        axes.append(f"offload={one.offload}")
    sizes = (
        one.parameter_bytes,
        one.state_bytes,
        one.temporary_bytes,
        one.total_bytes,
        one.host_bytes,
    )
    return [
        one.optimizer,
        ",".join(axes),
        *(f"{size / 1e9:.2f}" for size in sizes),
        "-"
        if one.memory_bytes is None
        else f"{one.total_bytes / one.memory_bytes:.0%}",
        f"{one.flops / 1e12:.2f}",
        f"{one.bytes_moved / 1e9:.1f}",
        f"{sum(one.sent_bytes.values()) / 1e9:.2f}",
        "-" if one.roofline is None else f"{one.roofline * 1e3:.1f}",
        "-" if one.tokens_per_second is None else f"{one.tokens_per_second:,.0f}",
        "-" if one.optimizer_share is None else f"{one.optimizer_share:.1%}",
        f"{one.seconds_to_compile:.1f}",
    ]
