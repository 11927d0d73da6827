"""What a run carries from step to step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optimx.training import model
from optimx.training.config import Config
from optimx.training.model import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The whole state of training: restoring it continues the run exactly.

    Attributes:
      step: int32, updates done so far; with the seed it determines the next batch.
      params: float32 parameters.
      optimizer: the state of the transformation.
      stale_grads: gradient at the present parameters' predecessors on the coming
        batch, where the optimizer needs it (exact MARS), else None.
    """

    step: jax.Array
    params: Params
    optimizer: Any
    stale_grads: Params | None


def init_state(config: Config, tx: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    params = model.init(config.model, config.train.seed)
    stale = None
    if "stale_grads" in config.optimizer.needs:
        stale = jax.tree.map(jnp.zeros_like, params)
    return TrainState(
        step=jnp.zeros([], jnp.int32),
        params=params,
        optimizer=jax.jit(tx.init)(params),
        stale_grads=stale,
    )


def abstract_state(config: Config, tx: optax.GradientTransformation) -> TrainState:
    """The state's shapes and dtypes: nothing is allocated."""
    return jax.eval_shape(lambda: init_state(config, tx))
