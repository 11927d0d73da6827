"""What several transformations do with trees and leaves."""

import math
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optimx.typing import Count, PyTree, Scalar, ScalarOrSchedule


def map_to(count: int, function: Callable, tree: PyTree, *rest: PyTree) -> tuple:
    """Maps a function of ``count`` results over trees: ``count`` trees come back."""
    leaves, treedef = jax.tree.flatten(tree)
    others = [treedef.flatten_up_to(other) for other in rest]
    results = [function(*arguments) for arguments in zip(leaves, *others, strict=True)]
    columns = zip(*results, strict=True) if results else ((),) * count
    return tuple(treedef.unflatten(column) for column in columns)


def real_dtype(dtype: Any) -> Any:
    """The dtype of the parts of a number: float32 for complex64."""
    return jnp.finfo(dtype).dtype


def wide_dtype(dtype: Any) -> Any:
    """The dtype, or float32's precision where it has less."""
    # Asked for in so many words, so strict promotion has nothing to forbid.
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(dtype, jnp.float32)


def accumulator(x: Any, dtype: Any = None) -> Any:
    """The dtype in which to accumulate ``x``: float32 at least, unless given.

    A complex leaf keeps complex accumulators whatever is asked for.
    """
    if dtype is None or jnp.issubdtype(x.dtype, jnp.complexfloating):
        return wide_dtype(x.dtype)
    return jnp.dtype(dtype)


def arithmetic(x: Any, held: Any) -> Any:
    """The dtype in which to add ``x`` to an accumulator: the wider of the two.

    An accumulator that is narrower than :func:`accumulator` says is widened by it.
    """
    wide = accumulator(x)
    if jnp.finfo(held.dtype).bits <= jnp.finfo(wide).bits:
        return wide
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(wide, held.dtype)


def zeros(x: Any, dtype: Any) -> jax.Array:
    """Zeros computed from ``x``, so that shape and sharding follow from it."""
    return jnp.zeros_like(x, dtype=dtype)


def materialized(params: PyTree) -> PyTree:
    """Zeros in the place of :class:`jax.ShapeDtypeStruct` leaves."""
    return jax.tree.map(
        lambda p: (
            jnp.zeros(p.shape, p.dtype) if isinstance(p, jax.ShapeDtypeStruct) else p
        ),
        params,
    )


def square(x: jax.Array) -> jax.Array:
    """Elementwise |x|^2, real also where ``x`` is complex."""
    if jnp.iscomplexobj(x):
        return x.real * x.real + x.imag * x.imag
    return x * x


def norm(x: jax.Array) -> jax.Array:
    """The Euclidean norm, also where the squares would overflow or vanish."""
    peak = jnp.max(jnp.abs(x), initial=0)
    safe = jnp.where(peak > 0, peak, 1)
    return peak * jnp.sqrt(jnp.sum(square(x / safe)))


def mean(x: jax.Array, axis: int) -> jax.Array:
    """The mean along an axis; zero, not NaN, along an empty one."""
    return jnp.sum(x, axis=axis) / max(x.shape[axis], 1)


def increment(count: Count) -> jax.Array:
    """The next count; it stays at the largest int32 rather than wrapping."""
    return jnp.asarray(optax.safe_increment(count))


def like(value: Scalar, x: jax.Array) -> Scalar:
    """``value`` in the precision of ``x``; Python numbers adapt by themselves."""
    if isinstance(value, (int, float)):
        return value
    return jnp.asarray(value).astype(real_dtype(x.dtype))


def at(value: ScalarOrSchedule, count: jax.Array) -> Scalar:
    """A scalar, or a schedule's value at ``count``."""
    return jnp.asarray(value(count)) if callable(value) else cast(Scalar, value)


def scaled(value: ScalarOrSchedule, function: Callable) -> ScalarOrSchedule:
    """``function(value)``, as a schedule where ``value`` is one."""
    if callable(value):
        return lambda count: function(value(count))
    return function(value)


def debias(decay: Scalar, count: jax.Array, dtype: Any) -> jax.Array:
    """1 - decay^count, the weight that an average from zero has seen.

    Written with expm1: the difference from 1 loses four digits in float32 when
    the decay is 0.9999 and the count is small.
    """
    dtype = real_dtype(dtype)
    if isinstance(decay, (int, float)):
        log = math.log(decay) if decay > 0 else -math.inf
    else:
        log = jnp.log(jnp.asarray(decay).astype(dtype))
    return -jnp.expm1(count.astype(dtype) * log).astype(dtype)


def matching(
    tree: PyTree, extra_args: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits extra arguments into those shaped as ``tree`` and the others.

    Wrappers that change what a transformation sees must change the signals that
    travel beside the updates (``observed``, ``stale_grads``) in the same way.
    Shapes are compared too: beside a tree of one leaf every scalar would fit.
    """
    leaves, structure = jax.tree.flatten(tree)

    def alike(value):
        others, theirs = jax.tree.flatten(value)
        return theirs == structure and all(
            np.shape(a) == np.shape(b) for a, b in zip(leaves, others, strict=True)
        )

    same = {k: v for k, v in extra_args.items() if not callable(v) and alike(v)}
    return same, {k: v for k, v in extra_args.items() if k not in same}


def of_arrays(
    extra_args: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The extra arguments that are trees of arrays, and the others."""
    kinds = (jax.Array, np.ndarray)
    arrays = {
        name: value
        for name, value in extra_args.items()
        if all(isinstance(leaf, kinds) for leaf in jax.tree.leaves(value))
    }
    return arrays, {k: v for k, v in extra_args.items() if k not in arrays}
