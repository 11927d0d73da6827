"""A whole run: a new one, or one that goes on."""

import dataclasses
import time
from collections.abc import Iterable, Sequence
from typing import Any

import jax
from rich.console import Console

from optimx.training.checkpoints.initial import (
    check_initial_params,
    check_initial_tokenizer,
)
from optimx.training.config import Config, dump_config, switch_config
from optimx.training.data import check_sizes, load_dataset
from optimx.training.errors import (
    InputError,
    unwritable,
)
from optimx.training.folder import RunFolder
from optimx.training.parallel.mesh import check_batch, make_mesh
from optimx.training.parallel.processes import agreed, is_first
from optimx.training.report import Report
from optimx.training.run import Run


def train(
    config: Config, folder: RunFolder, devices: Sequence[jax.Device] | None = None
) -> dict[str, Any]:
    """Trains a model into a new folder and returns the run's summary.

    Where a run has several processes, each calls this with the same arguments; the
    first of them writes and reports.

    Args:
      config: of the run.
      folder: for what it leaves.
      devices: to run on; all devices of all processes if None.

    Raises:
      InputError: the folder holds another run, the data cannot be used, or the
        devices do not suit the mesh.
      DivergedError: the loss or the gradient stayed infinite or NaN.
      InterruptedRunError: a signal stopped the run; its state is saved.
      StorageError: the folder can no longer be written.
    """
    begun = time.monotonic()
    mesh = _mesh(config, devices)
    with (
        _report(config) as report,
        folder.claimed(folder.create),
        unwritable(InputError, folder.path),
    ):
        report.say("Reading the data")
        with agreed(), unwritable(InputError, folder.path):
            check_initial_params(config)
            data = load_dataset(config.data, config.model.vocab)
            check_sizes(data, config.data, config.train)
            check_initial_tokenizer(config, data.tokenizer)
            hashed = dataclasses.replace(config.data, sha256=data.sha256)
            config = dataclasses.replace(config, data=hashed)
        # Once all processes can use the data: from here on the folder is a run's.
        with agreed(), unwritable(InputError, folder.path):
            if is_first():
                tokenizer = data.tokenizer and data.tokenizer.to_str()
                folder.begin(tokenizer, dump_config(config))
        return Run(config, folder, data, mesh, report, begun).go()


def resume(
    folder: RunFolder,
    devices: Sequence[jax.Device] | None = None,
    overrides: Iterable[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Continues the run in a folder from its last checkpoint, as if never stopped.

    Args:
      folder: of the run.
      devices: as in :func:`train`; they need not be those of the run so far.
      overrides: dotted settings of another optimizer, to go on with that; config.toml
        is rewritten once the state is switched.

    Raises:
      InputError: the folder holds no run, the data is no longer the same, or a
        setting is not one of an optimizer.
      DivergedError: the loss or the gradient stayed infinite or NaN.
      InterruptedRunError: a signal stopped the run again.
      StorageError: the folder can no longer be written.
    """
    begun = time.monotonic()
    overrides = list(overrides)
    with folder.claimed(folder.require):
        with agreed():
            config = switch_config(folder.config, overrides)
            own = config.data
            if own.source != "bin" or folder.tokenizer.exists():
                folder.require_tokenizer()
                own = dataclasses.replace(own, tokenizer=str(folder.tokenizer))
            mesh = _mesh(config, devices)
        with _report(config) as report, unwritable(InputError, folder.path):
            report.say("Reading the data")
            with agreed(), unwritable(InputError, folder.path):
                data = load_dataset(own, config.model.vocab)
            run = Run(config, folder, data, mesh, report, begun, is_new=bool(overrides))
            return run.go()


def _mesh(config: Config, devices: Sequence[jax.Device] | None) -> jax.sharding.Mesh:
    mesh = make_mesh(config.mesh, devices)
    check_batch(config, mesh)
    return mesh


def _report(config: Config) -> Report:
    return Report(config.train.steps, None if is_first() else Console(quiet=True))
