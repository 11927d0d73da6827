"""What the stages of an optimizer have counted, read out of its state."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optimx import _checks

MEASURES = ("skipped", "kept")
"""Fields of states that count something worth knowing."""


def read(state: optax.OptState) -> dict[str, jax.Array]:
    """Finds the counts that stages keep of what went wrong, and adds them up.

    ``skipped``: signals that a preconditioner of matrices left out of its factors
    because they, or their products, were not finite; the matrices of one step count
    one by one. ``kept``: roots that were not replaced because the new one failed its
    check.

    Args:
      state: the state of any transformation that has ours in it, however deep; it may
        be read inside ``jit``.

    Returns:
      A dict from the path of each count in the state to its sum over matrices, an
      int32 scalar; empty where nothing counts.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> tx = optimx.scale_by_kronecker(0.9)
      >>> state = tx.init({'kernel': jnp.ones((4, 6))})
      >>> _, state = tx.update({'kernel': jnp.full((4, 6), jnp.nan)}, state)
      >>> {path: int(count) for path, count in optimx.monitor.read(state).items()}
      {'skipped/kernel': 1, 'kept/kernel': 0}
    """
    found: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        names = [getattr(entry, "name", None) for entry in path]
        if any(name in MEASURES for name in names):
            found[_checks.path_name(path)] = jnp.sum(leaf, dtype=jnp.int32)
    return found
