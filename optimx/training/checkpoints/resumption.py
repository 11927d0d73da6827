"""How a run goes on: from the last checkpoint that can be trusted, if it is its own."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from optimx.training.checkpoints.checkpoint import Checkpoints
from optimx.training.checkpoints.origin import changed_keys, require_data
from optimx.training.checkpoints.switched import (
    config_before,
    require_steps_left,
    restore_switched,
)
from optimx.training.config import Config, dump_config
from optimx.training.errors import InputError
from optimx.training.state import TrainState

_ASKED = "checkpoint.switch_to"


class Found(NamedTuple):
    """A checkpoint to go on from.

    Attributes:
      step: its number of updates.
      state: after them.
      seconds: that they took.
      switched: the changes of optimizer so far, ``{"step", "from", "to"}`` each.
    """

    step: int
    state: TrainState
    seconds: float
    switched: tuple[dict[str, Any], ...]


def about(
    config: Config,
    data_sha256: str,
    seconds: float,
    switched: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """What a checkpoint says of the run that made it.

    Args:
      config: of the run.
      data_sha256: fingerprint of its data.
      seconds: that it has taken.
      switched: the changes of its optimizer.
    """
    return {
        "config": dump_config(config),
        "data_sha256": data_sha256,
        "seconds": seconds,
        "switched": list(switched),
    }


def last_state(
    saved: Checkpoints,
    config: Config,
    data_sha256: str,
    like: TrainState,
    say: Callable[[str], None],
) -> Found | None:
    """The checkpoint to go on from; None: there is none.

    Where the run has another optimizer than it because somebody switched, its state is
    switched: every time that one resumes from it, in the same way.

    Args:
      saved: the run's checkpoints.
      config: that the run goes on with. Where it is not the checkpoint's, what it
        changes is said; a person may have lowered a learning rate on purpose.
      data_sha256: fingerprint of the data that the run goes on with.
      like: the state's shapes, dtypes and places.
      say: is told what a person should know.

    Raises:
      InputError: a checkpoint of another model, optimizer or data, or only damaged
        ones.
    """
    step = saved.choose(say)
    if step is None:
        return None
    known = saved.about(step)
    where = f"{saved.folder / str(step)}: the checkpoint"
    require_data(known.get("data_sha256"), data_sha256, where)
    before = config_before(config, known["config"], where)
    switched = tuple(known.get("switched", ()))
    if before is None:
        with _offering_a_switch(saved, config, known["config"]):
            state = saved.restore(step, like)
    else:
        require_steps_left(config, step, where)
        state = restore_switched(saved, step, before, config, like, say)
        names = before.optimizer.rule.name, config.optimizer.rule.name
        switched += ({"step": step, "from": names[0], "to": names[1]},)
    changed = [
        key
        for key in changed_keys(known["config"], dump_config(config))
        if key != _ASKED and not (before and key.startswith("optimizer."))
    ]
    if changed:
        say(
            "Not as an uninterrupted run would go on, because config.toml has other "
            f"values than the checkpoint of step {step}: {', '.join(changed)}"
        )
    return Found(step, state, known["seconds"], switched)


@contextlib.contextmanager
def _offering_a_switch(saved: Checkpoints, config: Config, before: str) -> Iterator:
    """Says how to go on where config.toml has another optimizer than the checkpoint."""
    try:
        yield
    except InputError as error:
        changed = changed_keys(before, dump_config(config))
        if not any(key.startswith("optimizer.") for key in changed):
            raise
        raise InputError(
            f"{error}; the run's optimizer was changed in config.toml: to switch, "
            f"optimx resume {saved.folder.parent} --optimizer.name "
            f"{config.optimizer.rule.name}"
        ) from error
