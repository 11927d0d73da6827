"""Tensors of a folder in the Hugging Face format."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from optimx.training.errors import InputError
from optimx.training.interop.config_json import read_object
from optimx.training.interop.names import PREFIX

WEIGHTS = "model.safetensors"
_INDEX = f"{WEIGHTS}.index.json"
# Causal masks, which old files hold beside the parameters.
_BUFFER = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """float32 tensors by name, without ``transformer.`` and without masks.

    Raises:
      InputError: there are no safetensors files, or they cannot be read.
    """
    tensors: dict[str, np.ndarray] = {}
    for path in _files(folder):
        for name, tensor in _read(path):
            if name in tensors:
                raise InputError(f"{path}: {name}: is there twice")
            tensors[name] = tensor
    return tensors


def _files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / _INDEX
    if not index.is_file():
        raise InputError(f"{folder}: has no {WEIGHTS} and no {_INDEX}")
    parts = read_object(index).get("weight_map")
    if not (isinstance(parts, dict) and all(map(_is_file_name, parts.values()))):
        raise InputError(f"{index}: weight_map: must map tensors to files beside it")
    return [folder / name for name in sorted(set(parts.values()))]


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and Path(name).name == name


def _read(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    try:
        # Their numpy reader knows no bfloat16 in every version; this one does.
        with safe_open(path, framework="flax") as file:
            for full_name in file.keys():  # noqa: SIM118 (it is no dict)
                name = full_name.removeprefix(PREFIX)
                if _BUFFER.fullmatch(name):
                    continue
                kind = file.get_slice(full_name).get_dtype()
                if kind not in ("F32", "F16", "BF16"):
                    raise InputError(
                        f"{path}: {full_name}: is {kind}, must be F32, F16 or BF16"
                    )
                yield name, np.asarray(file.get_tensor(full_name), np.float32)
    except OSError as error:
        words = error.strerror or "there is no such file"
        raise InputError(f"{path}: cannot be read: {words}") from error
    except SafetensorError as error:
        raise InputError(f"{path}: is not a safetensors file: {error}") from error
