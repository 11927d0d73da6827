"""``config.json`` of Hugging Face's GPT-2, and ``[model]``."""

import json
from pathlib import Path
from typing import Any

from optimx.training.errors import InputError
from optimx.training.resolve import resolve_model
from optimx.training.sections import PRESETS, Model, build_section
from optimx.training.settings import Setting

_SIZES = {
    "layers": "n_layer",
    "heads": "n_head",
    "width": "n_embd",
    "context": "n_positions",
    "vocab": "vocab_size",
}
# What our model can be; the first is what an absent key stands for.
_ONLY: dict[str, tuple[Any, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}


def read_model(path: Path) -> Model:
    """The resolved ``[model]`` section that a ``config.json`` describes.

    Raises:
      InputError: the file cannot be read, or describes what our model cannot be.
    """
    table = read_object(path)
    if table.get("model_type") != "gpt2":
        kind = table.get("model_type")
        raise InputError(f"{path}: model_type = {kind!r}: must be 'gpt2'")
    inner = table.get("n_inner")
    if inner is not None and inner != 4 * table.get("n_embd", 0):
        raise InputError(f"{path}: n_inner = {inner!r}: must be 4 n_embd, or null")
    for key, allowed in _ONLY.items():
        value = table.get(key, allowed[0])
        if value not in allowed:
            words = " or ".join(map(repr, allowed))
            raise InputError(f"{path}: {key} = {value!r}: must be {words}")
    sizes = {ours: table.get(theirs) for ours, theirs in _SIZES.items()}
    for ours, value in sizes.items():
        if type(value) is not int:
            raise InputError(f"{path}: {_SIZES[ours]} = {value!r}: must be an integer")
    given = sizes | {"bias": table.get("bias", True), "preset": _preset(sizes)}
    settings = {key: Setting(value, str(path)) for key, value in given.items()}
    return resolve_model(build_section("model", settings))


def _preset(sizes: dict[str, Any]) -> str:
    """The preset of these sizes, or else one from which all of them differ."""
    return next((name for name, all in PRESETS.items() if all == sizes), "tiny")


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      InputError: the file cannot be read, or is not a JSON object.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: is not JSON: {error}") from error
    if not isinstance(table, dict):
        raise InputError(f"{path}: is not a JSON object")
    return table


def describe_model(config: Model, end: int | None) -> dict[str, Any]:
    """The content of ``config.json`` for a model.

    Args:
      config: a resolved ``[model]`` section.
      end: the token that ends a document, if it is known.
    """
    table = {theirs: getattr(config, ours) for ours, theirs in _SIZES.items()}
    table |= {key: allowed[0] for key, allowed in _ONLY.items()}
    table |= {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_inner": None,
        # The trainer has no dropout.
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "bos_token_id": end,
        "eos_token_id": end,
    }
    if not config.bias:
        # Theirs has biases, zero in the file; this key tells us that they are none.
        table["bias"] = False
    return table
