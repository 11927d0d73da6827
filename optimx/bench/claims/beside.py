"""An optimizer with others beside it, which see the same gradients and move nothing."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimx.typing import PyTree


class BesideState(NamedTuple):
    """State of :func:`beside`.

    Attributes:
      inner: of the optimizer.
      others: of the others, by name.
      last: the optimizer's last update.
      measures: what is compared of the last update, by name; scalars.
    """

    inner: Any
    others: dict[str, Any]
    last: PyTree
    measures: dict[str, jax.Array]


def beside(
    tx: optax.GradientTransformation, others: Mapping[str, optax.GradientTransformation]
) -> optax.GradientTransformationExtraArgs:
    """``tx``, its updates compared with those of others on the same gradients.

    After each update the state's ``measures`` hold, of the update u,

    - ``rms``: root mean square over all numbers of u;
    - ``largest``: the largest rms of a leaf of u;
    - ``turn``: 1 - the cosine of the angle between u and the update before it;
    - for each other, with update o: ``NAME/rms``, rms(u) / rms(o), and
      ``NAME/turn``, 1 - the cosine of the angle between u and o.

    A quotient by zero is 0, as at a learning rate of 0.

    Args:
      tx: moves the parameters.
      others: by name.
    """
    tx = optax.with_extra_args_support(tx)
    kept = {k: optax.with_extra_args_support(other) for k, other in others.items()}
    names = ["rms", "largest", "turn"]
    names += [f"{name}/{what}" for name in kept for what in ("rms", "turn")]

    def init(params):
        return BesideState(
            tx.init(params),
            {name: other.init(params) for name, other in kept.items()},
            jax.tree.map(jnp.zeros_like, params),
            {name: jnp.zeros([], jnp.float32) for name in names},
        )

    def update(updates, state, params=None, **extra_args):
        moved, inner = tx.update(updates, state.inner, params, **extra_args)
        own = optax.tree.norm(moved)
        count = sum(leaf.size for leaf in jax.tree.leaves(moved))
        measures = {
            "rms": own / count**0.5,
            "largest": jnp.stack([_rms(leaf) for leaf in jax.tree.leaves(moved)]).max(),
            "turn": _turn(moved, state.last),
        }
        states = {}
        for name, other in kept.items():
            there, states[name] = other.update(updates, state.others[name], params)
            measures[f"{name}/rms"] = _over(own, optax.tree.norm(there))
            measures[f"{name}/turn"] = _turn(moved, there)
        return moved, BesideState(inner, states, moved, measures)

    return optax.GradientTransformationExtraArgs(init, update)


def _rms(leaf: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(leaf * leaf))


def _over(top: jax.Array, below: jax.Array) -> jax.Array:
    safe = jnp.where(below > 0, below, 1.0)
    return jnp.where(below > 0, top / safe, 0.0)


def _turn(one: PyTree, other: PyTree) -> jax.Array:
    norms = optax.tree.norm(one) * optax.tree.norm(other)
    return _over(norms - optax.tree.vdot(one, other), norms)
