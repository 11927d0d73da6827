"""What follows from other keys of a configuration, filled in and checked."""

import dataclasses

from optimx.training.errors import InputError
from optimx.training.sections import PRESETS, Data, Model, Schedule


def resolve_model(model: Model) -> Model:
    """Fills in the preset's sizes.

    Raises:
      InputError: heads that do not divide the width.
    """
    given = {k: v for k, v in dataclasses.asdict(model).items() if v is not None}
    model = Model(**(PRESETS[model.preset] | given))
    if model.width % model.heads:
        raise InputError(
            f"model.heads = {model.heads}: must divide model.width = {model.width}"
        )
    return model


def resolve_schedule(schedule: Schedule, steps: int) -> Schedule:
    """Fills in warmup and decay of a run of ``steps`` steps.

    Raises:
      InputError: a warmup (and decay) longer than the run.
    """
    warmup = steps // 10 if schedule.warmup is None else schedule.warmup
    if warmup >= steps:
        raise InputError(
            f"schedule.warmup = {warmup}: must be below train.steps = {steps}"
        )
    decay = None
    if schedule.kind == "warmup_stable_decay":
        decay = steps // 5 if schedule.decay is None else schedule.decay
        if warmup + decay > steps:
            raise InputError(
                f"schedule.decay = {decay}: with schedule.warmup = {warmup} it must "
                f"fit into train.steps = {steps}"
            )
    elif schedule.decay is not None:
        raise InputError(
            f"schedule.decay = {schedule.decay}: only warmup_stable_decay has a decay, "
            f"schedule.kind is {schedule.kind}"
        )
    return dataclasses.replace(schedule, warmup=warmup, decay=decay)


def resolve_data(data: Data, model: Model) -> Data:
    """Fills in the length of a training sequence.

    Raises:
      InputError: a sequence longer than the model's context, a source of files
        without a path, a key of another source.
    """
    context = model.context if data.context is None else data.context
    if context > model.context:
        raise InputError(
            f"data.context = {context}: must be at most the model's context, "
            f"{model.context} tokens"
        )
    kinds = {"text": "text", "bin": "token"}
    if data.source in kinds and not data.path:
        raise InputError(
            f'data.path = "": must name {kinds[data.source]} files when source is '
            f'"{data.source}"'
        )
    for key in ("validation_path", "dtype"):
        if data.source != "bin" and getattr(data, key):
            raise InputError(
                f"data.{key} = {getattr(data, key)!r}: only bin has it, data.source is "
                f"{data.source}"
            )
    return dataclasses.replace(data, context=context)
