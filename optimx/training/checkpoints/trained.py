"""The model that a run has trained."""

import dataclasses

from optimx.training.checkpoints.checkpoint import Checkpoints
from optimx.training.config import load_config
from optimx.training.folder import RunFolder
from optimx.training.network import model
from optimx.training.network.layers import apart
from optimx.training.network.model import Params
from optimx.training.sections import Model


def read_trained(folder: RunFolder) -> tuple[Model, Params]:
    """The sizes and the latest parameters of a run's model, not scanned.

    Args:
      folder: of the run.

    Raises:
      InputError: the folder holds no run or no sound checkpoint of its model.
    """
    folder.require()
    config = load_config(folder.config).model
    with Checkpoints(folder.checkpoints) as saved:
        params = saved.restore_params(model.parameter_shapes(config))
    return unscanned(config), apart(params) if config.scan else params


def unscanned(config: Model) -> Model:
    """The same model with blocks that have names of their own."""
    return dataclasses.replace(config, scan=False)
