"""CAME: how unsteady is Adafactor's update, and what does confidence change?"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax

from optimx.bench.claims.beside import beside
from optimx.bench.claims.progress import Progress
from optimx.bench.claims.request import Request, data_of
from optimx.bench.claims.steadiness import BEFORE, SPIKE, plain, summary
from optimx.bench.claims.trainee import Trainee, batches_of
from optimx.combine import stages
from optimx.optimizers.adamw import adamw
from optimx.optimizers.came import came
from optimx.training.config import Config
from optimx.training.data import Dataset
from optimx.training.errors import InputError
from optimx.training.optimizer import learning_rate_schedule
from optimx.transforms.factored import scale_by_factored_rms
from optimx.transforms.momentum import ema

ADAFACTOR = "came without confidence"
RULES = ("adamw", ADAFACTOR, "came")


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
      steps: of a run.
      seeds: runs of each rule at each rate.
      rates: learning rates, as multiples of each recipe's.
    """

    steps: int
    seeds: int = 2
    rates: tuple[float, ...] = (1.0, 4.0)


FULL = Size(steps=200)
QUICK = Size(steps=80)


def instability(request: Request, progress: Progress) -> dict[str, Any]:
    """Measures, and returns numbers by name.

    Args:
      request: what to measure.
      progress: told what happens, in steps.

    Raises:
      InputError: optimizers are named; here they are what is claimed about.
    """
    if request.only:
        raise InputError(
            f"--only {','.join(request.only)}: instability is about {', '.join(RULES)}"
        )
    size = QUICK if request.quick else FULL
    came = request.config("came", size.steps)
    data = data_of(came)
    count = len(size.rates) * len(RULES) * size.seeds
    progress.expect(count * came.train.steps)
    runs = []
    for times in size.rates:
        for name in RULES:
            recipe = request.config("adamw" if name == "adamw" else "came", size.steps)
            peak = recipe.optimizer.rule.learning_rate * times
            found = []
            for offset in range(size.seeds):
                seed = {"train.seed": came.train.seed + offset}
                config = request.config("came", size.steps, seed)
                found.append(follow(name, config, data, peak, progress.did))
                short = _short(found[-1]["summary"])
                progress.say(f"{name}, learning rate {peak:g}: {short}")
            runs.append(_together(times, found))
    return {
        "size": dataclasses.asdict(size),
        "spike": {"before": BEFORE, "standard_deviations": SPIKE},
        "hyperparameters": _without_decay(came.optimizer.rule.hyperparameters),
        "runs": runs,
        "conclusion": [_said(run) for run in runs],
    }


def without_confidence(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float,
    b2: float,
    eps: float,
    clip_threshold: float,
) -> optax.GradientTransformationExtraArgs:
    """CAME up to its momentum: Adafactor's factors and clip, and an average."""
    return stages(
        scale=scale_by_factored_rms(b2, eps=eps),
        clip=optax.clip_by_block_rms(clip_threshold),
        average=ema(b1, debias=False),
        rate=optax.scale_by_learning_rate(learning_rate),
    )


def rules(
    numbers: Mapping[str, Any], rate: optax.ScalarOrSchedule
) -> dict[str, optax.GradientTransformationExtraArgs]:
    """The three rules without weight decay: an update is a rate times a direction.

    Args:
      numbers: hyperparameters of CAME; AdamW is given its b1 and b2.
      rate: of all of them.
    """
    numbers = _without_decay(numbers)
    shared = ("b1", "b2", "eps", "clip_threshold")
    return {
        "adamw": adamw(rate, b1=numbers["b1"], b2=numbers["b2"], weight_decay=0.0),
        ADAFACTOR: without_confidence(rate, **{k: numbers[k] for k in shared}),
        "came": came(rate, **numbers),
    }


def _without_decay(numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in numbers.items() if k not in ("weight_decay", "state")}


def _together(times: float, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The runs of one rule at one rate; what is the same in all of them, once."""
    each = ("summary", "series")
    return {
        "times_recipe": times,
        **{key: value for key, value in found[0].items() if key not in each},
        **{key: [one[key] for one in found] for key in each},
    }


def follow(
    name: str,
    came: Config,
    data: Dataset,
    peak: float,
    did: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """One rule's run, the other two beside it.

    Args:
      name: one of ``RULES``.
      came: the configuration of CAME's run.
      data: that it learns.
      peak: of the learning rate.
      did: told how many steps were taken.
    """
    steps = came.train.steps
    rate = learning_rate_schedule(came.schedule, peak, steps)
    others = rules(came.optimizer.rule.hyperparameters, rate)
    tx = others.pop(name)
    trainee = Trainee(came, beside(tx, others))
    state = trainee.begin()
    shapes = jax.eval_shape(lambda: state.params)
    rows = []
    states = trainee.states(batches_of(came, data), state, range(steps))
    for step, (now, metrics) in enumerate(states):
        found = jax.device_get(now.optimizer.measures | {"loss": metrics["loss"]})
        rows.append({key: float(value) for key, value in found.items()})
        step_rate = float(rate(step))
        for key in ("rms", "largest"):
            # Of the direction; a rate of 0, as of the first step, tells nothing.
            rows[-1][key] = rows[-1][key] / step_rate if step_rate else 0.0
        did(1)
    series = {key: [row[key] for row in rows] for key in rows[0]}
    held = _bytes(jax.eval_shape(tx.init, shapes))
    return {
        "optimizer": name,
        "learning_rate": peak,
        "state_bytes": held,
        "state_bytes_per_parameter": 4 * held / _bytes(shapes),
        "summary": summary(series, came.schedule.warmup or 0),
        "series": {key: list(map(plain, values)) for key, values in series.items()},
    }


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _short(found: Mapping[str, Any]) -> str:
    loss = found["last_loss"]
    shown = "not finite" if loss is None else f"{loss:.3f}"
    return f"last loss {shown}, {found['spikes']:.0f} spikes"


def _said(run: Mapping[str, Any]) -> str:
    def over_seeds(key: str, of: Callable[[float], float] = float) -> str:
        found = [one[key] for one in run["summary"]]
        if None in found:
            return "not finite"
        low, *_, high = sorted(map(of, (min(found), max(found))))
        return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"

    def cosine(key: str) -> str:
        return over_seeds(key, lambda turn: 1 - turn)

    text = (
        f"{run['optimizer']}, learning rate {run['learning_rate']:g} "
        f"({run['times_recipe']:g} x recipe): direction of rms "
        f"{over_seeds('rms_median')} (at most {over_seeds('rms_max')}), its length "
        f"changing by {over_seeds('rms_change')} of itself a step; "
        f"{over_seeds('spikes')} spikes; last training loss {over_seeds('last_loss')}; "
        f"{run['state_bytes_per_parameter']:.2f} bytes of state for each parameter"
    )
    if run["optimizer"] != "adamw":
        text += (
            f"; {over_seeds('adamw/rms_median')} times as long as Adam's step on the "
            f"same gradients, at a cosine of {cosine('adamw/turn_median')}"
        )
    if run["optimizer"] == "came":
        text += (
            f"; confidence multiplies its length by "
            f"{over_seeds(f'{ADAFACTOR}/rms_median')} and turns it to a cosine of "
            f"{cosine(f'{ADAFACTOR}/turn_median')}"
        )
    return text + "."
