"""Devices by the name of a slice, which need not be there."""

import contextlib
import importlib.util
import os
from typing import Any

import jax

from optimx.training.errors import InputError
from optimx.training.planning.chips import TPUS, Chip


def devices_of(topology: str) -> tuple[list[Any], Chip | None]:
    """The devices of a slice such as ``v5e:4x4``, or of ``cpu:8``.

    Raises:
      InputError: a name that is not known, or what compiles for it is not installed.
    """
    name, _, shape = topology.partition(":")
    if name == "cpu" and shape.isdigit():
        return _host_devices(topology, int(shape)), None
    if name not in TPUS or not shape:
        raise InputError(
            f"--topology {topology!r}: must be cpu:N or one of "
            f"{', '.join(TPUS)} with its shape, such as v5e:4x4"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            f"--topology {topology!r}: libtpu is not installed, which compiles for it: "
            "python -m pip install -e '.[tpu-plan]'"
        )
    from jax.experimental import topologies

    # There is no slice to ask for its place in the world, nor one to fight over.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", topology.replace(":", "-"))
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    chosen = {"chip_config_name": "megacore"} if TPUS[name].cores_together else {}
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **chosen
        )
    except Exception as error:  # whatever the plugin raises
        line = next(iter(str(error).strip().splitlines()), repr(error))
        raise InputError(f"--topology {topology!r}: {line}") from error
    return list(found.devices), TPUS[name]


def _host_devices(topology: str, count: int) -> list[Any]:
    # Devices that are made already stay as they are: there may be enough.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if not 0 < count <= len(devices):
        raise InputError(
            f"--topology {topology!r}: this process has {len(devices)} CPU devices"
        )
    return devices[:count]
