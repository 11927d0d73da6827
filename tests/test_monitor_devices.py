"""A monitor over eight devices measures what it does on one."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optimx
from optimx import monitor

SPECS = {"up": P("fsdp", "tensor"), "bias": P("fsdp")}


def draws(seed):
    generator = np.random.default_rng(seed)
    return {
        "up": generator.normal(size=(8, 8)).astype(np.float32),
        "bias": generator.normal(size=8).astype(np.float32),
    }


def run(tx, shardings=None):
    """Parameters as drawn, three updates, each measured."""
    params = jax.device_put(draws(0), shardings)
    promised = optimx.state_shardings(tx, params) if shardings else None
    state = jax.jit(tx.init, out_shardings=promised)(params)
    update = jax.jit(tx.update, out_shardings=(shardings, promised))
    for t in (1, 2, 3):
        _, state = update(jax.device_put(draws(t), shardings), state, params)
    return state


@pytest.mark.parametrize(
    ("build", "kind"),
    [
        (optimx.mars_adamw, AxisType.Explicit),
        (optimx.came, AxisType.Auto),
        (optimx.shampoo, AxisType.Explicit),
    ],
)
def test_values_are_those_of_one_device(build, kind):
    tx = monitor.monitored(build(0.1), every=1)
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(kind, kind))
    state = run(tx, {key: NamedSharding(mesh, spec) for key, spec in SPECS.items()})
    assert all(x.sharding.is_fully_replicated for x in state.values.values())
    alone, shared = monitor.read(run(tx)), monitor.read(state)
    assert set(alone) == set(shared)
    for name, value in alone.items():
        # Sums in another order; a condition goes with a power of a small eigenvalue.
        tolerance = 2e-3 if name.endswith("condition") else 1e-5
        assert float(shared[name]) == pytest.approx(
            float(value), rel=tolerance, abs=1e-6
        )
