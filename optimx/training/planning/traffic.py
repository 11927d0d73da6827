"""Bytes that a compiled program moves between memory and arithmetic."""

from optimx.training.planning.hlo import (
    Computations,
    Instruction,
    computations,
    executions,
    sizes,
)

_FREE = (
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "opt-barrier",
    "partition-id",
    "replica-id",
    "while",
    "conditional",
    "call",
    "iota",
    "async-start",
)
_SLICES = ("dynamic-slice", "slice", "gather")


def bytes_moved(text: str) -> float:
    """What a run of the program reads and writes, loops as often as they go round.

    An instruction reads its operands and writes its result once; of an array from
    which it takes, or in which it replaces, a slice, that slice. Inside a fusion
    nothing is moved. Arrays that the program keeps on the chip, beside the
    arithmetic, count nothing. A loop whose number of rounds is not known counts as
    one round.

    Args:
      text: of the optimized module, as ``compiled.as_text()`` has it.
    """
    bodies, entry = computations(text)
    each = {name: _of_computation(name, bodies) for name in bodies}
    runs = executions(bodies, entry, inside_fusions=False)
    return float(sum(each[name] * times for name, times in runs))


def _of_computation(name: str, bodies: Computations) -> int:
    known = {one.name: sum(sizes(one.result)) for one in bodies[name]}
    return sum(_of_instruction(one, known, bodies) for one in bodies[name])


def _of_instruction(
    one: Instruction, known: dict[str, int], bodies: Computations
) -> int:
    if one.operation in _FREE or one.operation.endswith("-done"):
        return 0
    read = [known.get(operand, 0) for operand in one.operands]
    written = known[one.name]
    if one.operation in _SLICES:
        return 2 * written
    if one.operation == "dynamic-update-slice":
        return 2 * read[1]
    if one.operation == "scatter":
        return 3 * read[-1]
    if one.operation == "copy-start":
        return sum(read) + sizes(one.result)[0]
    if one.operation.endswith("-start"):
        # The type of what is begun shows what goes in besides what comes out.
        return sum(read) + max(sizes(one.result), default=0)
    if one.operation == "fusion" and (body := bodies.get(one.called["calls"][0])):
        return _of_fusion(body, read, written)
    return sum(read) + written


def _of_fusion(body: list[Instruction], read: list[int], written: int) -> int:
    """Operands of a fusion, less what it does not look at, and its results."""
    by_name = {one.name: one for one in body}
    users: dict[str, list[tuple[Instruction, int]]] = {}
    for one in body:
        for place, operand in enumerate(one.operands):
            users.setdefault(operand, []).append((one, place))
    total = written
    for one in body:
        if one.operation != "parameter":
            continue
        used = _through_views(one.name, users)
        size = read[int(one.rest.split(")")[0])]
        part = 0
        for user, place in used:
            if user.operation in _SLICES and place == 0:
                part += sum(sizes(user.result))
            elif user.operation == "dynamic-update-slice" and place == 0:
                # The rest of the result is the operand, where it was.
                update = by_name[user.operands[1]]
                total -= sum(sizes(user.result)) - sum(sizes(update.result))
            else:
                part = size
                break
        total += min(part, size)
    return max(total, 0)


def _through_views(
    name: str, users: dict[str, list[tuple[Instruction, int]]]
) -> list[tuple[Instruction, int]]:
    found = []
    for user, place in users.get(name, []):
        if user.operation == "bitcast":
            found += _through_views(user.name, users)
        else:
            found.append((user, place))
    return found
