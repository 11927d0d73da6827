"""The collectives of a compiled program, and how often they run."""

import dataclasses
import math
import re

from optimx.training.planning.hlo import computations, executions, scalar_types, sizes

_KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
)
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
    bodies, entry = computations(text)
    found = []
    for name, times in executions(bodies, entry):
        for one in bodies[name]:
            kind = one.operation.removesuffix("-start")
            if kind in _KINDS and (group := _group(one.rest)) != 1:
                both = one.operation != kind and kind != "all-reduce"
                size = _size(one.result, both=both)
                found.append(Collective(kind, size, group or 2, times))
    return found


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
    # Beside them there may be counters by which the two ends of it meet.
    kinds = scalar_types(result)
    found = [
        size
        for size, kind in zip(sizes(result, anywhere=True), kinds, strict=True)
        if not (both and kind == "u32")
    ]
    return sum(found[len(found) // 2 :] if both else found)
