"""What a run carries from step to step."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optimx.training.config import Config
from optimx.training.network import model
from optimx.training.network.model import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The whole state of training: restoring it continues the run exactly.

    Attributes:
      step: int32, batches seen so far; with the seed it determines the next one.
      params: float32 parameters.
      optimizer: the state of the transformation.
      skipped: int32, steps so far whose update was skipped, because loss or gradient
        was not finite.
      skipped_in_row: int32, how many of the last steps those are.
      stale_grads: gradient at the present parameters' predecessors on the coming
        batch, where the optimizer needs it (exact MARS), else None.
    """

    step: jax.Array
    params: Params
    optimizer: Any
    skipped: jax.Array
    skipped_in_row: jax.Array
    stale_grads: Params | None


def init_state(
    config: Config,
    tx: optax.GradientTransformation,
    shardings: TrainState | None = None,
    params: Params | None = None,
) -> TrainState:
    """The state before the first step.

    Args:
      config: of the run.
      tx: its optimizer.
      shardings: of every array; they are made where they belong. On one device if
        None.
      params: to start from, where they belong; drawn by the seed if None.
    """
    if params is None:
        where = shardings and shardings.params
        params = model.init(config.model, config.train.seed, where)
    stale = None
    if "stale_grads" in config.optimizer.needs:
        zeros = functools.partial(jax.tree.map, jnp.zeros_like)
        stale = jax.jit(zeros, out_shardings=shardings and shardings.stale_grads)(
            params
        )
    first = jax.jit(tx.init, out_shardings=shardings and shardings.optimizer)

    def zero(name: str) -> jax.Array:
        # Each a buffer of its own: the step is given all of them to write into.
        return jax.device_put(
            jnp.zeros([], jnp.int32), shardings and getattr(shardings, name)
        )

    return TrainState(
        step=zero("step"),
        params=params,
        optimizer=first(params),
        skipped=zero("skipped"),
        skipped_in_row=zero("skipped_in_row"),
        stale_grads=stale,
    )


@jax.jit
def all_finite(params: Params) -> jax.Array:
    """Whether no number is infinite or NaN."""
    return jnp.stack([jnp.isfinite(p).all() for p in jax.tree.leaves(params)]).all()


def abstract_state(config: Config, tx: optax.GradientTransformation) -> TrainState:
    """The state's shapes and dtypes: nothing is allocated."""
    return jax.eval_shape(lambda: init_state(config, tx))


def state_bytes(config: Config, tx: optax.GradientTransformation) -> int:
    """Bytes of the optimizer's state on all devices together, copies once."""
    leaves = jax.tree.leaves(abstract_state(config, tx).optimizer)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
