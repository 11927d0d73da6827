"""Arithmetic in float32 inside, the incoming dtype outside."""

import jax
import jax.numpy as jnp
import optax

from optimx import _checks, _tree


def in_float32(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Runs a transformation in float32 whatever dtype the updates have.

    A chain of stages rounds to the incoming dtype after every stage. Around the
    whole chain this wrapper leaves one rounding, at the end. Parameters, and extra
    arguments that are shaped as the updates, are widened likewise; wider dtypes
    than float32 stay as they are.

    Args:
      inner: any transformation.

    Returns:
      A transformation with the state of ``inner`` for float32 parameters.

    Raises:
      TypeError: where ``inner`` is not a transformation.

    Examples:
      >>> import jax.numpy as jnp, optax, optimx
      >>> tx = optimx.in_float32(optax.adam(1e-3))
      >>> params = jnp.ones(3, jnp.bfloat16)
      >>> state = tx.init(params)
      >>> updates, state = tx.update(params, state, params)
      >>> print(state[0].mu.dtype, updates.dtype)
      float32 bfloat16
    """
    _checks.transformation("in_float32", "inner", inner)
    inner = optax.with_extra_args_support(inner)

    def widen(x):
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return x
        dtype = _tree.wide_dtype(x.dtype)
        if dtype == x.dtype:
            return x
        if isinstance(x, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding)
        return x.astype(dtype)

    def wide(tree):
        return jax.tree.map(widen, tree)

    def init(params):
        return inner.init(wide(params))

    def update(updates, state, params=None, **extra_args):
        alike, others = _tree.matching(updates, extra_args)
        alike = {name: wide(value) for name, value in alike.items()}
        moved, state = inner.update(
            wide(updates), state, wide(params), **alike, **others
        )
        return jax.tree.map(lambda u, m: m.astype(u.dtype), updates, moved), state

    return optax.GradientTransformationExtraArgs(init, update)
