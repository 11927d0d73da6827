"""The ``[optimizer]`` section: from a name and numbers to a transformation."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax
from jax.core import Tracer

from optimx.partition import NOT_HIDDEN, by_path
from optimx.schedules import (
    half_life_warmup,
    horizon,
    linear_warmup,
    warmup_stable_decay,
)
from optimx.training import catalogue as registry
from optimx.training.errors import InputError, nearest
from optimx.training.network.layers import each_layer
from optimx.training.sections import Schedule
from optimx.training.settings import Setting
from optimx.wrappers.matrices import matrices_only

DEFAULT = "mars_adamw"
OFF = "off"
_NOT_IN_TOML = ("mask", "labels", "otherwise")  # functions, trees, transformations
_RAMPED = {"b3_warmup": "b3", "alpha_warmup": "alpha"}


@dataclasses.dataclass(frozen=True)
class Rule:
    """An optimizer of the registry with its numbers.

    Attributes:
      name: in the registry.
      learning_rate: the peak of the schedule, above 0.
      hyperparameters: keyword arguments of the factory; ``b3_warmup`` and
        ``alpha_warmup``, in steps, turn ``b3`` and ``alpha`` into the end of a
        ramp; ``"off"`` is none. ``state`` is that of :func:`registry.build`.
    """

    name: str
    learning_rate: float
    hyperparameters: Mapping[str, Any]

    @property
    def label(self) -> str:
        """The name, with its state's codec if it has one: ``adamw:int8``."""
        state = self.hyperparameters.get("state", "float32")
        return self.name if state == "float32" else f"{self.name}:{state}"


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The ``[optimizer]`` section, resolved.

    Attributes:
      rule: for the matrices, or for everything where ``others`` is None.
      others: ``[optimizer.others]``, for what is not a matrix.
      paths: patterns of parameters that count as others whatever their rank.
    """

    rule: Rule
    others: Rule | None = None
    paths: tuple[str, ...] = ()

    @property
    def rules(self) -> list[Rule]:
        """One or both."""
        return [self.rule] if self.others is None else [self.rule, self.others]

    @property
    def needs(self) -> tuple[str, ...]:
        """Keyword arguments that ``update`` needs besides the parameters."""
        needs = [need for rule in self.rules for need in registry.get(rule.name).needs]
        return tuple(dict.fromkeys(needs))


def resolve_optimizer(given: Mapping[str, Setting], steps: int) -> Optimizer:
    """Checks the section and fills it in from the recipes of the registry.

    Args:
      given: the section's settings, ``others.`` in front of those of
        ``[optimizer.others]``.
      steps: length of the run; ``b3 = "horizon"`` and a warmup of ``"run"`` follow
        from it.

    Raises:
      InputError: an unknown optimizer or key, a value that the factory refuses.
    """
    mine = {k: v for k, v in given.items() if not k.startswith("others.")}
    rest = {
        k.removeprefix("others."): v
        for k, v in given.items()
        if k.startswith("others.")
    }
    rule = _resolve_rule(mine, steps, "optimizer")
    if rest and "state" in mine:
        rest.setdefault("state", mine["state"])
    if not rest:
        return Optimizer(rule)
    paths = rest.pop("paths", Setting([], "default"))
    if not _is_list_of_text(paths.value):
        raise InputError(
            f"{paths.origin}: optimizer.others.paths = {paths.value!r}: "
            "must be a list of patterns"
        )
    others = _resolve_rule(rest, steps, "optimizer.others")
    return Optimizer(rule, others, tuple(paths.value))


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _resolve_rule(given: Mapping[str, Setting], steps: int, where: str) -> Rule:
    if "name" not in given:
        raise InputError(f"[{where}] must have a name")
    name, origin = given["name"]
    if name not in registry.names():
        hint = nearest(str(name), registry.names())
        raise InputError(f"{origin}: {where}.name = {name!r}: no such optimizer{hint}")
    known = {
        key: default
        for key, default in registry.hyperparameters(name).items()
        if key not in _NOT_IN_TOML
    }
    ramps = [key for key, end in _RAMPED.items() if end in known]
    keys = ["name", "learning_rate", "state", *known, *ramps]
    for key, setting in given.items():
        if key not in keys:
            raise InputError(
                f"{setting.origin}: [{where}] {name} has no {key}{nearest(key, keys)}"
            )
    recipe = {k: Setting(v, "recipe") for k, v in registry.get(name).recipe.items()}
    settings = recipe | {k: v for k, v in given.items() if k != "name"}
    fast = settings["b1"].value if "b1" in settings else known.get("b1", 0.0)
    numbers = {
        key: _number(f"{where}.{key}", setting, steps, fast)
        for key, setting in settings.items()
    }
    for key, value in numbers.items():
        if key in given and key in known:
            _require_kind(f"{given[key].origin}: {where}.{key}", value, known[key])
    rate = numbers.pop("learning_rate", None)
    if type(rate) not in (int, float) or not 0 < rate < float("inf"):
        raise InputError(f"{where}.learning_rate = {rate!r}: must be a number above 0")
    rule = Rule(
        name,
        float(rate),
        {k: _frozen(v) for k, v in (known | numbers).items() if v is not None},
    )
    _require_buildable(rule, given, where)
    return rule


def _frozen(value: Any) -> Any:
    """Lists of a file as tuples, so that what is read equals what was written."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _require_kind(what: str, value: Any, default: Any) -> None:
    """Numbers where the default is one, and a dtype where it names one."""
    numbers = (int, float)
    if what.endswith("dtype"):
        try:
            known = jnp.issubdtype(jnp.dtype(value), jnp.floating)
        except TypeError:
            known = False
        if not known:
            raise InputError(
                f"{what} = {value!r}: must be a floating-point dtype, such as bfloat16"
            )
    elif type(default) in numbers and type(value) not in numbers:
        raise InputError(f"{what} = {value!r}: must be a number")
    elif type(default) is bool and type(value) is not bool:
        raise InputError(f"{what} = {value!r}: must be true or false")


