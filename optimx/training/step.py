"""One training step, compiled as one program that updates its state in place."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from optimx import monitor
from optimx.training.config import Config
from optimx.training.network import model
from optimx.training.network.model import Params
from optimx.training.optimizer import learning_rate_schedule
from optimx.training.parallel.offload import fetch, stow, visiting
from optimx.training.state import TrainState
from optimx.transforms.gradient_difference import value_and_stale_grad

Metrics = dict[str, Any]
TrainStep = Callable[..., tuple[TrainState, Metrics]]


def make_train_step(
    config: Config,
    tx: optax.GradientTransformation,
    shardings: TrainState | None = None,
) -> TrainStep:
    """The jitted step ``(state, tokens, upcoming) -> (state, metrics)``.

    ``tokens`` is the batch of the state's step, (accumulation, batch size,
    context + 1); ``upcoming`` is that of the step after where the optimizer needs
    stale gradients, else None. The state is donated. Metrics are ``loss``,
    ``grad_norm`` (before clipping), ``learning_rate``, ``skipped``,
    ``skipped_in_row`` and, where the run is monitored, ``monitor``: what the optimizer
    measured last.

    The gradient is clipped by its global norm before the optimizer sees it, as the
    authors of MARS do; the stale gradient, which stands for the gradient of another
    step, is clipped by its own.

    Where loss or gradient is not finite the update is skipped: parameters and
    optimizer stay as they are, its step counts included, and the next step takes the
    next batch.

    Args:
      config: of the run.
      tx: its optimizer.
      shardings: of the state, in and out; metrics are then on every device of their
        mesh. What they place in the host's memory comes to the device for the update
        only. None on one device.
    """
    dtype = jnp.dtype(config.train.precision)
    needs_stale = "stale_grads" in config.optimizer.needs
    clip_norm = config.train.clip_norm
    rate = learning_rate_schedule(
        config.schedule, config.optimizer.rule.learning_rate, config.train.steps
    )

    if shardings is not None:
        tx = visiting(tx, shardings.optimizer)

    def loss_fn(params, tokens_BxS):
        return model.mean_loss(config.model, params, tokens_BxS, dtype)

    def step(state: TrainState, tokens, upcoming):
        if needs_stale:
            both = value_and_stale_grad(loss_fn)
            loss, grads, stale = _mean_over(both, state.params, tokens, upcoming)
            # After a skipped update this is the coming gradient itself: parameters
            # have not moved, and MARS corrects by nothing.
            stale, _ = clip_by_global_norm(stale, clip_norm)
            extra = {"stale_grads": state.stale_grads}
            if shardings is not None:
                stale = stow(stale, shardings.stale_grads)
                extra = fetch(extra, {"stale_grads": shardings.stale_grads})
        else:
            one = jax.value_and_grad(loss_fn)
            loss, grads = _mean_over(one, state.params, tokens)
            stale, extra = None, {}
        grads, grad_norm = clip_by_global_norm(grads, clip_norm)
        seen = (loss, grad_norm, *map(optax.tree.norm, extra.values()))
        finite = functools.reduce(jnp.logical_and, map(jnp.isfinite, seen))

        def update(before):
            params, optimizer = before
            updates, optimizer = tx.update(grads, optimizer, params, **extra)
            return optax.apply_updates(params, updates), optimizer

        before = state.params, state.optimizer
        params, optimizer = _apply_if(finite, update, before)
        skipped = state.skipped + jnp.where(finite, 0, 1)
        in_row = jnp.where(finite, 0, state.skipped_in_row + 1)
        metrics = {
            "loss": loss,
            "grad_norm": grad_norm,
            # The optimizer counts the updates that it made.
            "learning_rate": jnp.asarray(rate(state.step - state.skipped), jnp.float32),
            "skipped": skipped,
            "skipped_in_row": in_row,
        }
        if config.train.monitor:
            metrics["monitor"] = monitor.read(optimizer)
        return (
            TrainState(state.step + 1, params, optimizer, skipped, in_row, stale),
            metrics,
        )

    if shardings is None:
        return jax.jit(step, donate_argnums=0)
    everywhere = NamedSharding(shardings.step.mesh, PartitionSpec())
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, everywhere))


def _apply_if(condition: jax.Array, update: Callable[[Any], Any], state: Any) -> Any:
    """``update(state)`` where the condition holds, else ``state``.

    It is a loop of one turn or none, because XLA keeps what a loop carries in place:
    no copy and no time is added. A choice per element afterwards
    (``where(condition, new, old)``) needs the old state until the end, two to three
    trees of temporaries in AdEMAMix, and a conditional copies.
    """

    def turn(carry):
        again, state = carry
        return jnp.zeros_like(again), update(state)

    return jax.lax.while_loop(lambda carry: carry[0], turn, (condition, state))[1]


def _mean_over(function: Callable, params: Params, *batches_AxBxS: jax.Array) -> Any:
    """The mean of ``function(params, *batch)`` over the leading axis.

    Every batch holds the same number of tokens, so that the mean of means is the
    mean over tokens. The sum is kept in the dtype of the results: one buffer of the
    size of the gradient, and none if there is a single batch.
    """
    count = batches_AxBxS[0].shape[0]
    if count == 1:
        return function(params, *(batch[0] for batch in batches_AxBxS))

    def add(total, batches):
        part = function(params, *batches)
        return jax.tree.map(lambda t, p: t + p / count, total, part), None

    first = tuple(batch[0] for batch in batches_AxBxS)
    shapes = jax.eval_shape(function, params, *first)
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    total, _ = jax.lax.scan(add, zero, batches_AxBxS)
    return total


def clip_by_global_norm(grads: Params, max_norm: float) -> tuple[Params, jax.Array]:
    """The gradient with a norm of at most ``max_norm``, and the norm it had.

    Args:
      grads: a tree of arrays.
      max_norm: above 0; 0 leaves the gradient as it is.
    """
    norm = optax.tree.norm(grads)
    if max_norm == 0:
        return grads, norm
    scale = jnp.minimum(1.0, max_norm / norm)
    return jax.tree.map(lambda g: g * scale, grads), norm
