"""How a run goes on: from the last checkpoint that can be trusted, if it is its own."""

from collections.abc import Callable
from typing import Any

from optimx.training.checkpoints.checkpoint import Checkpoints
from optimx.training.checkpoints.origin import changed_keys, require_data
from optimx.training.config import Config, dump_config
from optimx.training.state import TrainState


def about(config: Config, data_sha256: str, seconds: float) -> dict[str, Any]:
    """What a checkpoint says of the run that made it.

    Args:
      config: of the run.
      data_sha256: fingerprint of its data.
      seconds: that it has taken.
    """
    return {
        "config": dump_config(config),
        "data_sha256": data_sha256,
        "seconds": seconds,
    }


def last_state(
    saved: Checkpoints,
    config: Config,
    data_sha256: str,
    like: TrainState,
    say: Callable[[str], None],
) -> tuple[int, TrainState, float] | None:
    """Step, state and seconds of the checkpoint to go on from; None: there is none.

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
    state = saved.restore(step, like)
    if changed := changed_keys(known["config"], dump_config(config)):
        say(
            "Not as an uninterrupted run would go on, because config.toml has other "
            f"values than the checkpoint of step {step}: {', '.join(changed)}"
        )
    return step, state, known["seconds"]
