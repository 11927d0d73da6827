"""What accelerators can do at most, as their makers state it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """A device's limits.

    Attributes:
      name: as people call it.
      flops: dense bfloat16 operations per second.
      memory: bytes.
      bandwidth: bytes per second between memory and arithmetic; 0 if not known.
      link: bytes per second to other devices, all links together; 0 if not known.
      cores_together: whether a chip of two cores must be told to be one device.
    """

    name: str
    flops: float
    memory: float
    bandwidth: float
    link: float
    cores_together: bool = False


_GIB, _GB, _TERA = 2**30, 1e9, 1e12

TPUS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275 * _TERA, 32 * _GIB, 1228 * _GB, 300 * _GB, cores_together=True),
        Chip("v5e", 197 * _TERA, 16 * _GIB, 819 * _GB, 200 * _GB),
        Chip("v5p", 459 * _TERA, 95 * _GIB, 2765 * _GB, 600 * _GB),
        Chip("v6e", 918 * _TERA, 32 * _GIB, 1640 * _GB, 448 * _GB),
    )
}

_GPUS = {
    "A100": Chip("A100", 312 * _TERA, 80 * _GIB, 2039 * _GB, 600 * _GB),
    "H100": Chip("H100", 989 * _TERA, 80 * _GIB, 3350 * _GB, 900 * _GB),
    "H200": Chip("H200", 989 * _TERA, 141 * _GB, 4800 * _GB, 900 * _GB),
}

_KINDS = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v6 lite": "v6e"}


def chip_of(device_kind: str) -> Chip | None:
    """The chip behind ``device.device_kind``, or None where it is not known."""
    for name, chip in _GPUS.items():
        if name in device_kind:
            return chip
    name = _KINDS.get(device_kind)
    return TPUS[name] if name else None
