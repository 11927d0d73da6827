"""The parameters that a run starts from: drawn, or those of another run."""

from pathlib import Path

import jax
from tokenizers import Tokenizer

from optimx.training.checkpoints.origin import leaves_of, require_leaves
from optimx.training.checkpoints.trained import read_trained, unscanned
from optimx.training.config import Config, load_config
from optimx.training.data import load_tokenizer
from optimx.training.errors import InputError
from optimx.training.folder import RunFolder
from optimx.training.network import model
from optimx.training.network.layers import together
from optimx.training.network.model import Params


def initial_params(config: Config, shardings: Params | None = None) -> Params | None:
    """The parameters of ``model.init``, where they belong; None where it is not given.

    Args:
      config: of the run.
      shardings: a tree of them; on the first device if None.

    Raises:
      InputError: there is no run, or its parameters do not fit ``[model]``.
    """
    if not config.model.init:
        return None
    check_initial_params(config)
    _, params = read_trained(_source(config))
    if config.model.scan:
        params = together(params, model.parameter_shapes(config.model))
    return params if shardings is None else jax.device_put(params, shardings)


def check_initial_params(config: Config) -> None:
    """Raises InputError if the model of ``model.init`` does not fit ``[model]``."""
    if config.model.init:
        source = _source(config)
        source.require()
        theirs, ours = (
            model.parameter_shapes(unscanned(one))
            for one in (load_config(source.config).model, config.model)
        )
        require_leaves(leaves_of(theirs), ours, f"{source.path}: the run")


def check_initial_tokenizer(config: Config, tokenizer: Tokenizer) -> None:
    """Whether tokens mean to the parameters what they mean to the run.

    Raises:
      InputError: ``model.init`` has a tokenizer with another vocabulary.
    """
    if not config.model.init or not _source(config).tokenizer.is_file():
        return
    theirs = _source(config).tokenizer
    if load_tokenizer(theirs).get_vocab() != tokenizer.get_vocab():
        raise InputError(
            f"data.tokenizer = {config.data.tokenizer!r}: has another vocabulary than "
            f"{theirs}, with which the parameters were trained"
        )


def _source(config: Config) -> RunFolder:
    folder = RunFolder(Path(config.model.init))
    folder.require()
    return folder
