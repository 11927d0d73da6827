"""The memory that a compiled step takes, as its compiler laid it out."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Bytes for one device. A CPU's compiler counts all of them as the device's.

    Attributes:
      device: what the step needs on the device: state, batch, temporaries, program.
      temporary: of these, what it allocates besides arguments and results.
      host: what it needs of the host's memory.
    """

    device: int
    temporary: int
    host: int

    def __str__(self) -> str:
        host = f", and {self.host / 1e6:,.1f} MB of the host's" if self.host else ""
        return (
            f"A step takes {self.device / 1e6:,.1f} MB of a device's memory, "
            f"{self.temporary / 1e6:,.1f} MB of it for the time of the step{host}"
        )


def step_memory(compiled: Any) -> StepMemory:
    """What a compiled step takes.

    Args:
      compiled: from ``lower(...).compile()``.
    """
    found = compiled.memory_analysis()
    return StepMemory(
        device=found.argument_size_in_bytes
        + found.output_size_in_bytes
        - found.alias_size_in_bytes
        + found.temp_size_in_bytes
        + found.generated_code_size_in_bytes,
        temporary=found.temp_size_in_bytes,
        host=found.host_argument_size_in_bytes
        + found.host_output_size_in_bytes
        - found.host_alias_size_in_bytes
        + found.host_temp_size_in_bytes,
    )
