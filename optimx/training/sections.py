"""The sections of a run's configuration, with the range of every key.

A section is a frozen dataclass. Keys that follow from other keys (a preset's
width, the warmup of a run of so many steps) are ``None`` until
:func:`resolve_model` and :func:`resolve_schedule` fill them in.
"""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Any

from optimx.training.errors import InputError, nearest
from optimx.training.settings import Setting

_SIZES = ("layers", "heads", "width", "context", "vocab")
PRESETS: dict[str, dict[str, int]] = {
    name: dict(zip(_SIZES, sizes, strict=True))
    for name, sizes in {
        "tiny": (2, 4, 128, 128, 4096),
        "small": (12, 12, 768, 1024, 50257),
        "medium": (24, 16, 1024, 1024, 50257),
        "large": (36, 20, 1280, 1024, 50257),
        "xl": (48, 25, 1600, 1024, 50257),
    }.items()
}


@dataclasses.dataclass(frozen=True)
class Allowed:
    """What a key may hold: the words an error uses, and the test they stand for."""

    words: str
    holds: Callable[[Any], bool]


def _key(default: Any, allowed: Allowed, meaning: str) -> Any:
    metadata = {"allowed": allowed, "meaning": meaning}
    return dataclasses.field(default=default, metadata=metadata)


def _at_least(low: float) -> Allowed:
    return Allowed(f"at least {low}", lambda value: value >= low)


def _between(low: float, high: float) -> Allowed:
    return Allowed(f"from {low} to {high}", lambda value: low <= value <= high)


def _one_of(*names: str) -> Allowed:
    return Allowed("one of " + ", ".join(names), lambda value: value in names)


ANYTHING = Allowed("any value", lambda value: True)


