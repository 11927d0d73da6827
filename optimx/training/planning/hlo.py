"""What a compiled program says of itself: collectives and how often they run."""

import dataclasses
import math
import re
from collections.abc import Iterator

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2}
_BYTES |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8}
_KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
)
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([\w\-]+)\((.*)$")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|(?:branch|called)_computations)="
    r"(?:\{([^}]*)\}|(%?[\w.\-]+))"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_GROUPS = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_IOTA_GROUPS = re.compile(r"replica_groups=\[(\d+),(\d+)\]")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """An instruction by which devices exchange numbers.

    Attributes:
      kind: such as ``all-reduce``.
      size: bytes of its result on one device.
      group: devices that take part together.
      times: how often one run of the program executes it.
    """

    kind: str
    size: int
    group: int
    times: int

    @property
    def sent(self) -> float:
        """Bytes that a device sends in a run of the program, by ring algorithms."""
        share = (self.group - 1) / self.group
        factor = {
            "all-gather": share,
            "all-reduce": 2 * share,
            "all-to-all": share,
            "collective-permute": 1.0,
            # The result is one part of what went in.
            "reduce-scatter": self.group * share,
        }
        return factor[self.kind] * self.size * self.times


def collectives(text: str) -> list[Collective]:
    """The collectives of a compiled program.

    Args:
      text: of the optimized module, as ``compiled.as_text()`` has it. A loop whose
        number of rounds is not known counts as one round.
    """
    bodies, entry = _computations(text)
    found = []
    for name, times in _executions(bodies, entry):
        for result, operation, rest in bodies[name]:
            kind = operation.removesuffix("-start")
            if kind in _KINDS and (group := _group(rest)) != 1:
                size = _size(result, both=operation != kind and kind != "all-reduce")
                found.append(Collective(kind, size, group or 2, times))
    return found


def _computations(
    text: str,
) -> tuple[dict[str, list[tuple[str, str, str]]], str]:
    bodies: dict[str, list[tuple[str, str, str]]] = {}
    name = entry = ""
    for line in text.splitlines():
        if opened := _COMPUTATION.match(line):
            name = opened[2]
            bodies[name] = []
            entry = name if opened[1] else entry
        elif name and (parts := _INSTRUCTION.match(line)):
            bodies[name].append((parts[1], parts[2], parts[3]))
    return bodies, entry


def _executions(bodies: dict, entry: str) -> Iterator[tuple[str, int]]:
    """Every call of a computation, with how often it happens."""
    queue = [(entry, 1)]
    while queue:
        name, times = queue.pop()
        yield name, times
        for _, operation, rest in bodies[name]:
            trips = _TRIPS.search(rest) if operation == "while" else None
            inner = times * int(trips[1]) if trips else times
            for called in _CALLED.finditer(rest):
                listed = (called[1] or called[2]).split(",")
                names = (part.strip(" %") for part in listed)
                queue += [(part, inner) for part in names if part in bodies]


def _group(rest: str) -> int | None:
    if listed := _GROUPS.search(rest):
        return listed[1].count(",") + 1
    if counted := _IOTA_GROUPS.search(rest):
        return int(counted[2])
    if named := _MESH_GROUPS.search(rest):
        sizes = dict(axis.split("=") for axis in named[1].split(","))
        return math.prod(int(sizes[axis.strip()]) for axis in named[2].split(","))
    return None


def _size(result: str, *, both: bool) -> int:
    """Bytes of what comes out.

    Args:
      result: the type of the instruction, an array or a tuple.
      both: whether the tuple shows what goes in first, and then what comes out, as
        that of most instructions that start an exchange.
    """
    sizes = [
        _BYTES.get(kind, 4) * math.prod(int(n) for n in axes.split(",") if n)
        for kind, axes in _SHAPE.findall(result)
        if not (both and kind == "u32" and not axes)
    ]
    return sum(sizes[len(sizes) // 2 :] if both else sizes)
