"""MARS: is its momentum a better estimate of the full gradient, and for which gamma?"""

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from optimx import registry
from optimx.bench.claims.errors import MODES, Errors, compare_with, jackknife
from optimx.bench.claims.progress import Progress
from optimx.bench.claims.replay import Averages, Replay
from optimx.bench.claims.request import Request, data_of
from optimx.bench.claims.trainee import Trainee, batches_of, make_loss
from optimx.partition import MATRIX
from optimx.training import catalogue
from optimx.training.config import Config
from optimx.training.data import Dataset
from optimx.training.errors import InputError

DEFAULT = ("adamw", "mars_adamw")
_FULL_SEED, _REPLAY_SEED = 100_000, 200_000  # after the run's own


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
      steps: of a run.
      checkpoints: where it is looked at, as shares of the run.
      window: updates that an average goes back, K.
      replays: independent sequences of batches, R.
      batches: of the full gradient, N.
    """

    steps: int
    window: int
    replays: int
    batches: int
    checkpoints: tuple[float, ...] = (0.25, 0.5, 1.0)

    @property
    def gradients(self) -> int:
        """That a checkpoint takes: two for each update of a replay."""
        return 2 * self.replays * self.window + self.batches


FULL = Size(steps=300, window=72, replays=4, batches=96)
QUICK = Size(steps=60, window=10, replays=3, batches=24)
GAMMAS = (0.0, 0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)


def variance(request: Request, progress: Progress) -> dict[str, Any]:
    """Measures, and returns numbers by name.

    Args:
      request: what to measure.
      progress: told what happens, in gradients.

    Raises:
      InputError: a run shorter than the averages go back.
    """
    size = QUICK if request.quick else FULL
    names = request.only or DEFAULT
    b1 = registry.hyperparameters("mars_adamw")["b1"]
    steps = request.config(names[0], size.steps).train.steps
    progress.expect(len(names) * (steps + len(size.checkpoints) * size.gradients))
    runs: list[dict[str, Any]] = []
    for name in names:
        config = request.config(name, size.steps)
        data = data_of(config)
        replay, rows = Replay(jax.grad(make_loss(config)), b1, progress.did), []
        for step, points in _stretches(config, data, size, progress):
            rows.append(_row(replay, config, data, size, step, points))
            progress.say(f"{name}, step {step}: {_said(rows[-1])}")
        runs.append({"optimizer": name, "checkpoints": rows})
    return {
        "size": dataclasses.asdict(size),
        "b1": b1,
        "gammas": list(GAMMAS),
        "mass_left_out": b1**size.window,
        "runs": runs,
        "conclusion": _conclusion(runs),
    }


def _stretches(
    config: Config, data: Dataset, size: Size, progress: Progress
) -> Iterator[tuple[int, list[Any]]]:
    """Each checkpoint's step and the parameters up to it, one update apart."""
    steps = config.train.steps
    wanted = [round(share * steps) for share in size.checkpoints]
    if wanted[0] < size.window:
        least = round(size.window / size.checkpoints[0])
        raise InputError(
            f"train.steps = {steps}: must be at least {least}, since averages at "
            f"{size.checkpoints[0]:.0%} of the run go back {size.window} updates"
        )
    trainee = Trainee(config)
    state = trainee.begin()
    recent: collections.deque = collections.deque(maxlen=size.window + 1)
    # In the host's memory, and copies: the next step writes over the state.
    recent.append(jax.tree.map(np.array, state.params))
    states = trainee.states(batches_of(config, data), state, range(steps))
    for step, (state, _) in enumerate(states, 1):
        recent.append(jax.tree.map(np.array, state.params))
        progress.did()
        if step in wanted:
            yield step, list(recent)