def _require_buildable(rule: Rule, given: Mapping[str, Setting], where: str) -> None:
    plain = {k: v for k, v in rule.hyperparameters.items() if k not in _RAMPED}
    try:
        # Without its ramps first: those would name their own arguments in an error.
        registry.build(rule.name, learning_rate=rule.learning_rate, **plain)
        transformation(rule, rule.learning_rate)
    except (ValueError, TypeError) as error:
        line = " ".join(str(error).split())
        named = (s.origin for k, s in given.items() if re.search(rf"\b{k}\b", line))
        origin = next(named, given["name"].origin)
        raise InputError(f"{origin}: [{where}] {line}") from error


def _number(name: str, setting: Setting, steps: int, fast: Any) -> Any:
    """What the setting means in a run of ``steps`` steps with b1 = ``fast``."""
    value, origin = setting
    key = name.rpartition(".")[2]
    if key == "b3" and value == "horizon":
        # In a very short run the horizon would be nearer than the fast memory's.
        return max(horizon(steps), fast) if isinstance(fast, float) else horizon(steps)
    if key in _RAMPED and value != OFF:
        length = steps if value == "run" else value
        if type(length) is not int or length < 1:
            raise InputError(
                f"{origin}: {name} = {value!r}: must be a number of steps, at least 1, "
                f'or "run" (the whole run) or "{OFF}"'
            )
        return length
    return value


def build_optimizer(
    optimizer: Optimizer, schedule: Schedule, steps: int, *, stacked: bool = False
) -> optax.GradientTransformationExtraArgs:
    """The transformation, its learning rates on the run's schedule.

    Args:
      optimizer: the resolved section.
      schedule: the resolved section.
      steps: length of the run.
      stacked: whether parameters below ``h/`` have an axis of layers in front; each
        layer is then a leaf of its own.
    """

    def scheduled(rule: Rule, **values: Any) -> optax.GradientTransformation:
        rate = learning_rate_schedule(schedule, rule.learning_rate, steps)
        return transformation(rule, rate, **values)

    rule = optimizer.rule
    if optimizer.others is None:
        tx = scheduled(rule)
    elif "otherwise" in registry.hyperparameters(rule.name):
        # A rule of matrices knows embeddings and heads by itself.
        labels = by_path((*NOT_HIDDEN, *optimizer.paths))
        tx = scheduled(rule, otherwise=scheduled(optimizer.others), labels=labels)
    else:
        labels = by_path(optimizer.paths)
        tx = matrices_only(
            scheduled(rule), otherwise=scheduled(optimizer.others), labels=labels
        )
    if stacked:
        matrices = "otherwise" in registry.hyperparameters(rule.name)
        return each_layer(tx, matrices=matrices)
    return optax.with_extra_args_support(tx)


def transformation(
    rule: Rule, learning_rate: optax.ScalarOrSchedule, **values: Any
) -> optax.GradientTransformation:
    """The rule as the registry builds it, its ramps made into schedules.

    ``values`` are hyperparameters that no file can hold, such as ``otherwise``.
    """
    hyper = dict(rule.hyperparameters) | values
    if (steps := hyper.pop("b3_warmup", OFF)) != OFF:
        hyper["b3"] = half_life_warmup(hyper.get("b1", 0.0), hyper["b3"], steps)
    if (steps := hyper.pop("alpha_warmup", OFF)) != OFF:
        hyper["alpha"] = linear_warmup(hyper["alpha"], steps)
    return registry.build(rule.name, learning_rate=learning_rate, **hyper)


def learning_rate_schedule(
    schedule: Schedule, peak: float, steps: int
) -> optax.Schedule:
    """The learning rate of a resolved ``[schedule]``; counts from 0."""
    if isinstance(peak, Tracer):
        # Optax's schedules look at their peak, and nobody can look at this one.
        shape = learning_rate_schedule(schedule, 1.0, steps)
        return lambda count: peak * shape(count)
    if schedule.kind == "cosine":
        return optax.warmup_cosine_decay_schedule(
            init_value=0.0 if schedule.warmup else peak,
            peak_value=peak,
            warmup_steps=schedule.warmup,
            decay_steps=steps,
            end_value=schedule.final * peak,
        )
    return warmup_stable_decay(
        peak,
        steps=steps,
        warmup=schedule.warmup,
        decay=schedule.decay,
        end=schedule.final * peak,
    )
