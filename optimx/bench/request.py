"""What somebody wants measured: checked, and the tree that it means."""

import dataclasses

import jax
import jax.numpy as jnp

from optimx.bench.contenders import chosen
from optimx.training.errors import InputError, nearest
from optimx.training.network import model
from optimx.training.resolve import resolve_model
from optimx.training.sections import PRESETS, Model
from optimx.typing import PyTree

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes:
      preset: the GPT-2 whose parameters are updated.
      dtype: of parameters and gradients, one of ``DTYPES``.
      only: names of optimizers; all where empty. The yardsticks always run.
      matrices_only: leave out all but the matrices of the blocks.
      steps: timed steps of each optimizer, at least 1.
      cycle: time optimizers that refresh something every so many updates over two
        whole cycles at least, after a first one.

    Raises:
      InputError: a value that is not allowed.
    """

    preset: str = "small"
    dtype: str = DTYPES[0]
    only: tuple[str, ...] = ()
    matrices_only: bool = False
    steps: int = 5
    cycle: bool = False

    def __post_init__(self):
        for key, known in (("preset", tuple(PRESETS)), ("dtype", DTYPES)):
            if (value := getattr(self, key)) not in known:
                hint = nearest(value, known)
                raise InputError(f"--{key} {value!r}: there is no such {key}{hint}")
        chosen(self.only)
        if self.steps < 1:
            raise InputError(f"--steps {self.steps}: must be at least 1")


def parameter_shapes(request: Request) -> PyTree:
    """The tree that is updated, as ``jax.ShapeDtypeStruct`` leaves."""
    tree = model.parameter_shapes(resolve_model(Model(preset=request.preset)))
    if request.matrices_only:
        paths = jax.tree_util.tree_leaves_with_path(tree)
        named = {
            jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in paths
        }
        tree = {k: x for k, x in named.items() if k.startswith("h_") and x.ndim == 2}
    dtype = jnp.dtype(request.dtype)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), tree)
