"""GPT-2 weights from and for Hugging Face's ``transformers``, bit for bit."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from optimx.training.checkpoints.checkpoint import Checkpoints
from optimx.training.checkpoints.resumption import about
from optimx.training.checkpoints.trained import read_trained
from optimx.training.config import dump_config, load_config
from optimx.training.data import END_OF_TEXT, load_tokenizer
from optimx.training.errors import InputError
from optimx.training.folder import RunFolder, new_folder
from optimx.training.interop.config_json import describe_model, read_model
from optimx.training.interop.names import to_params, to_tensors
from optimx.training.interop.vocabulary import describe_tokenizer, read_tokenizer
from optimx.training.interop.weights import WEIGHTS, read_tensors
from optimx.training.optimizer import build_optimizer
from optimx.training.resolve import resolve_data
from optimx.training.sections import Data
from optimx.training.state import init_state


def import_gpt2(source: Path, out: Path) -> None:
    """Makes a run of no steps from a GPT-2 in the Hugging Face format.

    The run has the default configuration but for ``[model]``, and the tokenizer of
    the folder if there is one.

    Args:
      source: holds ``config.json``, ``model.safetensors`` (whole, or in parts with
        an index), and ``tokenizer.json`` or ``vocab.json`` and ``merges.txt``.
      out: the folder of the run; it must not exist, or be empty.

    Raises:
      InputError: a file that is missing or cannot be used, a model that ours cannot
        be, tensors that are not that model's, an ``out`` that is in use.
    """
    if not source.is_dir():
        raise InputError(f"{source}: is not a folder")
    model = read_model(source / "config.json")
    tokenizer = read_tokenizer(source, model.vocab)
    params = to_params(model, read_tensors(source), str(source))
    config = dataclasses.replace(
        load_config(), model=model, data=resolve_data(Data(), model)
    )
    tx = build_optimizer(config.optimizer, config.schedule, config.train.steps)
    with new_folder(out) as made:
        folder = RunFolder(made)
        with Checkpoints(folder.checkpoints, keep=1) as saved:
            saved.save(0, init_state(config, tx, params=params), about(config, "", 0.0))
        if tokenizer is not None:
            folder.tokenizer.write_text(tokenizer.to_str(), encoding="utf-8")
        folder.config.write_text(dump_config(config), encoding="utf-8")


def export_gpt2(run: Path, out: Path) -> None:
    """Writes the latest parameters of a run in the Hugging Face format.

    ``transformers.GPT2LMHeadModel.from_pretrained(out)`` loads them.

    Args:
      run: the folder of a run.
      out: the new folder; it must not exist, or be empty.

    Raises:
      InputError: ``run`` holds no run or no checkpoint, or ``out`` is in use.
    """
    folder = RunFolder(run)
    model, params = read_trained(folder)
    tokenizer = None
    if folder.tokenizer.is_file():
        tokenizer = load_tokenizer(folder.tokenizer)
    end = tokenizer and tokenizer.token_to_id(END_OF_TEXT)
    with new_folder(out) as made:
        tensors = to_tensors(model, params)
        save_file(tensors, made / WEIGHTS, metadata={"format": "pt"})
        _write_json(made / "config.json", describe_model(model, end))
        # safetensors makes files for their owner alone.
        shutil.copymode(made / "config.json", made / WEIGHTS)
        if tokenizer is not None:
            text = tokenizer.to_str(pretty=True)
            (made / "tokenizer.json").write_text(text, encoding="utf-8")
            said = describe_tokenizer(model.context)
            _write_json(made / "tokenizer_config.json", said)


def _write_json(path: Path, table: dict[str, Any]) -> None:
    text = json.dumps(table, indent=2, sort_keys=True) + "\n"
    path.write_text(text, encoding="utf-8")
