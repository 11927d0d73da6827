"""A run's state on disk: saved in the background, verified, restored exactly."""

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from optimx.training.checkpoints.manifest import Manifests
from optimx.training.checkpoints.origin import leaves_of, require_leaves
from optimx.training.checkpoints.refit import as_saved, fitted
from optimx.training.errors import InputError, StorageError
from optimx.training.network.model import Params
from optimx.training.parallel.offload import copied
from optimx.training.state import TrainState

_PARAMS, _REST, _ABOUT = "params", "rest", "about"

# Orbax logs each error from each of its threads, with a traceback, before it raises it.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)


class Checkpoints:
    """The checkpoints of one run; a context manager that waits for the last save.

    Parameters stand apart from the rest of the state, so that a model can be read
    without its optimizer. Saving a step is three things in the background, in this
    order: Orbax commits it, its manifest is written, older steps are removed. So
    there is a step with a manifest at any time after the first save.

    Args:
      folder: made if it is absent and something is to be saved.
      keep: how many of the latest checkpoints stay; None: nothing is written.

    Raises:
      InputError: the folder is absent and nothing is to be saved.
    """

    def __init__(self, folder: Path, keep: int | None = None):
        self.folder = folder.absolute()
        self._keep = keep
        if keep is None and not folder.is_dir():
            raise InputError(f"{folder}: holds no checkpoint")
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                create=keep is not None,
                read_only=keep is None,
                # Of a save that was killed; but a reader must not disturb a writer.
                cleanup_tmp_directories=keep is not None,
            ),
            item_names=(_PARAMS, _REST, _ABOUT),
        )
        self._manifests = Manifests(self.folder)
        # Orbax's own callback comes before the commit, and its own removal of old
        # steps before a manifest could be written: hence a thread.
        self._sealer = ThreadPoolExecutor(1, thread_name_prefix="seal")
        self._sealing: Future | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc_info) -> None:
        with self._storage():
            try:
                self._settle()
            finally:
                self._sealer.shutdown()
                self._manager.close()

    def latest(self) -> int | None:
        """The step of the last checkpoint, sound or not, or None."""
        return self._manager.latest_step()

    def choose(self, say: Callable[[str], None]) -> int | None:
        """The last step that can be trusted; None if nothing was ever saved.

        A step without a manifest was committed by a process that died right after,
        or is what is left of one that was being removed. Nothing can be said of its
        files, and an older step leads to the same numbers: it counts only where no
        step has a manifest.

        Args:
          say: is told about each step that is passed over.

        Raises:
          InputError: there are checkpoints, all of them damaged.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        passed = []
        for step in filter(self._manifests.has, steps):
            damage = self._manifests.damage(step)
            if damage is None:
                return step
            passed.append(damage)
            say(f"The checkpoint of step {step} is damaged, it is not used: {damage}")
        bare = [step for step in steps if not self._manifests.has(step)]
        if bare:
            say(f"The checkpoint of step {bare[0]} has no manifest to verify it with")
            return bare[0]
        if passed:
            raise InputError(f"{self.folder}: every checkpoint is damaged: {passed[0]}")
        return None

    def save(
        self, step: int, state: TrainState, about: Mapping[str, Any] | None = None
    ) -> None:
        """Saves the state after ``step`` updates; does nothing if that is saved.

        Args:
          step: of the state.
          state: copied before this returns; the step may donate it right after.
          about: what else is to be known of the step, in types of JSON.

        Raises:
          StorageError: this state or the one before cannot be written.
        """
        with self._storage():
            self._settle()
            if step == self.latest():
                return
            known = {"leaves": leaves_of(state), **(about or {})}
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    **{
                        _PARAMS: ocp.args.StandardSave(state.params),
                        _REST: ocp.args.StandardSave(copied(_rest(state))),
                        _ABOUT: ocp.args.JsonSave(known),
                    }
                ),
            )
            self._sealing = self._sealer.submit(self._seal, step)

    def _seal(self, step: int) -> None:
        self._manager.wait_until_finished()
        if jax.process_index() == 0:
            self._manifests.write(step)
        self._remove(sorted(self._manager.all_steps())[: -self._keep])

    def _remove(self, steps: Iterable[int]) -> None:
        for step in steps:
            self._manager.delete(step)
        if jax.process_index() == 0:
            # All but these: a process may have died after a step, before its manifest.
            self._manifests.keep_only(self._manager.all_steps())

    def _settle(self) -> None:
        """Waits for the save before; its errors are raised here."""
        if self._sealing is not None:
            sealing, self._sealing = self._sealing, None
            sealing.result()

    @contextlib.contextmanager
    def _storage(self) -> Iterator[None]:
        # What fails below is a disk, a network or a quota, in the words and the
        # exceptions of several libraries.
        try:
            yield
        except Exception as error:
            raise StorageError(
                f"{self.folder}: a checkpoint cannot be written: {_reason(error)}"
            ) from error

    def about(self, step: int) -> dict[str, Any]:
        """What was said of a step when it was saved.

        Raises:
          InputError: it cannot be read.
        """
        item = {_ABOUT: ocp.args.JsonRestore()}
        return self._read(step, item)[_ABOUT]

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state after ``step`` updates; later checkpoints are removed.

        Those were passed over, and the run that goes on from here writes the same
        steps again, the same to the last bit.

        Args:
          step: of a checkpoint.
          like: the state's shapes and dtypes, and where its leaves shall be; on the
            first device where they do not say. The mesh need not be the one that
            the state was saved from.

        Raises:
          InputError: the checkpoint is of another model or optimizer.
        """
        saved = as_saved(like, self.about(step)["leaves"])
        self._require_leaves(step, saved)
        found = self._read(
            step,
            {
                _PARAMS: ocp.args.StandardRestore(_placed(saved.params)),
                _REST: ocp.args.StandardRestore(_placed(_rest(saved))),
            },
        )
        if self._keep is not None:
            self._remove([s for s in self._manager.all_steps() if s > step])
        return fitted(TrainState(params=found[_PARAMS], **found[_REST]), like)

    def restore_params(
        self, like: Params, say: Callable[[str], None] = lambda line: None
    ) -> Params:
        """The parameters of the last checkpoint that can be trusted.

        Raises:
          InputError: there is none, or it is of another model.
        """
        step = self.choose(say)
        if step is None:
            raise InputError(f"{self.folder}: holds no checkpoint")
        self._require_leaves(step, {_PARAMS: like}, only=f"{_PARAMS}/")
        item = {_PARAMS: ocp.args.StandardRestore(_placed(like))}
        return self._read(step, item)[_PARAMS]

    def _require_leaves(self, step: int, like: Any, only: str = "") -> None:
        saved = self.about(step)["leaves"]
        found = {name: form for name, form in saved.items() if name.startswith(only)}
        require_leaves(found, like, f"{self.folder / str(step)}: the checkpoint")

    def _read(self, step: int, items: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{self.folder / str(step)}: the checkpoint cannot be read: "
                f"{_reason(error)}"
            ) from error


def _reason(error: Exception) -> str:
    """What the system said, if it said something, else what the library says."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # TensorStore's words name every file on the way down to this number.
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _rest(state: TrainState) -> dict[str, Any]:
    names = ("step", "skipped", "skipped_in_row", "optimizer", "stale_grads")
    return {name: getattr(state, name) for name in names}


def _placed(tree):
    """Shapes with the place that their arrays shall have."""
    first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or first
        ),
        tree,
    )
