"""Decoupled weight decay whose mask is checked before anything is lost."""

import jax
import jax.numpy as jnp
import optax

from optimx import _checks, _tree
from optimx.typing import Mask, Scalar


def decay_weights(
    weight_decay: Scalar, mask: Mask | None
) -> optax.GradientTransformationExtraArgs:
    """Decoupled weight decay on the leaves of a mask that is checked at ``init``.

    A decay of zero reads no parameters, so that ``update`` needs none. Updates
    keep their dtypes, whatever those of the parameters are.
    """
    if _checks.is_zero(weight_decay):
        return optax.with_extra_args_support(optax.identity())
    inner = optax.with_extra_args_support(_decay_all(weight_decay))
    if mask is not None:
        inner = optax.masked(inner, mask)

    def init(params):
        require_mask(mask, params)
        return inner.init(params)

    def update(updates, state, params=None, **extra_args):
        if params is None and jax.tree.leaves(updates):
            raise ValueError(
                "weight_decay: update needs the parameters, got params=None; call "
                "tx.update(grads, state, params)."
            )
        return inner.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(init, update)


def _decay_all(weight_decay: Scalar) -> optax.GradientTransformation:
    def add(u, p):
        wide = u.astype(_tree.accumulator(u))
        p = p.astype(wide.dtype)
        return (wide + _tree.like(weight_decay, wide) * p).astype(u.dtype)

    def update(updates, state, params=None):
        return jax.tree.map(add, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def require_mask(mask: Mask | None, params: optax.Params) -> None:
    """Requires that a mask of weight decay fits the parameters and holds booleans."""
    if mask is not None:
        _checks.prefix_tree(
            "weight_decay",
            "mask",
            mask(params) if callable(mask) else mask,
            params,
            _is_boolean,
            "booleans",
        )


def _is_boolean(value) -> bool:
    return isinstance(value, bool) or getattr(value, "dtype", None) == jnp.bool_
