"""The loss on held-out text: the same sequences every time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from optimx.training.config import Config
from optimx.training.network import model
from optimx.training.network.model import Params


def make_evaluate(
    config: Config, batches_NxBxS: jax.Array
) -> Callable[[Params], float]:
    """A function of the parameters: mean loss, in nats per token, on the batches.

    Args:
      config: of the run.
      batches_NxBxS: the fixed evaluation set.
    """
    dtype = jnp.dtype(config.train.precision)
    count = len(batches_NxBxS)

    @jax.jit
    def loss(params, batches_NxBxS, index):
        # Taken apart here: of an array of several processes none has the whole.
        return model.mean_loss(config.model, params, batches_NxBxS[index], dtype)

    def evaluate(params: Params) -> float:
        # All are under way before the first is waited for.
        losses = [loss(params, batches_NxBxS, index) for index in range(count)]
        return float(np.mean([float(one) for one in losses]))

    return evaluate
