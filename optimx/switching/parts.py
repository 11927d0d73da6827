"""What the state of any optimizer consists of, and what each part of it holds."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import optax
from jax.tree_util import DictKey, GetAttrKey, SequenceKey

from optimx import _checks
from optimx.combine import GraftState, MixState, PreconditionState
from optimx.monitor import MonitorState
from optimx.transforms.diagonal import ScaleByRmsState
from optimx.transforms.eigenbasis import InEigenbasisState
from optimx.transforms.factored import ScaleByFactoredRmsState
from optimx.transforms.gradient_difference import GradientDifferenceState
from optimx.transforms.kronecker import ScaleByKroneckerState
from optimx.transforms.momentum import EmaState
from optimx.typing import PyTree
from optimx.wrappers.quantize import QuantizedState

AVERAGE, SECOND_MOMENT = "average", "second moment"

# Fields of one meaning under several names: ours and Optax's.
_MEANINGS: dict[tuple[type, str], str] = {
    (EmaState, "average"): AVERAGE,
    (optax.EmaState, "ema"): AVERAGE,
    (optax.ScaleByAdamState, "mu"): AVERAGE,
    (optax.ScaleByLionState, "mu"): AVERAGE,
    (ScaleByRmsState, "second_moment"): SECOND_MOMENT,
    (optax.ScaleByAdamState, "nu"): SECOND_MOMENT,
}

# What divides each number of a direction: a memory is of no use without it.
_DIVIDERS: dict[type, str] = {
    ScaleByRmsState: SECOND_MOMENT,
    optax.ScaleByAdamState: SECOND_MOMENT,
    optax.ScaleByRmsState: SECOND_MOMENT,
    ScaleByFactoredRmsState: "factored",
    optax.FactoredState: "factored",
}
_SCALES = _DIVIDERS | {InEigenbasisState: "turned", ScaleByKroneckerState: "kronecker"}

# States around others, and the fields in which those stand.
_AROUND: dict[type, tuple[str, ...]] = {
    GraftState: ("direction", "magnitude"),
    optax.MaskedState: ("inner_state",),
    optax.MultiStepsState: ("inner_opt_state",),
    optax.ApplyIfFiniteState: ("inner_state",),
    QuantizedState: ("inner",),
    MonitorState: ("inner",),
    optax.InjectStatefulHyperparamsState: ("inner_state",),
}

_CLOCK = "count"
# What a transformation plans or is told rather than learns: whose turn it is to be
# refreshed follows from ``update_every``.
_GIVEN = ("turn", "hyperparams")

Key = tuple
"""What an array means, wherever it stands in the state."""


@dataclasses.dataclass(frozen=True)
class Part:
    """The state of one transformation inside that of an optimizer.

    Attributes:
      path: keys of :mod:`jax.tree_util` from the root to it.
      kind: the type of the state.
      arrays: the number of each array among the leaves of the whole state, by what it
        means: its role, which memory of a mix it is, what scaled the signal before,
        and its path among the parameters.
      clock: the number of the leaf that counts updates, or None.
      given: numbers of leaves that hold plans and settings.
      forks: paths of the preconditioners that divide what comes out of it.
    """

    path: tuple
    kind: type
    arrays: dict[Key, int]
    clock: int | None
    given: tuple[int, ...]
    forks: tuple[tuple, ...]

    @property
    def name(self) -> str:
        """The path, as people write it, without the fields of masks and codes."""
        masks = [GetAttrKey(f) for f in ("inner_states", "inner_state", "inner")]
        path = tuple(key for key in self.path if key not in masks)
        return _checks.path_name(path)

    @property
    def numbers(self) -> list[int]:
        """Of all leaves."""
        clock = [] if self.clock is None else [self.clock]
        return [*clock, *self.arrays.values(), *self.given]

    @property
    def divides(self) -> bool:
        """Whether it divides a direction number by number."""
        return self.kind in _DIVIDERS

    def is_below(self, path: tuple) -> bool:
        """Whether it stands in the state at that path."""
        return self.path[: len(path)] == path


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a walk through a state has come to."""

    path: tuple = ()
    memory: tuple[int, ...] = ()
    scaled_by: tuple[str, ...] = ()
    forks: tuple[tuple, ...] = ()

    def below(self, *keys: Any, **changes: Any) -> "_Place":
        return dataclasses.replace(self, path=(*self.path, *keys), **changes)


