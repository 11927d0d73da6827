"""One training step, compiled as one program that updates its state in place."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optimx.training import model
from optimx.training.config import Config
from optimx.training.model import Params
from optimx.training.optimizer import learning_rate_schedule
from optimx.training.sections import Model
from optimx.training.state import TrainState
from optimx.transforms.gradient_difference import value_and_stale_grad

Metrics = dict[str, jax.Array]
TrainStep = Callable[..., tuple[TrainState, Metrics]]


def mean_loss(
    config: Model, params: Params, tokens_BxS: jax.Array, dtype: Any
) -> jax.Array:
    """Mean cross entropy, in nats per token, of sequences of S - 1 tokens.

    Args:
      config: a resolved ``[model]`` section.
      params: of the model.
      tokens_BxS: inputs and, one to the right, targets.
      dtype: of the model's arithmetic; the loss is float32.
    """
    logits_BxLxV = model.apply(config, params, tokens_BxS[:, :-1], dtype=dtype)
    return jnp.mean(
        optax.softmax_cross_entropy_with_integer_labels(logits_BxLxV, tokens_BxS[:, 1:])
    )


def make_train_step(config: Config, tx: optax.GradientTransformation) -> TrainStep:
    """The jitted step ``(state, tokens, upcoming) -> (state, metrics)``.

    ``tokens`` is the batch of the state's step, (accumulation, batch size,
    context + 1); ``upcoming`` is that of the step after where the optimizer needs
    stale gradients, else None. The state is donated. Metrics are ``loss``,
    ``grad_norm`` (before clipping) and ``learning_rate``.

    The gradient is clipped by its global norm before the optimizer sees it, as the
    authors of MARS do; the stale gradient, which stands for the gradient of another
    step, is clipped by its own.
    """
    dtype = jnp.dtype(config.train.precision)
    needs_stale = "stale_grads" in config.optimizer.needs
    clip_norm = config.train.clip_norm
    rate = learning_rate_schedule(
        config.schedule, config.optimizer.rule.learning_rate, config.train.steps
    )

    def loss_fn(params, tokens_BxS):
        return mean_loss(config.model, params, tokens_BxS, dtype)

    def step(state: TrainState, tokens, upcoming):
        if needs_stale:
            both = value_and_stale_grad(loss_fn)
            loss, grads, stale = _mean_over(both, state.params, tokens, upcoming)
            stale, _ = clip_by_global_norm(stale, clip_norm)
            extra = {"stale_grads": state.stale_grads}
        else:
            one = jax.value_and_grad(loss_fn)
            loss, grads = _mean_over(one, state.params, tokens)
            stale, extra = None, {}
        grads, grad_norm = clip_by_global_norm(grads, clip_norm)
        updates, optimizer = tx.update(grads, state.optimizer, state.params, **extra)
        metrics = {
            "loss": loss,
            "grad_norm": grad_norm,
            "learning_rate": jnp.asarray(rate(state.step), jnp.float32),
        }
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, optimizer, stale), metrics

    return jax.jit(step, donate_argnums=0)


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
