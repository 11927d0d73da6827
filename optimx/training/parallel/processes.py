"""A run of several processes, each with its own devices."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from optimx.training.errors import InputError

_AGREE_EVERY = 16  # steps between looks at the other processes' signals
_LONGEST = 4096  # bytes of a line that is told to the other processes


@dataclasses.dataclass(frozen=True)
class Processes:
    """How the processes of a run find each other.

    Attributes:
      environment: as Slurm, Kubernetes, Cloud TPU or Open MPI say it.
      coordinator: ``host:port`` of the first process.
      count: of processes.
      index: of this one, from 0.
    """

    environment: bool = False
    coordinator: str | None = None
    count: int | None = None
    index: int | None = None


def join(processes: Processes) -> None:
    """Waits for the others; does nothing in a run of one process.

    Raises:
      InputError: not all three of coordinator, count and index, an index out of
        range, an environment that says nothing, a coordinator that does not answer.
    """
    by_hand = {
        "--coordinator": processes.coordinator,
        "--processes": processes.count,
        "--process": processes.index,
    }
    missing = [flag for flag, value in by_hand.items() if value is None]
    if len(missing) == len(by_hand) and not processes.environment:
        return
    if processes.environment and len(missing) < len(by_hand):
        raise InputError(
            "--distributed: takes all from the environment, or leave it out"
        )
    if not processes.environment:
        _check(processes, missing)
    try:
        jax.distributed.initialize(
            coordinator_address=processes.coordinator,
            num_processes=processes.count,
            process_id=processes.index,
        )
    except (ValueError, RuntimeError) as error:
        where = processes.coordinator or "--distributed"
        raise InputError(f"{where}: the processes do not meet: {error}") from error


def _check(processes: Processes, missing: list[str]) -> None:
    if missing:
        raise InputError(f"{', '.join(missing)}: a process by hand needs all three")
    host, _, port = processes.coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(
            f"--coordinator {processes.coordinator!r}: must be host:port of process 0"
        )
    if not 0 <= processes.index < processes.count:
        raise InputError(
            f"--process {processes.index}: must be from 0 to "
            f"{processes.count - 1}, --processes {processes.count} less one"
        )


def is_first() -> bool:
    """Whether this process is the one that writes and reports."""
    return jax.process_index() == 0


def any_says(yes: bool, step: int) -> bool:
    """Whether a process says yes, the same answer in all of them.

    Several processes look at each other every few steps only: in between, the answer
    is no.

    Args:
      yes: what this process says; it must go on saying so.
      step: the same in all processes.
    """
    if jax.process_count() == 1:
        return yes
    if step % _AGREE_EVERY:
        return False
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.asarray(yes))))


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """A block that every process runs: input that one refuses, all of them refuse.

    A process that ended alone would leave the others waiting for it.

    Raises:
      InputError: the block did, here or elsewhere; the same line everywhere.
    """
    if jax.process_count() == 1:
        yield
        return
    from jax.experimental import multihost_utils

    mine = ""
    try:
        yield
    except InputError as error:
        # At fault may be the machine: say which.
        where = "" if is_first() else f"process {jax.process_index()}: "
        mine = where + " ".join(str(error).split())
    line = np.zeros(_LONGEST, np.uint8)
    said = np.frombuffer(mine.encode()[:_LONGEST], np.uint8)
    line[: len(said)] = said
    for told in multihost_utils.process_allgather(line):
        if told.any():
            raise InputError(bytes(told[told > 0]).decode(errors="replace"))


def place(make: Any, shape: tuple[int, ...], sharding: jax.sharding.Sharding) -> Any:
    """A global array of which each process makes only what its devices hold.

    Args:
      make: the part of the array at a tuple of slices.
      shape: of the whole.
      sharding: of the whole.
    """
    return jax.make_array_from_callback(shape, sharding, make)


def whole(tree: Any) -> Any:
    """The arrays of a tree, whole and in this process's memory."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)