def parts_of(state: PyTree) -> list[Part]:
    """The parts of a state, those of a dict in the order of its sorted names.

    Args:
      state: of any optimizer, or its shapes.
    """
    leaves, structure = jax.tree.flatten(state)
    numbers = structure.unflatten(range(len(leaves)))
    return [part for part in _walk(numbers, _Place()) if _holds_any(part)]


def _holds_any(part: Part) -> bool:
    return bool(part.arrays or part.given) or part.clock is not None


def _walk(node: Any, place: _Place) -> Iterator[Part]:
    if isinstance(node, (dict, list)) or type(node) is tuple:
        yield from _stages(node, place)
    elif isinstance(node, PreconditionState):
        divided = (*place.forks, (*place.path, GetAttrKey("by")))
        yield from _walk(
            node.direction, place.below(GetAttrKey("direction"), forks=divided)
        )
        yield from _walk(node.by, place.below(GetAttrKey("by")))
    elif isinstance(node, MixState):
        yield _part(node, place, besides=("parts",))
        for index, inner in enumerate(node.parts):
            keys = GetAttrKey("parts"), SequenceKey(index)
            # The first of several memories is the one that an optimizer of one has.
            memory = (*place.memory, index) if index else place.memory
            yield from _walk(inner, place.below(*keys, memory=memory))
    elif isinstance(node, optax.PartitionState):
        for label, inner in sorted(node.inner_states.items()):
            keys = GetAttrKey("inner_states"), DictKey(label)
            yield from _walk(inner, place.below(*keys))
    else:
        around = _AROUND.get(type(node), ())
        yield _part(node, place, besides=around)
        for field in around:
            yield from _walk(getattr(node, field), place.below(GetAttrKey(field)))


def _stages(node: Any, place: _Place) -> Iterator[Part]:
    """The parts of stages in a row; what scales beside a stage may scale before it."""
    if isinstance(node, dict):
        stages = [(DictKey(name), node[name]) for name in sorted(node)]
    else:
        stages = [(SequenceKey(index), stage) for index, stage in enumerate(node)]
    scales = {key: _scales(stage) for key, stage in stages}
    for key, stage in stages:
        beside = [kind for other in scales if other != key for kind in scales[other]]
        scaled_by = tuple(sorted([*place.scaled_by, *beside]))
        yield from _walk(stage, place.below(key, scaled_by=scaled_by))


def _scales(node: Any) -> tuple[str, ...]:
    if isinstance(node, (optax.MaskedState, QuantizedState)):
        return _scales(node[-1])
    if isinstance(node, optax.PartitionState):
        found = [
            kind for inner in node.inner_states.values() for kind in _scales(inner)
        ]
        return tuple(sorted(set(found)))
    kind = _SCALES.get(type(node))
    return () if kind is None else (kind,)


def _part(node: Any, place: _Place, besides: tuple[str, ...]) -> Part:
    arrays: dict[Key, int] = {}
    given: list[int] = []
    clock = None
    fields = getattr(node, "_fields", None)
    # A state of another type has no fields to know: where it stands must do.
    named = [("", node)] if fields is None else zip(fields, node, strict=True)
    for field, value in named:
        if field in besides:
            continue
        if field == _CLOCK and isinstance(value, int):
            clock = value
            continue
        meaning = _meaning(node, field, place)
        for path, number in jax.tree_util.tree_leaves_with_path(value):
            if field in _GIVEN:
                given.append(number)
            else:
                arrays[(*meaning, _checks.path_name(path))] = number
    return Part(place.path, type(node), arrays, clock, tuple(given), place.forks)


def _meaning(node: Any, field: str, place: _Place) -> Key:
    if isinstance(node, GradientDifferenceState):
        # The gradient itself, whatever is made of it.
        return GradientDifferenceState.__name__, field
    if not field:
        return _checks.path_name(place.path), place.memory, place.scaled_by
    role = _MEANINGS.get((type(node), field), f"{type(node).__name__}.{field}")
    return role, place.memory, place.scaled_by
