"""What the arrays of a state hold, and so how they are coded."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import optax
import optax.contrib
from jax.tree_util import GetAttrKey

from optimx import _checks
from optimx.codecs import POSITIVE, SIGNED
from optimx.transforms.diagonal import ScaleByRmsState
from optimx.transforms.factored import ScaleByFactoredRmsState
from optimx.transforms.gradient_difference import GradientDifferenceState
from optimx.transforms.kronecker import ScaleByKroneckerState
from optimx.transforms.momentum import EmaState
from optimx.typing import PyTree

Parts = Callable[[tuple], str | None]
"""Says of a leaf's path in the state whether it is coded: its kind, or None."""


# One name means many things: Adam's ``nu`` is positive, that of SM3 a momentum, that of
# Sophia a divider of either sign, for which no code is fine enough.
KINDS: Mapping[type, Mapping[str, str]] = {
    EmaState: {"average": SIGNED},
    GradientDifferenceState: {"previous": SIGNED},
    ScaleByRmsState: {"second_moment": POSITIVE},
    # Small, or spoiled by rounding; what is below their fields are parameters.
    ScaleByFactoredRmsState: {},
    ScaleByKroneckerState: {},
    optax.EmaState: {"ema": SIGNED},
    optax.TraceState: {"trace": SIGNED},
    optax.ScaleByLionState: {"mu": SIGNED},
    optax.contrib.MuonState: {"mu": SIGNED},
    optax.ScaleByAdamState: {"mu": SIGNED, "nu": POSITIVE},
    optax.ScaleByAmsgradState: {"mu": SIGNED, "nu": POSITIVE, "nu_max": POSITIVE},
    optax.ScaleByBeliefState: {"mu": SIGNED, "nu": POSITIVE},
    optax.contrib.ScaleByAdemamixState: {"m1": SIGNED, "m2": SIGNED, "nu": POSITIVE},
    optax.contrib.ScaleBySimplifiedAdEMAMixState: {"m": SIGNED, "n": POSITIVE},
    optax.ScaleByAdanState: {"m": SIGNED, "v": SIGNED, "n": POSITIVE, "g": SIGNED},
    optax.ScaleByNovogradState: {"mu": SIGNED},
    optax.ScaleBySM3State: {"nu": SIGNED},
    optax.contrib.SophiaState: {"mu": SIGNED},
    optax.ScaleByRmsState: {"nu": POSITIVE},
    # A variance as the difference of two near numbers: rounded, it falls below 0.
    optax.ScaleByRStdDevState: {},
    optax.FactoredState: {"v": POSITIVE},
}


@functools.cache
def _known() -> Mapping[type, Mapping[str, str]]:
    """``KINDS``, and the one state of moments whose type Optax keeps to itself."""
    state = jax.eval_shape(optax.scale_by_rms(bias_correction=True).init, ())
    return {**KINDS, type(state): {"nu": POSITIVE}}


class Field(GetAttrKey):
    """The key of a field that knows what it is a field of.

    Attributes:
      of: the type of the state, or of another node with fields.
    """

    of: type

    def __init__(self, name: str, of: type):
        super().__init__(name)
        self.of = of


def moments(path: tuple) -> str | None:
    """The default of :func:`quantized`: moments and stored gradients are coded.

    The first state on the path that is of a known type, ours or Optax's, says what its
    fields hold: averages and stored gradients have signs, averages of squares are
    positive. All else stays as it is: counters, factored rows and columns, roots and
    bases, and the arrays of states of other types, whatever their fields are called.

    Args:
      path: from the state's root to the array, as :func:`quantized` gives it to
        ``parts``: keys of :mod:`jax.tree_util`, of which those of fields also know
        the type of their state, ``key.of``.

    Returns:
      ``"signed"``, ``"positive"``, or None for what is not coded.

    Raises:
      TypeError: where the path has fields without their types, as those of
        :mod:`jax.tree_util` are.

    Examples:
      >>> import jax, jax.numpy as jnp, optimx
      >>> def parts(path):
      ...   print(jax.tree_util.keystr(path[1:]), optimx.moments(path))
      ...   return optimx.moments(path)
      >>> tx = optimx.quantized(
      ...     optimx.adamw(0.1), optimx.int8_blockwise(), parts=parts)
      >>> state = tx.init({'w': jnp.ones(2)})
      .direction.count None
      .direction.average['w'] signed
      .by.count None
      .by.second_moment['w'] positive
    """
    known = _known()
    for key in path:
        if isinstance(key, Field):
            if key.of in known:
                return known[key.of].get(key.name)
        elif isinstance(key, GetAttrKey):
            raise TypeError(
                "moments: path must be one that quantized(..., parts=) is asked about, "
                f"whose fields know their types; got {_checks.path_name(path)!r} with "
                f"{key!r}."
            )
    return None


def kind_of(path: tuple, parts: Parts) -> str:
    """What ``parts`` said when the state was made: paths do not change."""
    kind = parts(path)
    assert kind is not None
    return kind


def map_state(
    function: Callable, state: PyTree, *rest: PyTree, is_leaf: Callable[[Any], bool]
) -> PyTree:
    """As :func:`jax.tree_util.tree_map_with_path`, with a :class:`Field` for fields.

    Args:
      function: of a path, the leaf there and what stands there in ``rest``.
      state: what is walked through.
      *rest: trees of which ``state`` is a prefix.
      is_leaf: what is not entered.
    """
    leaves, structure = jax.tree.flatten(state, is_leaf=is_leaf)
    others = [structure.flatten_up_to(tree) for tree in rest]
    paths = _paths(state, is_leaf, ())
    return structure.unflatten(
        [function(*arguments) for arguments in zip(paths, leaves, *others, strict=True)]
    )


def _paths(node: Any, is_leaf: Callable[[Any], bool], path: tuple) -> Iterator[tuple]:
    """The paths of all leaves, in their order, one floor of the tree at a time."""
    if is_leaf(node):
        yield path
        return
    below = jax.tree_util.tree_leaves_with_path(node, is_leaf=lambda x: x is not node)
    for keys, child in below:
        if not keys:  # An array.
            yield path
            continue
        (key,) = keys
        if isinstance(key, GetAttrKey):
            key = Field(key.name, type(node))
        yield from _paths(child, is_leaf, (*path, key))
