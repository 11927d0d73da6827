"""From a dataset to arrays on the devices of a run."""

import jax
import numpy as np

from optimx.training.config import Config
from optimx.training.data import Dataset, training_batch, validation_batches
from optimx.training.parallel.mesh import batch_sharding
from optimx.training.parallel.processes import place


class Feed:
    """The batches of a run, each device's rows read by its own process only.

    Args:
      config: of the run.
      data: that it learns.
      mesh: of its devices.
    """

    def __init__(self, config: Config, data: Dataset, mesh: jax.sharding.Mesh):
        self._config, self._data = config, data
        self._sharding = batch_sharding(mesh)
        self._ahead = "stale_grads" in config.optimizer.needs

    def inputs(self, step: int) -> tuple[jax.Array, jax.Array | None]:
        """The step's batch, and the next one's where the optimizer looks ahead.

        Args:
          step: from 0.
        """
        return self._batch(step), self._batch(step + 1) if self._ahead else None

    def _batch(self, step: int) -> jax.Array:
        config = self._config

        def rows(index: tuple[slice, ...]) -> np.ndarray:
            return training_batch(
                self._data.train,
                seed=config.train.seed,
                step=step,
                shape=config.batch_shape,
                context=config.data.context,
                rows=index[1],
            )

        return self._place(rows, config.batch_shape)

    def validation(self) -> jax.Array:
        """The fixed evaluation set, (batches, batch size, context + 1)."""
        train, context = self._config.train, self._config.data.context
        shape = train.eval_batches, train.batch_size

        def rows(index: tuple[slice, ...]) -> np.ndarray:
            return validation_batches(
                self._data.validation,
                batches=train.eval_batches,
                batch_size=train.batch_size,
                context=context,
                rows=index[1],
            )

        return self._place(rows, shape)

    def _place(self, rows, shape: tuple[int, int]) -> jax.Array:
        whole = (*shape, self._config.data.context + 1)
        read: dict[tuple[int | None, int | None], np.ndarray] = {}

        def part(index: tuple[slice, ...]) -> np.ndarray:
            # Devices along ``tensor`` have the same rows: read once.
            key = index[1].start, index[1].stop
            if key not in read:
                read[key] = rows(index)
            return read[key]

        return place(part, whole, self._sharding)
