"""CAME: a factored second moment, guided by confidence."""

from typing import Any

import optax

from optimx import _checks
from optimx._recompute import recomputing
from optimx.combine import precondition, residual, stages
from optimx.transforms.decay import decay_weights
from optimx.transforms.factored import scale_by_factored_rms
from optimx.transforms.momentum import ema
from optimx.typing import Mask, Scalar
from optimx.wrappers.matrices import matrices_only


@_checks.hyperparameters
def came(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    b3: Scalar = 0.9999,
    eps: Scalar = 1e-30,
    confidence_eps: Scalar = 1e-16,
    clip_threshold: Scalar = 1.0,
    weight_decay: Scalar = 0.0,
    mask: Mask | None = None,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""CAME: Adafactor with momentum, trusted where the two agree.

    With :math:`F_\beta(x \mid s)` for :func:`scale_by_factored_rms`, which divides x
    by the root of factored statistics of s,

    .. math::
        u_t &= F_{\beta_2}(g_t \mid g_t), \qquad
        u_t \leftarrow u_t / \max(1, \operatorname{rms}(u_t)/\text{clip}) \\
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) u_t \\
        x_t &= x_{t-1} - \eta \bigl( F_{\beta_3}(m_t \mid u_t - m_t) + \lambda
            x_{t-1} \bigr)

    where leaves of rank below 2 keep a full second moment in the first line and take
    the step :math:`m_t` itself. Nothing is debiased: the residual's statistics make
    early steps up to :math:`(1-\beta_3^t)^{-1/2}` too long (100 at t = 1), so warm
    the learning rate up over 1,000 updates or more and keep it at 0.5 to 0.9 of
    AdamW's.

    Args:
      learning_rate: the step size, at least 0, or a schedule counted from 0; the
        authors' default is 2e-4.
      b1: decay of the average of updates, in [0, 1).
      b2: decay of the gradient's factored squares, in [0, 1).
      b3: decay of the residual's factored squares, in [0, 1); with b2 = 0.95 take
        0.99 to 0.999.
      eps: added to the gradient's squares, above 0.
      confidence_eps: added to the residual's squares, above 0.
      clip_threshold: largest root mean square of a leaf's update before the
        momentum, above 0.
      weight_decay: decoupled decay, multiplied by the learning rate; at least 0.
      mask: a tree of booleans (or a function that makes one) that says which leaves
        decay; all by default.
      accumulator_dtype: dtype of the average of updates; float32 at least by
        default. Factored statistics are always float32 at least.

    Returns:
      The optimizer, with one number of state per parameter, and two rows and two
      columns for each matrix.

    Raises:
      ValueError: where a number is out of range; at ``init`` where the mask does not
        fit the parameters; at ``update`` where weight decay is not given them.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, optimx
      >>> warm = optax.linear_schedule(0.0, 2e-4, 1000)
      >>> tx = optimx.came(warm, weight_decay=1e-2)
      >>> params = {'w': jnp.ones((64, 32))}
      >>> sizes = jax.tree.map(jnp.size, tx.init(params))
      >>> print(sum(jax.tree.leaves(sizes)) / params['w'].size < 1.1)
      True

    References:
      Luo et al., *CAME: Confidence-guided Adaptive Memory Efficient Optimization*,
      2023, https://arxiv.org/abs/2307.02047, algorithm 2.
    """
    return recomputing(
        stages(
            scale=scale_by_factored_rms(b2, eps=eps),
            clip=optax.clip_by_block_rms(clip_threshold),
            trust=precondition(
                ema(b1, debias=False, accumulator_dtype=accumulator_dtype),
                by=matrices_only(scale_by_factored_rms(b3, eps=confidence_eps)),
                observe=residual,
            ),
            decay=decay_weights(weight_decay, mask),
            rate=optax.scale_by_learning_rate(learning_rate),
        )
    )