@dataclasses.dataclass(frozen=True)
class Model:
    """A GPT-2. What is not given comes from the preset."""

    preset: str = _key("tiny", _one_of(*PRESETS), "sizes to start from")
    layers: int | None = _key(None, _at_least(1), "transformer blocks")
    heads: int | None = _key(None, _at_least(1), "attention heads; divides width")
    width: int | None = _key(None, _at_least(1), "size of the residual stream")
    context: int | None = _key(None, _at_least(1), "longest sequence, in tokens")
    vocab: int | None = _key(None, _between(1, 2**20), "entries of the vocabulary")
    bias: bool = _key(True, ANYTHING, "biases in linear maps and LayerNorms")
    scan: bool = _key(
        False, ANYTHING, "blocks as one stack of layers: the program of one block"
    )
    remat: str = _key(
        "none",
        _one_of("none", "dots", "full"),
        "what the backward pass computes again: nothing, all but products of "
        "matrices, whole blocks",
    )
    attention: str = _key(
        "auto",
        _one_of("auto", "xla", "cudnn", "splash"),
        "implementation; auto: the fastest that the device has",
    )
    init: str = _key("", ANYTHING, "folder of a run whose parameters to start from")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The learning rate over the run, as a fraction of its peak."""

    kind: str = _key(
        "cosine", _one_of("cosine", "warmup_stable_decay"), "shape after the warmup"
    )
    warmup: int | None = _key(
        None, _at_least(0), "steps of linear warmup; a tenth of the run if absent"
    )
    decay: int | None = _key(
        None,
        _at_least(0),
        "warmup_stable_decay: steps of the final decay; a fifth of the run if absent",
    )
    final: float = _key(0.1, _between(0, 1), "last learning rate / peak")


@dataclasses.dataclass(frozen=True)
class Data:
    """The text or the tokens that are learned, and how they are cut."""

    source: str = _key(
        "stdlib",
        _one_of("stdlib", "text", "bin"),
        "Python's standard library, or text or token files under path",
    )
    path: str = _key("", ANYTHING, "text, bin: a file, a folder or a glob")
    validation: float = _key(
        0.1,
        Allowed("above 0 and below 1", lambda value: 0 < value < 1),
        "share that is held out: of text files, of the tokens of bin",
    )
    validation_path: str = _key(
        "", ANYTHING, "bin: the held-out files; those with val in their name if absent"
    )
    dtype: str = _key(
        "",
        _one_of("", "uint16", "uint32"),
        "bin: type of a token; what the header says, else uint16, if absent",
    )
    context: int | None = _key(
        None, _at_least(1), "tokens of a training sequence; the model's if absent"
    )
    tokenizer: str = _key(
        "",
        ANYTHING,
        "a tokenizer.json to use; if absent, trained on text, and for bin the one "
        "that optimx prepare left with the files",
    )
    sha256: str = _key("", ANYTHING, "expected hash of the corpus; unchecked if absent")


@dataclasses.dataclass(frozen=True)
class Train:
    """How long, how much at once, and what is reported."""

    steps: int = _key(1000, _at_least(1), "updates of the parameters")
    batch_size: int = _key(8, _at_least(1), "sequences of one forward pass")
    accumulation: int = _key(1, _at_least(1), "forward passes of one update")
    precision: str = _key(
        "float32", _one_of("float32", "bfloat16"), "arithmetic of the model"
    )
    seed: int = _key(0, _between(0, 2**32 - 1), "of the parameters and of the batches")
    clip_norm: float = _key(1.0, _at_least(0), "global gradient norm; 0: no clipping")
    eval_every: int = _key(100, _at_least(1), "steps between evaluations")
    eval_batches: int = _key(16, _at_least(1), "batches of an evaluation")
    log_every: int = _key(10, _at_least(1), "steps between lines of metrics.jsonl")
    max_skipped: int = _key(
        10,
        _at_least(1),
        "updates skipped in a row, for a loss or gradient that is "
        "not finite, that end the run",
    )
    stop_on_divergence: bool = _key(
        False, ANYTHING, "whether the first skipped update ends the run"
    )
    monitor: bool = _key(
        False, ANYTHING, "whether metrics.jsonl says what the optimizer does"
    )


_AXIS = Allowed("at least 1, or -1 to fill up", lambda size: size == -1 or size >= 1)


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices of each axis; at most one is -1 and takes what the others leave."""

    data: int = _key(-1, _AXIS, "copies of the parameters, each with its sequences")
    fsdp: int = _key(1, _AXIS, "parts of the parameters, each with its sequences")
    tensor: int = _key(1, _AXIS, "parts of heads, of hidden units, of the vocabulary")
    zero1: bool = _key(
        False, ANYTHING, "optimizer state is split over data, parameters are not"
    )
    offload: str = _key(
        "none",
        _one_of("none", "state"),
        "what rests in the host's memory between updates: nothing, optimizer state",
    )


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """When the state of the run is saved, besides at its end."""

    every: int = _key(200, _at_least(1), "steps between checkpoints")
    keep: int = _key(2, _at_least(1), "checkpoints that are kept")
    switch_to: str | None = _key(
        None, ANYTHING, "optimizer.name, if checkpoints of other optimizers go over"
    )


SECTION_TYPES: dict[str, type] = {
    "model": Model,
    "schedule": Schedule,
    "data": Data,
    "train": Train,
    "mesh": Mesh,
    "checkpoint": Checkpoint,
}


def build_section(section: str, given: Mapping[str, Setting]) -> Any:
    """The section's dataclass from what was given for its keys.

    Raises:
      InputError: a key that the section does not have, a value of another type
        or out of range.
    """
    cls = SECTION_TYPES[section]
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    values = {}
    for key, (value, origin) in given.items():
        if key not in fields:
            hint = nearest(key, fields)
            raise InputError(f"{origin}: [{section}] has no key {key}{hint}")
        where = f"{origin}: {section}.{key} = {value!r}"
        value = _typed(value, hints[key], where)
        allowed = fields[key].metadata["allowed"]
        if not allowed.holds(value):
            raise InputError(f"{where}: must be {allowed.words}")
        values[key] = value
    return cls(**values)


def _typed(value: Any, hint: Any, where: str) -> Any:
    kinds = [
        kind for kind in typing.get_args(hint) or (hint,) if kind is not type(None)
    ]
    # bool is an int to Python but not to a person who writes a configuration.
    if type(value) in kinds:
        return value
    if float in kinds and type(value) is int:
        return float(value)
    words = {int: "an integer", float: "a number", str: "text", bool: "true or false"}
    raise InputError(f"{where}: must be {words[kinds[0]]}")
