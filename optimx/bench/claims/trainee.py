"""A run that is taken a step at a time, and looked at between its steps."""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optimx.training.config import Config
from optimx.training.data import Dataset, training_batch
from optimx.training.network import model
from optimx.training.network.attention import resolve_attention
from optimx.training.network.model import Params
from optimx.training.optimizer import build_optimizer
from optimx.training.state import TrainState, init_state
from optimx.training.step import Metrics, make_train_step

Batches = Callable[[int], np.ndarray]


def batches_of(
    config: Config, data: Dataset, *, seed: int | None = None, held_out: bool = False
) -> Batches:
    """The batches of a run by their number from 0, (accumulation, batch size, S).

    Args:
      config: of the run.
      data: that it learns.
      seed: of another sequence of batches; the run's own if None.
      held_out: whether they are drawn from the held-out tokens.
    """
    return functools.partial(
        _batch,
        data.validation if held_out else data.train,
        config,
        config.train.seed if seed is None else seed,
    )


def _batch(tokens: Any, config: Config, seed: int, index: int) -> np.ndarray:
    return training_batch(
        tokens,
        seed=seed,
        step=index,
        shape=config.batch_shape,
        context=config.data.context,
    )


class Trainee:
    """The trainer's own step on one device.

    Args:
      config: of the run.
      tx: in place of the optimizer that the configuration names.
    """

    def __init__(self, config: Config, tx: optax.GradientTransformation | None = None):
        self.config = resolve_attention(config, jax.devices()[0].platform)
        self.tx = tx or build_optimizer(
            config.optimizer,
            config.schedule,
            config.train.steps,
            stacked=config.model.scan,
        )
        self._step = make_train_step(self.config, self.tx)
        self._ahead = "stale_grads" in config.optimizer.needs

    def begin(self) -> TrainState:
        """The state before the first step."""
        return init_state(self.config, self.tx)

    def states(
        self, batches: Batches, state: TrainState, indices: Iterable[int]
    ) -> Iterator[tuple[TrainState, Metrics]]:
        """The state after each step, until the next one writes over it.

        Args:
          batches: by the number of the step.
          state: to start from; donated.
          indices: of the steps, from 0.
        """
        for index in indices:
            upcoming = batches(index + 1) if self._ahead else None
            state, metrics = self._step(state, batches(index), upcoming)
            yield state, metrics


def copied(tree: Any) -> Any:
    """The same numbers in buffers of their own, which no step is given."""
    return jax.tree.map(jnp.copy, tree)


def make_loss(config: Config) -> Callable[[Params, np.ndarray], jax.Array]:
    """The mean loss of a batch (accumulation, batch size, S), in nats per token."""
    dtype = jnp.dtype(config.train.precision)
    config = resolve_attention(config, jax.devices()[0].platform)

    def loss(params, tokens_AxBxS):
        tokens_NxS = tokens_AxBxS.reshape(-1, tokens_AxBxS.shape[-1])
        return model.mean_loss(config.model, params, tokens_NxS, dtype)

    return loss
