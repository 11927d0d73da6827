"""Small optimizers under a monitor, for tests."""

import jax
import jax.numpy as jnp
import numpy as np

from optimx import monitor

SHAPES = {"up": (6, 8), "down": (8, 6), "bias": (8,)}


def draws(seed=0, scale=1.0, dtype=np.float32):
    generator = np.random.default_rng(seed)
    return {
        name: jnp.asarray(scale * generator.normal(size=shape), dtype)
        for name, shape in SHAPES.items()
    }


def measured(tx, steps=3, **extra):
    """The states and values after some updates, each measured."""
    tx = monitor.monitored(tx, every=1, needs=tuple(extra))
    params = draws(7)
    state, update = tx.init(params), jax.jit(tx.update)
    for t in range(steps):
        updates, state = update(draws(t), state, params, **extra)
    return updates, state, {k: float(v) for k, v in monitor.read(state).items()}