def _row(
    replay: Replay,
    config: Config,
    data: Dataset,
    size: Size,
    step: int,
    points: list[Any],
) -> dict[str, Any]:
    seed, first = config.train.seed, step - size.window

    def drawn(offset: int, indices: Sequence[int]) -> list[np.ndarray]:
        batches = batches_of(config, data, seed=seed + offset)
        return [batches(index) for index in indices]

    sequences = [
        drawn(_REPLAY_SEED + r, range(first, step + 1)) for r in range(size.replays)
    ]
    # The same batches at every checkpoint.
    full = replay.full_gradient(points[-1], drawn(_FULL_SEED, range(size.batches)))
    averages = replay.averages(points, sequences)
    labels = catalogue.labels(points[-1])
    matrices = [label == MATRIX for label in jax.tree.leaves(labels)]
    groups = {"all": [True] * len(matrices), "matrices": matrices}
    return {
        "step": step,
        **_clipping(averages, config.train.clip_norm),
        **{
            name: _numbers(compare_with(full, averages, leaves))
            for name, leaves in groups.items()
        },
    }


def _clipping(averages: Sequence[Averages], clip_norm: float) -> dict[str, float]:
    """Norms of single gradients: the averages are of gradients without any clip."""
    norms = np.stack([np.asarray(one.norms) for one in averages])
    above = float((norms > clip_norm).mean()) if clip_norm else 0.0
    return {"gradient_norm": float(norms.mean()), "share_clipped": above}


def _numbers(errors: Errors) -> dict[str, Any]:
    found: dict[str, Any] = {
        "full_gradient_norm": errors.full**0.5,
        "full_gradient_error": errors.full_error,
        "one_batch_variance": errors.one_batch / errors.full,
    }
    for mode in MODES:
        of_gammas = [errors.of(mode, gamma) for gamma in GAMMAS]
        gamma, spread = jackknife(errors, lambda of, mode=mode: of.best(mode)[0])
        found[mode] = {
            **{key: [one[key] for one in of_gammas] for key in of_gammas[0]},
            **_ratios(errors, mode, "variance"),
            **_ratios(errors, mode, "error"),
            "best_gamma": gamma,
            "best_gamma_standard_error": spread,
            "best_error": errors.best(mode)[1],
        }
    return found


def _ratios(errors: Errors, mode: str, key: str) -> dict[str, list[float]]:
    """For each gamma a number over that at 0, and its standard error."""
    pairs = [
        jackknife(errors, lambda of, g=g: of.of(mode, g)[key] / of.of(mode, 0.0)[key])
        for g in GAMMAS
    ]
    values, spreads = map(list, zip(*pairs, strict=True))
    return {f"{key}_ratio": values, f"{key}_ratio_standard_error": spreads}


def _ratio(row: dict[str, Any], mode: str, key: str, gamma: float) -> str:
    found, index = row["all"][mode], GAMMAS.index(gamma)
    value = found[f"{key}_ratio"][index]
    return f"{value:.3f} ± {found[f'{key}_ratio_standard_error'][index]:.3f}"


def _said(row: dict[str, Any]) -> str:
    parts = [
        f"{mode} {_ratio(row, mode, 'variance', 0.025)}, "
        f"{_ratio(row, mode, 'error', 0.025)}"
        for mode in MODES
    ]
    return "variance and error at gamma .025 over those at 0: " + "; ".join(parts)


def _conclusion(runs: Sequence[dict[str, Any]]) -> list[str]:
    sentences = []
    for run in runs:
        for row in run["checkpoints"]:
            for mode in MODES:
                one = row["all"][mode]
                least = one["best_error"] / one["error"][0]
                sentences.append(
                    f"Along {run['optimizer']}, step {row['step']}, {mode}: gamma .025 "
                    f"multiplies the variance of m by "
                    f"{_ratio(row, mode, 'variance', 0.025)} and its error by "
                    f"{_ratio(row, mode, 'error', 0.025)}; the least error, "
                    f"{least:.3f} of that without correction, is at gamma "
                    f"{one['best_gamma']:.3g} ± "
                    f"{one['best_gamma_standard_error']:.2g}."
                )
    return sentences
