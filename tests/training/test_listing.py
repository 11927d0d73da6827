import io

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

import optimx
from optimx.training.listing import show_list, state_bytes_per_parameter

PARAMS = {"w": jax.ShapeDtypeStruct((64, 32), jnp.float32)}


@pytest.mark.parametrize(
    ("name", "buffers"), [("lion", 1), ("adamw", 2), ("mars_adamw", 3), ("ademamix", 3)]
)
def test_state_is_counted_in_bytes_of_float32(name, buffers):
    counted = state_bytes_per_parameter(name, PARAMS)
    # Step counters weigh a few bytes among 2048 parameters.
    assert 4 * buffers <= counted < 4 * buffers + 0.05


def test_every_optimizer_and_preset_is_listed():
    console = Console(file=io.StringIO(), width=160)
    show_list(console)
    text = console.file.getvalue()
    for name in optimx.registry.names():
        entry = optimx.registry.get(name)
        (line,) = [row for row in text.splitlines() if row.split()[:1] == [name]]
        assert line.rstrip().endswith(entry.summary)
        assert all(need in line for need in entry.needs)
    for count in ("937,472", "124,439,808", "354,823,168"):
        assert count in text
