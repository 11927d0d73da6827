"""The values of one update: what a monitor computes at a measurement."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from optimx import _probe, _tree
from optimx.typing import PyTree

_ROOTS = ("change", "gain")  # Told as sums of squares.
_LOGARITHMS = ("condition",)


def measured(
    run: Callable[..., PyTree], updates: PyTree, *others: PyTree
) -> tuple[dict[str, jax.Array], PyTree]:
    """The values of one update, and the root mean square of each leaf of it.

    Args:
      run: from the incoming updates and the other arguments to the outgoing ones.
      updates: what came in.
      *others: state, parameters, extra arguments.
    """

    def whole(*arguments):
        return _summed(arguments[0], run(*arguments))

    (values, update_rms), told = _probe.collected(whole, updates, *others)
    told = {name: _finished(name, *pair) for name, pair in told.items()}
    return told | values, update_rms


def _summed(updates: PyTree, moved: PyTree) -> tuple[dict, PyTree]:
    """What a whole update makes of the gradient."""
    values = {}
    before, after = jax.tree.leaves(updates), jax.tree.leaves(moved)
    sizes = sum(leaf.size for leaf in before)
    of_gradient = _probe.total(map(_probe.energy, before))
    of_update = _probe.total(map(_probe.energy, after))
    product = _probe.total(map(_product, after, before))
    values["cosine"] = _over(product, jnp.sqrt(of_update) * jnp.sqrt(of_gradient))
    values["gradient_rms"] = jnp.sqrt(of_gradient / max(sizes, 1))
    values["update_rms"] = jnp.sqrt(of_update / max(sizes, 1))
    return values, jax.tree.map(_rms, moved)


def _finished(name: str, numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    measure = name.rpartition(".")[2]
    ratio = _over(numerator, denominator)
    if measure in _ROOTS:
        return jnp.sqrt(ratio)
    if measure in _LOGARITHMS:
        return jnp.where(denominator > 0, jnp.float32(10) ** ratio, 0)
    return ratio


def _over(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """Zero over zero is zero: nothing was measured."""
    safe = jnp.where(denominator == 0, 1, denominator)
    return jnp.where(denominator == 0, 0, numerator / safe)


def _rms(x: jax.Array) -> jax.Array:
    return jnp.sqrt(_probe.energy(x) / max(x.size, 1)).astype(jnp.float32)


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    """The real part of the inner product."""
    wide = _tree.accumulator(x)
    x, y = x.astype(wide), y.astype(wide)
    if jnp.iscomplexobj(x):
        return jnp.sum(x.real * y.real + x.imag * y.imag)
    return jnp.sum(x * y)
