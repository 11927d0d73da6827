"""States of which some arrays are coded, wherever in an optimizer that is asked for."""

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import GetAttrKey

from optimx.codecs import Coded
from optimx.typing import PyTree
from optimx.wrappers.kinds import kind_of, map_state
from optimx.wrappers.quantize import Quantized, QuantizedState, recorded

Coders = dict[tuple, Quantized]
"""What codes a part of a state, by the path of its :class:`QuantizedState`."""

_INNER = GetAttrKey("inner")


def coders_of(tx: optax.GradientTransformation, params: PyTree) -> Coders:
    """What codes each part of the state of an optimizer.

    Args:
      tx: the optimizer, with any number of quantized transformations in it.
      params: of which it is traced; nothing is computed.
    """
    with recorded() as found:
        # A function of its own, for JAX remembers what it has traced.
        marked = jax.eval_shape(lambda params: tx.init(params), params)
    return {
        path: found[node.count.shape[-2]] for path, node in _coded_parts(marked, ())
    }


def _coded_parts(state: PyTree, path: tuple) -> list[tuple[tuple, QuantizedState]]:
    named = jax.tree_util.tree_leaves_with_path(state, is_leaf=_is_part)
    parts = [((*path, *keys), node) for keys, node in named if _is_part(node)]
    return parts + [
        inner
        for keys, node in parts
        for inner in _coded_parts(node.inner, (*keys, _INNER))
    ]


def _is_part(node: object) -> bool:
    return isinstance(node, QuantizedState)


def _stays(node: object) -> bool:
    return isinstance(node, (Coded, QuantizedState))


def forms(state: PyTree) -> list[str]:
    """The dtype of each array, or of the codes that stand for it."""
    leaves = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, Coded))
    return [
        str(x.codes.dtype if isinstance(x, Coded) else jnp.result_type(x))
        for x in leaves
    ]


def decoded(state: PyTree, coders: Coders, path: tuple = ()) -> PyTree:
    """The state with arrays in the place of codes, and its tree otherwise.

    Args:
      state: of the optimizer that ``coders`` are of.
      coders: as :func:`coders_of` gives them.
      path: of ``state`` in a larger one.
    """

    def open_part(keys, node):
        if not _is_part(node):
            return node
        here = *path, *keys
        coder = coders[here]

        def decode(keys, x):
            if isinstance(x, Coded):
                return coder.codec.decode(x, kind_of(keys, coder.parts))
            return decoded(x, coders, (*here, _INNER, *keys)) if _is_part(x) else x

        inner = map_state(decode, node.inner, is_leaf=_stays)
        return node._replace(inner=inner)

    return jax.tree_util.tree_map_with_path(open_part, state, is_leaf=_is_part)


def encoded(state: PyTree, like: PyTree, coders: Coders, path: tuple = ()) -> PyTree:
    """The state with codes, rounded to the nearest, where ``like`` has codes.

    Args:
      state: as :func:`decoded` gives it.
      like: a state with codes.
      coders: as :func:`coders_of` gives them for it.
      path: of ``state`` in a larger one.
    """

    def close_part(keys, node, part):
        if not _is_part(node):
            return part
        here = *path, *keys
        coder = coders[here]

        def encode(keys, before, x):
            if isinstance(before, Coded):
                return coder.codec.encode(x, kind_of(keys, coder.parts), None)
            if _is_part(before):
                return encoded(x, before, coders, (*here, _INNER, *keys))
            return x

        inner = map_state(encode, node.inner, part.inner, is_leaf=_stays)
        return part._replace(inner=inner)

    return jax.tree_util.tree_map_with_path(close_part, like, state, is_leaf=_is_part)
