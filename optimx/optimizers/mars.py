"""MARS: variance-reduced momentum, as AdamW and as Lion."""

from typing import Any

import optax

from optimx import _checks
from optimx._recompute import recomputing
from optimx.combine import precondition, stages
from optimx.transforms.clipping import clip_by_block_norm
from optimx.transforms.decay import decay_weights
from optimx.transforms.diagonal import scale_by_rms
from optimx.transforms.gradient_difference import (
    add_gradient_difference,
    add_stale_gradient_difference,
    correction_scale,
)
from optimx.transforms.momentum import ema
from optimx.typing import Mask, Scalar, ScalarOrSchedule


@_checks.hyperparameters
def mars_adamw(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: Scalar = 0.95,
    b2: Scalar = 0.99,
    gamma: ScalarOrSchedule = 0.025,
    eps: Scalar = 1e-8,
    max_norm: Scalar = 1.0,
    weight_decay: Scalar = 0.0,
    mask: Mask | None = None,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""MARS-AdamW in its approximate form: AdamW on variance-reduced gradients.

    .. math::
        c_t &= g_t + \gamma \tfrac{\beta_1}{1-\beta_1} (g_t - g_{t-1}), \qquad
        c_t \leftarrow c_t / \max(1, \lVert c_t \rVert_2 / \text{max\_norm}) \\
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) c_t, \qquad
        v_t = \beta_2 v_{t-1} + (1-\beta_2) c_t^2 \\
        x_t &= x_{t-1} - \eta \Bigl( \frac{m_t/(1-\beta_1^t)}
            {\sqrt{v_t/(1-\beta_2^t)} + \epsilon} + \lambda x_{t-1} \Bigr)

    with :math:`g_0 = 0` and a norm per leaf. The authors apply it to matrices only:
    ``matrices_only(mars_adamw(6e-3), otherwise=adamw(3e-3, b1=.9, b2=.95))``.

    Args:
      learning_rate: the step size, at least 0, or a schedule counted from 0.
      b1: decay of the average, in [0, 1); it enters the correction too.
      b2: decay of the average of squares, in [0, 1).
      gamma: strength of the variance reduction, at least 0, or a schedule evaluated
        at t = 1, 2, ...; 0 is AdamW on clipped gradients.
      eps: added to the root, at least 0.
      max_norm: largest norm of a corrected gradient, per leaf, above 0; infinity
        never clips.
      weight_decay: decoupled decay, multiplied by the learning rate; at least 0.
      mask: a tree of booleans (or a function that makes one) that says which leaves
        decay; all by default.
      accumulator_dtype: dtype of the averages and the stored gradient; float32 at
        least by default.

    Returns:
      The optimizer, with three numbers of state per parameter.

    Raises:
      ValueError: where a number is out of range; at ``init`` where the mask does not
        fit the parameters; at ``update`` where weight decay is not given them.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, optimx
      >>> tx = optimx.mars_adamw(1e-2)
      >>> params = {'w': jnp.ones((3, 2))}
      >>> state = tx.init(params)
      >>> grads = jax.grad(lambda p: jnp.sum(p['w'] ** 2))(params)
      >>> updates, state = tx.update(grads, state, params)
      >>> print(optax.apply_updates(params, updates)['w'][0])
      [0.99 0.99]

    References:
      Yuan et al., *MARS: Unleashing the Power of Variance Reduction for Training
      Large Models*, 2024, https://arxiv.org/abs/2411.10438, algorithm 2.
    """
    return stages(
        correct=add_gradient_difference(
            correction_scale(gamma, b1), accumulator_dtype=accumulator_dtype
        ),
        clip=clip_by_block_norm(max_norm),
        precondition=precondition(
            ema(b1, accumulator_dtype=accumulator_dtype),
            by=scale_by_rms(b2, eps=eps, accumulator_dtype=accumulator_dtype),
        ),
        decay=decay_weights(weight_decay, mask),
        rate=optax.scale_by_learning_rate(learning_rate),
    )


@_checks.hyperparameters
def mars_adamw_exact(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: Scalar = 0.95,
    b2: Scalar = 0.99,
    gamma: ScalarOrSchedule = 0.025,
    eps: Scalar = 1e-8,
    max_norm: Scalar = 1.0,
    weight_decay: Scalar = 0.0,
    mask: Mask | None = None,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""MARS-AdamW in its exact form: both gradients of the difference on one batch.

    As :func:`mars_adamw`, with

    .. math::
        c_t = g(x_t; \xi_t) + \gamma \tfrac{\beta_1}{1-\beta_1} \bigl(g(x_t; \xi_t)
            - g(x_{t-1}; \xi_t)\bigr)

    The caller passes the gradient at the previous parameters as ``stale_grads``,
    zeros at the first step; :func:`value_and_stale_grad` computes it.

    Args:
      learning_rate: the step size, at least 0, or a schedule counted from 0.
      b1: decay of the average, in [0, 1); it enters the correction too.
      b2: decay of the average of squares, in [0, 1).
      gamma: strength of the variance reduction, at least 0, or a schedule evaluated
        at t = 1, 2, ...
      eps: added to the root, at least 0.
      max_norm: largest norm of a corrected gradient, per leaf, above 0.
      weight_decay: decoupled decay, multiplied by the learning rate; at least 0.
      mask: a tree of booleans (or a function that makes one) that says which leaves
        decay; all by default.
      accumulator_dtype: dtype of the averages; float32 at least by default.

    Returns:
      The optimizer, with two numbers of state per parameter (the caller keeps the
      third). Its ``update`` needs ``stale_grads``.

    Raises:
      ValueError: where a number is out of range; at ``init`` where the mask does not
        fit the parameters; at ``update`` where ``stale_grads`` is missing or weight
        decay is not given the parameters.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> tx = optimx.mars_adamw_exact(1e-2)
      >>> x = jnp.ones(3)
      >>> updates, state = tx.update(
      ...     2 * x, tx.init(x), x, stale_grads=jnp.zeros(3))

    References:
      Yuan et al., *MARS*, 2024, https://arxiv.org/abs/2411.10438, algorithm 2 with
      equation (2.5).
    """
    return recomputing(
        stages(
            correct=add_stale_gradient_difference(correction_scale(gamma, b1)),
            clip=clip_by_block_norm(max_norm),
            precondition=precondition(
                ema(b1, accumulator_dtype=accumulator_dtype),
                by=scale_by_rms(b2, eps=eps, accumulator_dtype=accumulator_dtype),
            ),
            decay=decay_weights(weight_decay, mask),
            rate=optax.scale_by_learning_rate(learning_rate),
        )
    )


