"""Clipping of each tensor by its own norm."""

import jax
import jax.numpy as jnp
import optax

from optimx import _checks, _tree
from optimx.typing import Scalar


def clip_by_block_norm(max_norm: Scalar) -> optax.GradientTransformationExtraArgs:
    r"""Scales each leaf down to a Euclidean norm of at most ``max_norm``.

    .. math:: u \leftarrow u \,/\, \max(1, \lVert u \rVert_2 / \text{max\_norm})

    The norm is that of the whole logical tensor, also when it is sharded, and is
    computed in float32 at least. No epsilon enters. A leaf whose norm overflows that
    dtype when squared (1.8e19 in float32) becomes zero. Where leaves stack layers along
    a leading axis, :func:`per_layer` gives every layer its own norm.

    Args:
      max_norm: the largest norm that a leaf keeps, above 0; infinity never clips.

    Returns:
      A stateless transformation.

    Raises:
      ValueError: where ``max_norm`` is not above 0.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> clip = optimx.clip_by_block_norm(1.0)
      >>> tree = {'long': jnp.array([3.0, 4.0]), 'short': jnp.array([0.3, 0.4])}
      >>> clipped, _ = clip.update(tree, clip.init(tree))
      >>> print(clipped['long'], clipped['short'])
      [0.6 0.8] [0.3 0.4]

    References:
      Yuan et al., *MARS*, 2024, https://arxiv.org/abs/2411.10438, equation (2.6).
    """
    _checks.positive("clip_by_block_norm", "max_norm", max_norm)

    def init(params):
        del params
        return optax.EmptyState()

    def clip(u):
        wide = u.astype(_tree.accumulator(u))
        limit = _tree.like(max_norm, wide)
        # The comparison is between squares, so that its derivative at a zero
        # gradient is zero and not NaN.
        total = jnp.sum(_tree.square(wide))
        # Squares may overflow, and infinity over an infinite limit is no number.
        excess = jnp.where(jnp.isinf(limit), 0, total / limit / limit)
        return (wide / jnp.sqrt(jnp.maximum(excess, 1))).astype(u.dtype)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        return jax.tree.map(clip, updates), state

    return optax.GradientTransformationExtraArgs(init, update)
