"""What of one optimizer's state goes where in another's."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optimx import _checks
from optimx.combine import MixState
from optimx.switching.parts import Key, Part, parts_of
from optimx.typing import PyTree


@dataclasses.dataclass(frozen=True)
class Leaves:
    """A state taken apart.

    Attributes:
      names: the path of each leaf.
      values: the leaves.
      forms: the dtype in which each is kept between steps.
      structure: of the tree.
      parts: what it consists of; they know leaves by their numbers.
    """

    names: list[str]
    values: list[Any]
    forms: list[str]
    structure: Any
    parts: list[Part]

    @classmethod
    def of(cls, state: PyTree, forms: list[str]) -> "Leaves":
        named, structure = jax.tree_util.tree_flatten_with_path(state)
        names = [_checks.path_name(path) for path, _ in named]
        values = [x for _, x in named]
        return cls(names, values, forms, structure, parts_of(state))


class Plan:
    """Which leaf of the old state goes where in the new one.

    Attributes:
      arrays: the number of the old array by that of the new one.
      clocks: numbers of old counters, the least of which a new one takes.
      undivided: parts that could be carried, if what divides them were.
    """

    def __init__(self, old: Leaves, new: Leaves):
        self._old, self._new = old, new
        self.arrays: dict[int, int] = {}
        self.clocks: dict[int, list[int]] = {}
        self.undivided: list[Part] = []
        self._carry(self._found())
        self._clocks()

    def _found(self) -> dict[int, dict[Key, tuple[Part, int]]]:
        """What each new part would hold, by its number, if it can hold all of it."""
        found: dict[int, dict[Key, tuple[Part, int]]] = {}
        keys = dict.fromkeys(key for part in self._new.parts for key in part.arrays)
        for key in keys:
            takers = [p for p in self._new.parts if key in p.arrays]
            givers = [p for p in self._old.parts if key in p.arrays]
            for taker, giver in _pairs(takers, givers):
                number = self._new.parts.index(taker)
                found.setdefault(number, {})[key] = giver, giver.arrays[key]
        return {n: f for n, f in found.items() if self._fits(self._new.parts[n], f)}

    def _fits(self, part: Part, found: dict[Key, tuple[Part, int]]) -> bool:
        if found.keys() != part.arrays.keys():
            return False
        pairs = [(part.arrays[key], source) for key, (_, source) in found.items()]
        timed = part.clock is None or all(
            giver.clock is not None for giver, _ in found.values()
        )
        return timed and all(
            _alike(self._new.values[n], self._old.values[source]) for n, source in pairs
        )

    def _carry(self, found: dict[int, dict[Key, tuple[Part, int]]]) -> None:
        parts = self._new.parts
        lost = [p for n, p in enumerate(parts) if p.divides and n not in found]
        for number, sources in found.items():
            part = parts[number]
            if any(p.is_below(fork) for p in lost for fork in part.forks):
                self.undivided.append(part)
                continue
            for key, (_, source) in sources.items():
                self.arrays[part.arrays[key]] = source
            if part.clock is not None:
                givers = {giver.path: giver.clock for giver, _ in sources.values()}
                self.clocks[part.clock] = [c for c in givers.values() if c is not None]

    def _clocks(self) -> None:
        """Counters without arrays: schedules, then mixes with their memories."""
        alone = [
            (part, part.clock)
            for part in self._new.parts
            if part.clock is not None and not part.arrays
        ]
        for part, clock in sorted(alone, key=lambda pair: pair[0].kind is MixState):
            counted = self._memory_clocks(part) if part.kind is MixState else []
            if not counted:
                if (same := self._same_clock(part)) is not None:
                    self.clocks[clock] = [same]
            elif all(other in self.clocks for other in counted):
                every = [old for other in counted for old in self.clocks[other]]
                self.clocks[clock] = list(dict.fromkeys(every))

    def _memory_clocks(self, mix: Part) -> list[int]:
        below = [p for p in self._new.parts if p.arrays and p.is_below(mix.path)]
        return [p.clock for p in below if p.clock is not None]

    def _same_clock(self, part: Part) -> int | None:
        """The counter of the same place, of the same stage, or of any schedule."""
        others = [p for p in self._old.parts if p.kind is part.kind and not p.arrays]
        for same in (
            lambda p: p.name == part.name,
            lambda p: p.path[-1:] == part.path[-1:],
            lambda p: part.kind is optax.ScaleByScheduleState,
        ):
            for other in filter(same, others):
                if other.clock is not None:
                    return other.clock
        return None


def _pairs(takers: list[Part], givers: list[Part]) -> Iterable[tuple[Part, Part]]:
    """Those of the same place first, then the others in their order."""
    there = {giver.name: giver for giver in givers}
    same = [(p, there[p.name]) for p in takers if p.name in there]
    taken = [giver for _, giver in same]
    rest = [p for p in takers if p.name not in there]
    return [*same, *zip(rest, (g for g in givers if g not in taken), strict=False)]


def _alike(new: Any, old: Any) -> bool:
    """Whether one array can hold what the other one does."""
    kinds = jnp.complexfloating, jnp.floating
    same = new.dtype == old.dtype or any(
        jnp.issubdtype(new.dtype, kind) and jnp.issubdtype(old.dtype, kind)
        for kind in kinds
    )
    return same and new.shape == old.shape
