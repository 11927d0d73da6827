"""A run's state on disk: saved in the background, restored exactly."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from optimx.training.errors import InputError
from optimx.training.model import Params
from optimx.training.state import TrainState

_PARAMS, _REST, _CLOCK = "params", "rest", "clock"


class Checkpoints:
    """The checkpoints of one run; a context manager that waits for the last save.

    Parameters stand apart from the rest of the state, so that a model can be read
    without its optimizer.

    Args:
      folder: made if it is absent.
      keep: how many of the latest checkpoints stay.
    """

    def __init__(self, folder: Path, keep: int = 1):
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(max_to_keep=keep),
            item_names=(_PARAMS, _REST, _CLOCK),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc_info) -> None:
        self._manager.close()

    def latest(self) -> int | None:
        """The step of the last checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, seconds: float) -> None:
        """Saves the state after ``step`` updates; does nothing if that is saved.

        Args:
          step: of the state.
          state: copied before this returns; the step may donate it right after.
          seconds: that the run has taken.
        """
        if step == self.latest():
            return
        rest = {
            "step": state.step,
            "optimizer": state.optimizer,
            "stale_grads": state.stale_grads,
        }
        self._manager.save(
            step,
            args=ocp.args.Composite(
                **{
                    _PARAMS: ocp.args.StandardSave(state.params),
                    _REST: ocp.args.StandardSave(rest),
                    _CLOCK: ocp.args.JsonSave({"seconds": seconds}),
                }
            ),
        )

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, float]:
        """The state after ``step`` updates, and the seconds that it had taken.

        Args:
          step: of a checkpoint.
          like: the state's shapes and dtypes.
        """
        rest = {
            "step": like.step,
            "optimizer": like.optimizer,
            "stale_grads": like.stale_grads,
        }
        found = self._manager.restore(
            step,
            args=ocp.args.Composite(
                **{
                    _PARAMS: ocp.args.StandardRestore(_placed(like.params)),
                    _REST: ocp.args.StandardRestore(_placed(rest)),
                    _CLOCK: ocp.args.JsonRestore(),
                }
            ),
        )
        state = TrainState(params=found[_PARAMS], **found[_REST])
        return state, found[_CLOCK]["seconds"]

    def restore_params(self, like: Params) -> Params:
        """The parameters of the last checkpoint.

        Raises:
          InputError: there is no checkpoint.
        """
        step = self.latest()
        if step is None:
            raise InputError(f"{self._manager.directory}: holds no checkpoint")
        item = ocp.args.StandardRestore(_placed(like))
        return self._manager.restore(step, args=ocp.args.Composite(params=item)).params


def _placed(tree):
    """Shapes with the device that their arrays shall be on."""
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
    )
