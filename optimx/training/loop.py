"""The loop: steps, evaluations, checkpoints."""

from collections.abc import Callable
from typing import Any

from optimx.training.config import Config
from optimx.training.interrupt import StopRequest
from optimx.training.network.model import Params
from optimx.training.parallel.processes import any_says
from optimx.training.recorder import Recorder
from optimx.training.state import TrainState
from optimx.training.step import TrainStep


def run_steps(
    config: Config,
    state: TrainState,
    done: int,
    *,
    step: TrainStep,
    inputs: Callable[[int], tuple[Any, Any]],
    evaluate: Callable[[Params], float],
    save: Callable[[int, TrainState], None],
    recorder: Recorder,
    stop: StopRequest,
) -> tuple[TrainState, int]:
    """The loop itself: to the end of the run, or to a request to stop.

    Args:
      config: of the run.
      state: to start from; it is donated to the step.
      done: updates that the state has seen.
      step: compiled, as :func:`make_train_step` makes it.
      inputs: the step's arguments after the state, by the number of the step from 0.
      evaluate: the validation loss of parameters.
      save: saves a state after so many updates.
      recorder: of metrics and validation losses.
      stop: looked at after every step.

    Returns:
      The last state, saved, and its number of updates.
    """
    train = config.train
    stopped = False
    while done < train.steps and not stopped:
        state, metrics = step(state, *inputs(done))
        # The metrics of the step before: the device never waits for a reader.
        recorder.flush()
        done += 1
        recorder.push(done, metrics)
        last = done == train.steps
        stopped = any_says(stop.received, done) or recorder.diverged is not None
        if last or done % train.eval_every == 0:
            recorder.flush()
            with recorder.paused():
                loss = evaluate(state.params)
            recorder.evaluated(done, loss)
        if last or stopped or done % config.checkpoint.every == 0:
            recorder.flush()
            with recorder.paused():
                save(done, state)
    return state, done
