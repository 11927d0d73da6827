"""The text of a compiled program: its computations, and how often each runs."""

import dataclasses
import math
import re
from collections.abc import Iterator

_BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16}
_BITS |= {"f16": 16, "bf16": 16, "s32": 32, "u32": 32, "f32": 32, "s64": 64}
_BITS |= {"u64": 64, "f64": 64, "c64": 64, "c128": 128, "token": 0}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(
    r"^\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<result>.*?) "
    r"(?P<operation>[a-z][\w\-]*)\((?P<rest>.*)$"
)
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(
    r"(calls|to_apply|body|condition|(?:branch|called)_computations)="
    r"(?:\{([^}]*)\}|(%?[\w.\-]+))"
)
_OPERAND = re.compile(r"%([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a program.

    Attributes:
      name: of its result.
      result: the type of the result, an array or a tuple.
      operation: such as ``fusion``.
      rest: operands and attributes, as written.
      is_root: whether its result is that of the computation.
    """

    name: str
    result: str
    operation: str
    rest: str
    is_root: bool

    @property
    def operands(self) -> list[str]:
        """Names of what it reads, in order."""
        depth, end = 1, len(self.rest)
        for at, letter in enumerate(self.rest):
            depth += (letter in "({[") - (letter in ")}]")
            if not depth:
                end = at
                break
        return _OPERAND.findall(self.rest[:end])

    @property
    def called(self) -> dict[str, list[str]]:
        """Names of computations that it runs, by the role they have in it."""
        return {
            role: [part.strip(" %") for part in (several or one).split(",")]
            for role, several, one in _CALLED.findall(self.rest)
        }


Computations = dict[str, list[Instruction]]


def computations(text: str) -> tuple[Computations, str]:
    """The computations of an optimized module, and the name of its entry."""
    bodies: Computations = {}
    name = entry = ""
    for line in text.splitlines():
        if opened := _COMPUTATION.match(line):
            name = opened[2]
            bodies[name] = []
            entry = name if opened[1] else entry
        elif name and (parts := _INSTRUCTION.match(line)):
            bodies[name].append(
                Instruction(
                    parts["name"],
                    parts["result"],
                    parts["operation"],
                    parts["rest"],
                    parts["root"] is not None,
                )
            )
    return bodies, entry


def executions(
    bodies: Computations, entry: str, *, inside_fusions: bool = True
) -> Iterator[tuple[str, int]]:
    """Every call of a computation, with how often it happens.

    Args:
      bodies: of all computations.
      entry: the name of the first.
      inside_fusions: whether computations count that an instruction runs for each
        element, in registers: those of fusions, reductions, sorts and the like.
    """
    queue = [(entry, 1)]
    while queue:
        name, times = queue.pop()
        yield name, times
        for one in bodies[name]:
            if not inside_fusions and one.operation not in _CONTROL:
                continue
            names = [name for names in one.called.values() for name in names]
            inner = times * _trips(one, bodies)
            queue += [(name, inner) for name in names if name in bodies]


def _trips(one: Instruction, bodies: Computations) -> int:
    """How often the body of a loop runs; once where the program does not say."""
    if one.operation != "while":
        return 1
    if known := _TRIPS.search(one.rest):
        return int(known[1])
    # Loops of `scan` count from 0 in steps of 1 to the one number of their condition.
    limits = [
        int(number[1])
        for name in one.called.get("condition", ())
        for inner in bodies.get(name, ())
        if inner.operation == "constant"
        and inner.result.startswith(("s32[]", "u32[]", "s64[]"))
        and (number := re.match(r"(\d+)\)", inner.rest))
    ]
    return limits[0] if len(limits) == 1 else 1


_CONTROL = ("while", "conditional", "call", "async-start")


def sizes(result: str, *, anywhere: bool = False) -> list[int]:
    """Bytes of each array of a type; 0 outside the device's main memory.

    Args:
      result: the type.
      anywhere: whether arrays count that lie elsewhere, such as on the chip itself.
    """
    return [
        0 if "S(" in layout and not anywhere else _bytes(kind, axes)
        for kind, axes, layout in _SHAPE.findall(result)
    ]


def scalar_types(result: str) -> list[str]:
    """The element type of each array of a type, empty where it has axes."""
    return [kind if not axes else "" for kind, axes, _ in _SHAPE.findall(result)]


def _bytes(kind: str, axes: str) -> int:
    bits = _BITS.get(kind, 8 if kind.startswith("f8") else 32)
    return bits * math.prod(int(n) for n in axes.split(",") if n) // 8
