"""A run that goes on with another optimizer than its checkpoint's."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optimx.switching.switch import switch
from optimx.training.checkpoints.checkpoint import Checkpoints
from optimx.training.config import Config, parse_config
from optimx.training.errors import InputError
from optimx.training.monitoring import optimizer_of
from optimx.training.network.model import Params
from optimx.training.parallel.layout import placed, state_sharding
from optimx.training.state import TrainState, abstract_state


def config_before(config: Config, saved: str, where: str) -> Config | None:
    """The run's configuration with the optimizer of a checkpoint, if that is switched.

    A run is switched where ``checkpoint.switch_to`` names its optimizer. Whoever
    changes the optimizer in config.toml alone has not asked for that: None.

    Args:
      config: that the run goes on with.
      saved: that of the checkpoint, as text.
      where: names the checkpoint in errors.
    """
    if config.checkpoint.switch_to != config.optimizer.rule.name:
        return None
    before = parse_config(saved, where).optimizer
    if before == config.optimizer:
        return None
    return dataclasses.replace(config, optimizer=before)


def require_steps_left(config: Config, step: int, where: str) -> None:
    """Raises InputError if no step is left to another optimizer."""
    if step >= config.train.steps:
        raise InputError(
            f"{where} has taken all of the run's {config.train.steps} steps; none is "
            f"left to {config.optimizer.rule.name}"
        )


def restore_switched(
    saved: Checkpoints,
    step: int,
    before: Config,
    config: Config,
    like: TrainState,
    say: Callable[[str], None],
) -> TrainState:
    """The state after ``step`` updates, its optimizer switched.

    Args:
      saved: the run's checkpoints.
      step: of one of them.
      before: as :func:`config_before` gives it.
      config: that the run goes on with.
      like: the shapes, dtypes and places of its state, on a mesh.
      say: is told what was carried, reset and dropped.

    Raises:
      InputError: the checkpoint is not what its configuration says.
    """
    from_tx, to_tx = optimizer_of(before), optimizer_of(config)
    places = state_sharding(before, from_tx, like.step.sharding.mesh)
    state = saved.restore(step, placed(abstract_state(before, from_tx), places))

    def move(optimizer: Any, params: Params) -> Any:
        return switch(optimizer, from_tx, to_tx, params)

    report = jax.eval_shape(move, state.optimizer, state.params).report
    names = before.optimizer.rule.name, config.optimizer.rule.name
    say(f"Step {step}: from {names[0]} to {names[1]}")
    for line in report.lines:
        say(f"  {line}")
    with warnings.catch_warnings():
        # What is dropped is given away too, and used by nobody.
        warnings.filterwarnings("ignore", "Some donated buffers were not usable")
        optimizer = jax.jit(
            lambda *old: move(*old).state,
            out_shardings=_places(like.optimizer),
            donate_argnums=0,
        )(state.optimizer, state.params)
    stale = state.stale_grads
    if like.stale_grads is None:
        stale = None
    elif stale is None:
        # As before the first step of a run.
        zeros = jax.jit(
            lambda params: jax.tree.map(jnp.zeros_like, params),
            out_shardings=_places(like.stale_grads),
        )
        stale = zeros(state.params)
    return dataclasses.replace(state, optimizer=optimizer, stale_grads=stale)


def _places(like: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, like)
