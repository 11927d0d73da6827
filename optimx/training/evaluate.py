"""The loss on held-out text: the same sequences every time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimx.training.config import Config
from optimx.training.network import model
from optimx.training.network.model import Params


def make_evaluate(
    config: Config, batches_NxBxS: jax.Array, *, several: bool = False
) -> Callable[[Params], Any]:
    """A function of the parameters: mean loss, in nats per token, on the batches.

    Args:
      config: of the run.
      batches_NxBxS: the fixed evaluation set.
      several: whether parameters have an axis of models in front; their losses are
        an array then.
    """
    dtype = jnp.dtype(config.train.precision)
    count = len(batches_NxBxS)

    def loss(params, batches_NxBxS, index):
        # Taken apart here: of an array of several processes none has the whole.
        return model.mean_loss(config.model, params, batches_NxBxS[index], dtype)

    of_batch = jax.jit(jax.vmap(loss, (0, None, None)) if several else loss)

    def evaluate(params: Params) -> Any:
        # All are under way before the first is waited for.
        losses = [of_batch(params, batches_NxBxS, index) for index in range(count)]
        mean = np.mean([np.asarray(one, np.float64) for one in losses], axis=0)
        return mean if several else float(mean)

    return evaluate
