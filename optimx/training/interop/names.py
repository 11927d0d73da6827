"""Parameters by the names and shapes that Hugging Face's GPT-2 has for them.

Their linear maps are (in, out) as ours, and query, key and value are one map in the
same order, so that no array is turned or cut.
"""

import dataclasses
import re
from collections.abc import Mapping

import jax
import numpy as np

from optimx.training.errors import InputError, some
from optimx.training.network.model import Params, parameter_shapes
from optimx.training.sections import Model

PREFIX = "transformer."
_HEAD, _EMBEDDING = "lm_head.weight", "wte.weight"
_MODULES = {
    "attention/qkv": "attn.c_attn",
    "attention/out": "attn.c_proj",
    "mlp/up": "mlp.c_fc",
    "mlp/down": "mlp.c_proj",
}


def to_tensors(config: Model, params: Params) -> dict[str, np.ndarray]:
    """The tensors of a Hugging Face file; biases that the model lacks are zero.

    Args:
      config: a resolved ``[model]`` section.
      params: of that model.
    """
    held = dict(zip(_names(config), jax.tree.leaves(params), strict=True))
    return {
        PREFIX + name: np.asarray(held.get(name, np.zeros(leaf.shape, leaf.dtype)))
        for name, leaf in _with_biases(config).items()
    }


def to_params(config: Model, tensors: Mapping[str, np.ndarray], where: str) -> Params:
    """The parameters of a model from the tensors of a Hugging Face file.

    Args:
      config: a resolved ``[model]`` section.
      tensors: by name, without ``transformer.``.
      where: the tensors are from.

    Raises:
      InputError: tensors are missing, unknown or of another shape; a head that is
        not the embedding; biases in a model without.
    """
    expected, tensors = _with_biases(config), dict(tensors)
    head = tensors.pop(_HEAD, None)
    _refuse(where, "there is no", expected.keys() - tensors.keys())
    _refuse(where, "unknown tensor", tensors.keys() - expected.keys())
    wrong = (
        f"{name} {tensors[name].shape} instead of {leaf.shape}"
        for name, leaf in expected.items()
        if tensors[name].shape != leaf.shape
    )
    _refuse(where, "shapes are not those that config.json says:", wrong)
    if head is not None and not np.array_equal(head, tensors[_EMBEDDING]):
        raise InputError(
            f"{where}: {_HEAD} is not {_EMBEDDING}: only a head that is tied to the "
            "embedding can be imported"
        )
    names = _names(config)
    biases = (n for n in sorted(expected.keys() - names.keys()) if tensors[n].any())
    _refuse(where, 'config.json says "bias": false, but not zero:', biases)
    tree = jax.tree.structure(parameter_shapes(config))
    return tree.unflatten(tensors[name] for name in names)


def _refuse(where: str, what: str, names) -> None:
    if names := sorted(names, key=_natural):
        raise InputError(f"{where}: {what} {some(names)}")


def _natural(name: str) -> list:
    """Layer 2 before layer 10."""
    return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)]


def _with_biases(config: Model) -> dict[str, jax.ShapeDtypeStruct]:
    """Their tensors; their GPT-2 has biases always."""
    return _names(dataclasses.replace(config, bias=True))


def _names(config: Model) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes by their name for it, in the order of our leaves."""
    leaves = jax.tree_util.tree_leaves_with_path(parameter_shapes(config))
    return {_name([key.key for key in path]): leaf for path, leaf in leaves}


def _name(path: list[str]) -> str:
    """``h_0/mlp/up/kernel`` is their ``h.0.mlp.c_fc.weight``."""
    module = "/".join(path[:-1])
    for ours, theirs in _MODULES.items():
        module = module.replace(ours, theirs)
    module = re.sub(r"^h_(\d+)/", r"h.\1.", module)
    return f"{module}.{'bias' if path[-1] == 'bias' else 'weight'}"
