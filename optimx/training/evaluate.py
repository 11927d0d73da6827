"""The loss on held-out text: the same sequences every time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from optimx.training.config import Config
from optimx.training.model import Params
from optimx.training.step import mean_loss


def make_evaluate(
    config: Config, batches_NxBxS: np.ndarray
) -> Callable[[Params], float]:
    """A function of the parameters: mean loss, in nats per token, on the batches.

    Args:
      config: of the run.
      batches_NxBxS: the fixed evaluation set.
    """
    dtype = jnp.dtype(config.train.precision)
    batches = [jnp.asarray(batch) for batch in batches_NxBxS]

    @jax.jit
    def add_loss(total, params, tokens_BxS):
        return total + mean_loss(config.model, params, tokens_BxS, dtype)

    def evaluate(params: Params) -> float:
        total = jnp.zeros([], jnp.float32)
        for tokens_BxS in batches:
            total = add_loss(total, params, tokens_BxS)
        return float(total) / len(batches)

    return evaluate