@_checks.hyperparameters
def mars_lion(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: Scalar = 0.95,
    gamma: ScalarOrSchedule = 0.025,
    max_norm: Scalar = 1.0,
    weight_decay: Scalar = 0.0,
    mask: Mask | None = None,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""MARS-Lion: the sign of an average of variance-reduced gradients.

    .. math::
        c_t &= g_t + \gamma \tfrac{\beta_1}{1-\beta_1} (g_t - g_{t-1}), \qquad
        c_t \leftarrow c_t / \max(1, \lVert c_t \rVert_2 / \text{max\_norm}) \\
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) c_t \\
        x_t &= x_{t-1} - \eta \bigl( \operatorname{sign}(m_t) + \lambda x_{t-1}
            \bigr)

    There is no second rate for an interpolation, as Lion has: the correction, taken
    before the average, plays its part.

    Args:
      learning_rate: the step size, at least 0, or a schedule counted from 0. None is
        published for language models.
      b1: decay of the average, in [0, 1); it enters the correction too.
      gamma: strength of the variance reduction, at least 0, or a schedule evaluated
        at t = 1, 2, ...
      max_norm: largest norm of a corrected gradient, per leaf, above 0.
      weight_decay: decoupled decay, multiplied by the learning rate; at least 0.
      mask: a tree of booleans (or a function that makes one) that says which leaves
        decay; all by default.
      accumulator_dtype: dtype of the average and the stored gradient; float32 at
        least by default.

    Returns:
      The optimizer, with two numbers of state per parameter.

    Raises:
      ValueError: where a number is out of range; at ``init`` where the mask does not
        fit the parameters; at ``update`` where weight decay is not given them.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> tx = optimx.mars_lion(1e-2)
      >>> x = jnp.array([1.0, -2.0])
      >>> print(tx.update(x, tx.init(x), x)[0])
      [-0.01  0.01]

    References:
      Yuan et al., *MARS*, 2024, https://arxiv.org/abs/2411.10438, algorithm 3.
    """
    return stages(
        correct=add_gradient_difference(
            correction_scale(gamma, b1), accumulator_dtype=accumulator_dtype
        ),
        clip=clip_by_block_norm(max_norm),
        precondition=precondition(
            ema(b1, debias=False, accumulator_dtype=accumulator_dtype),
            by=optax.scale_by_sign(),
        ),
        decay=decay_weights(weight_decay, mask),
        rate=optax.scale_by_learning_rate(learning_rate),
    )
