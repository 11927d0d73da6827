"""Under which circumstances numbers were measured: versions, and the machine."""

import importlib.metadata
import os
import platform
from typing import Any

import jax

from optimx.bench.update_cost import device_name

_PACKAGES = ("jax", "jaxlib", "optax", "flax", "numpy", "optimx")


def versions() -> dict[str, str]:
    """Of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def hardware() -> dict[str, Any]:
    """Device, how many of them, cores, system."""
    return {
        "device": device_name(),
        "devices": len(jax.devices()),
        "cpu_cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }
