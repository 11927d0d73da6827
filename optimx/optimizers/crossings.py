"""Crossings of the papers: cells of the algebra that no paper filled."""

from typing import Any

import optax

from optimx import _checks, _tree
from optimx._recompute import recomputing
from optimx.combine import mix, precondition, residual, stages
from optimx.transforms.clipping import clip_by_block_norm
from optimx.transforms.decay import decay_weights
from optimx.transforms.diagonal import scale_by_rms
from optimx.transforms.factored import scale_by_factored_rms
from optimx.transforms.gradient_difference import (
    add_gradient_difference,
    correction_scale,
)
from optimx.transforms.momentum import ema
from optimx.typing import Mask, Scalar, ScalarOrSchedule
from optimx.wrappers.matrices import matrices_only


@_checks.hyperparameters
def mars_ademamix(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: Scalar = 0.95,
    b2: Scalar = 0.99,
    b3: ScalarOrSchedule = 0.9999,
    alpha: ScalarOrSchedule = 5.0,
    gamma: ScalarOrSchedule = 0.025,
    eps: Scalar = 1e-8,
    max_norm: Scalar = 1.0,
    weight_decay: Scalar = 0.0,
    mask: Mask | None = None,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""MARS before AdEMAMix: two memories of variance-reduced gradients.

    .. math::
        c_t &= g_t + \gamma \tfrac{\beta_1}{1-\beta_1} (g_t - g_{t-1}), \qquad
        c_t \leftarrow c_t / \max(1, \lVert c_t \rVert_2 / \text{max\_norm}) \\
        x_t &= x_{t-1} - \eta \Bigl( \frac{m_{1,t}/(1-\beta_1^t) + \alpha(t)\,
            m_{2,t}}{\sqrt{v_t/(1-\beta_2^t)} + \epsilon} + \lambda x_{t-1} \Bigr)

    with :math:`m_1`, :math:`m_2` and v as in :func:`ademamix`, of c in place of g.
    Through the slow average the correction is nearly invisible: it acts through the
    fast one and the denominator. The rates are MARS's, b3 and alpha AdEMAMix's.

    Args:
      learning_rate: the step size, at least 0, or a schedule counted from 0.
      b1: decay of the fast average, in [0, 1); it enters the correction too.
      b2: decay of the average of squares, in [0, 1).
      b3: decay of the slow average, in [0, 1), or a schedule evaluated at t = 1, 2,
        ...; see :func:`ademamix`.
      alpha: weight of the slow average, at least 0, or a schedule likewise.
      gamma: strength of the variance reduction, at least 0, or a schedule likewise.
      eps: added to the root, at least 0.
      max_norm: largest norm of a corrected gradient, per leaf, above 0.
      weight_decay: decoupled decay, multiplied by the learning rate; at least 0.
      mask: a tree of booleans (or a function that makes one) that says which leaves
        decay; all by default.
      accumulator_dtype: dtype of the averages and the stored gradient; float32 at
        least by default.

    Returns:
      The optimizer, with four numbers of state per parameter.

    Raises:
      ValueError: where a number is out of range; at ``init`` where the mask does not
        fit the parameters; at ``update`` where weight decay is not given them.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> tx = optimx.mars_ademamix(1e-3, b3=0.99, alpha=optimx.linear_warmup(5, 100))
      >>> x = jnp.ones(3)
      >>> updates, state = tx.update(x, tx.init(x), x)

    References:
      Yuan et al., *MARS*, 2024, https://arxiv.org/abs/2411.10438; Pagliardini et
      al., *The AdEMAMix Optimizer*, 2024, https://arxiv.org/abs/2409.03137.
    """
    memories = mix(
        (1.0, ema(b1, accumulator_dtype=accumulator_dtype)),
        (alpha, ema(b3, debias=False, accumulator_dtype=accumulator_dtype)),
    )
    return stages(
        correct=add_gradient_difference(
            correction_scale(gamma, b1), accumulator_dtype=accumulator_dtype
        ),
        clip=clip_by_block_norm(max_norm),
        precondition=precondition(
            memories,
            by=scale_by_rms(b2, eps=eps, accumulator_dtype=accumulator_dtype),
        ),
        decay=decay_weights(weight_decay, mask),
        rate=optax.scale_by_learning_rate(learning_rate),
    )


@_checks.hyperparameters
def mars_came(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: Scalar = 0.95,
    b2: Scalar = 0.99,
    b3: Scalar = 0.999,
    gamma: ScalarOrSchedule = 0.025,
    eps: Scalar = 1e-30,
    confidence_eps: Scalar = 1e-16,
    max_norm: Scalar = 1.0,
    clip_threshold: Scalar = 1.0,
    weight_decay: Scalar = 0.0,
    mask: Mask | None = None,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""MARS before CAME: factored, confident steps on variance-reduced gradients.

    .. math::
        c_t = g_t + \gamma \tfrac{\beta_1}{1-\beta_1} (g_t - g_{t-1}), \qquad
        c_t \leftarrow c_t / \max(1, \lVert c_t \rVert_2 / \text{max\_norm})

    and then the steps of :func:`came` on c in place of g. The rates b1 and b2 are
    MARS's; b3 is shortened with b2, as CAME's authors advise.

    Args:
      learning_rate: the step size, at least 0, or a schedule counted from 0; warm it
        up as for :func:`came`.
      b1: decay of the average of updates, in [0, 1); it enters the correction too.
      b2: decay of the corrected gradient's factored squares, in [0, 1).
      b3: decay of the residual's factored squares, in [0, 1).
      gamma: strength of the variance reduction, at least 0, or a schedule evaluated
        at t = 1, 2, ...
      eps: added to the gradient's squares, above 0.
      confidence_eps: added to the residual's squares, above 0.
      max_norm: largest norm of a corrected gradient, per leaf, above 0.
      clip_threshold: largest root mean square of a leaf's update before the
        momentum, above 0.
      weight_decay: decoupled decay, multiplied by the learning rate; at least 0.
      mask: a tree of booleans (or a function that makes one) that says which leaves
        decay; all by default.
      accumulator_dtype: dtype of the average and the stored gradient; float32 at
        least by default. Factored statistics are always float32 at least.

    Returns:
      The optimizer, with two numbers of state per parameter, and two rows and two
      columns for each matrix.

    Raises:
      ValueError: where a number is out of range; at ``init`` where the mask does not
        fit the parameters; at ``update`` where weight decay is not given them.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> tx = optimx.mars_came(1e-4)
      >>> x = jnp.ones((3, 2))
      >>> updates, state = tx.update(x, tx.init(x), x)

    References:
      Yuan et al., *MARS*, 2024, https://arxiv.org/abs/2411.10438; Luo et al.,
      *CAME*, 2023, https://arxiv.org/abs/2307.02047.
    """
    return recomputing(
        stages(
            correct=add_gradient_difference(
                correction_scale(gamma, b1), accumulator_dtype=accumulator_dtype
            ),
            clip=clip_by_block_norm(max_norm),
            scale=scale_by_factored_rms(b2, eps=eps),
            clip_scaled=optax.clip_by_block_rms(clip_threshold),
            trust=precondition(
                ema(b1, debias=False, accumulator_dtype=accumulator_dtype),
                by=matrices_only(scale_by_factored_rms(b3, eps=confidence_eps)),
                observe=residual,
            ),
            decay=decay_weights(weight_decay, mask),
            rate=optax.scale_by_learning_rate(learning_rate),
        )
    )


@_checks.hyperparameters
def ademamix_came(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    b3: ScalarOrSchedule = 0.9999,
    alpha: ScalarOrSchedule = 5.0,
    confidence_decay: Scalar = 0.9999,
    eps: Scalar = 1e-30,
    confidence_eps: Scalar = 1e-16,
    clip_threshold: Scalar = 1.0,
    weight_decay: Scalar = 0.0,
    mask: Mask | None = None,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""CAME with AdEMAMix's two memories as its momentum.

    With u the clipped, factored update of :func:`came`,

    .. math::
        m_t &= \frac{m_{1,t} + \alpha(t)\, m_{2,t}}{1 + \alpha(t)}, \qquad
        m_{1,t} = \beta_1 m_{1,t-1} + (1-\beta_1) u_t, \quad
        m_{2,t} = \beta_3(t)\, m_{2,t-1} + (1-\beta_3(t)) u_t \\
        x_t &= x_{t-1} - \eta \bigl( (1 + \alpha(t))\, F(m_t \mid u_t - m_t) +
            \lambda x_{t-1} \bigr)

    The mix is convex where the residual is taken, since confidence compares the
    update with an *average* of updates; the factor 1 + alpha is restored afterwards.
    As in CAME nothing is debiased.

    Args:
      learning_rate: the step size, at least 0, or a schedule counted from 0; warm it
        up as for :func:`came`.
      b1: decay of the fast average, in [0, 1); 0 keeps no fast average.
      b2: decay of the gradient's factored squares, in [0, 1).
      b3: decay of the slow average, in [0, 1), or a schedule evaluated at t = 1, 2,
        ...; see :func:`ademamix`.
      alpha: weight of the slow average, at least 0, or a schedule likewise.
      confidence_decay: decay of the residual's factored squares, in [0, 1); the b3
        of :func:`came`.
      eps: added to the gradient's squares, above 0.
      confidence_eps: added to the residual's squares, above 0.
      clip_threshold: largest root mean square of a leaf's update before the
        momentum, above 0.
      weight_decay: decoupled decay, multiplied by the learning rate; at least 0.
      mask: a tree of booleans (or a function that makes one) that says which leaves
        decay; all by default.
      accumulator_dtype: dtype of the averages; float32 at least by default. Factored
        statistics are always float32 at least.

    Returns:
      The optimizer, with two numbers of state per parameter, and two rows and two
      columns for each matrix.

    Raises:
      ValueError: where a number is out of range; at ``init`` where the mask does not
        fit the parameters; at ``update`` where weight decay is not given them.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> tx = optimx.ademamix_came(1e-4, b3=0.99)
      >>> x = jnp.ones((3, 2))
      >>> updates, state = tx.update(x, tx.init(x), x)

    References:
      Pagliardini et al., *The AdEMAMix Optimizer*, 2024,
      https://arxiv.org/abs/2409.03137; Luo et al., *CAME*, 2023,
      https://arxiv.org/abs/2307.02047.
    """
    fast = _tree.scaled(alpha, lambda a: 1 / (1 + a))
    slow = _tree.scaled(alpha, lambda a: a / (1 + a))
    memories = mix(
        (fast, ema(b1, debias=False, accumulator_dtype=accumulator_dtype)),
        (slow, ema(b3, debias=False, accumulator_dtype=accumulator_dtype)),
    )
    return recomputing(
        stages(
            scale=scale_by_factored_rms(b2, eps=eps),
            clip=optax.clip_by_block_rms(clip_threshold),
            trust=precondition(
                memories,
                by=matrices_only(
                    scale_by_factored_rms(confidence_decay, eps=confidence_eps)
                ),
                observe=residual,
            ),
            restore=mix((_tree.scaled(alpha, lambda a: 1 + a), optax.identity())),
            decay=decay_weights(weight_decay, mask),
            rate=optax.scale_by_learning_rate(learning_rate),
        )
    )
