"""MARS for matrices: MARS-Shampoo as published, and MARS-M."""

from typing import Any

import optax

from optimx import _checks
from optimx.combine import precondition, stages
from optimx.linalg.newton_schulz import QUINTIC, Coefficients
from optimx.optimizers.adamw import beside_adamw
from optimx.optimizers.mars import mars_adamw
from optimx.transforms.clipping import clip_by_block_norm
from optimx.transforms.decay import decay_weights
from optimx.transforms.gradient_difference import (
    add_gradient_difference,
    correction_scale,
)
from optimx.transforms.momentum import ema
from optimx.transforms.orthogonal import (
    orthogonalize,
    scale_by_aspect_ratio,
    scale_by_longest_axis,
)
from optimx.typing import Labels, Mask, Scalar, ScalarOrSchedule

_NORM_EPS = 1e-7  # What the authors' code adds to the norm.


@_checks.hyperparameters
def mars_shampoo(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: Scalar = 0.95,
    b2: Scalar = 0.99,
    gamma: ScalarOrSchedule = 0.025,
    eps: Scalar = 1e-8,
    max_norm: Scalar = 1.0,
    steps: int = 5,
    coefficients: Coefficients = QUINTIC,
    dtype: Any = None,
    mesh_axis: Any = None,
    in_axis: int = -2,
    out_axis: int = -1,
    otherwise: optax.GradientTransformation | None = None,
    labels: Labels | None = None,
    weight_decay: Scalar = 0.0,
    mask: Mask | None = None,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""MARS-Shampoo as published: the polar factor of variance-reduced momentum.

    .. math::
        c_t &= g_t + \gamma \tfrac{\beta_1}{1-\beta_1} (g_t - g_{t-1}), \qquad
        c_t \leftarrow c_t / \max(1, \lVert c_t \rVert_2 / \text{max\_norm}) \\
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) c_t \\
        x_t &= x_{t-1} - \eta \Bigl( \sqrt{\max(1, n_\text{out}/n_\text{in})}\;
            \operatorname{polar}(m_t/(1-\beta_1)) + \lambda x_{t-1} \Bigr)

    for matrices. No factor of Shampoo is kept: as the authors write it, Shampoo without
    memory of the second moment is an orthogonalization. Same-shape matrices are stacked
    and the stack is split over the mesh that they live on; what is not a matrix gets
    MARS-AdamW, and reads b2 there alone.

    Args:
      learning_rate: the step size, at least 0, or a schedule counted from 0.
      b1: decay of the average, in [0, 1); it enters the correction too.
      b2: decay of the average of squares where MARS-AdamW acts, in [0, 1).
      gamma: strength of the variance reduction, at least 0, or a schedule evaluated at
        t = 1, 2, ...
      eps: added to the norm that a matrix is divided by, and to the root where
        MARS-AdamW acts, at least 0.
      max_norm: largest norm of a corrected gradient, per leaf, above 0; infinity never
        clips.
      steps: Newton-Schulz iterations, at least 1.
      coefficients: of the iterations; see :func:`orthogonalize`.
      dtype: of the products; see :func:`orthogonalize`.
      mesh_axis: mesh axis or axes to split stacks over; all of the mesh by default.
      in_axis: the axis of inputs, as in :mod:`jax.nn.initializers`; -2 for kernels of
        Flax.
      out_axis: the axis of outputs; -1 for kernels of Flax.
      otherwise: the transformation of what is not a matrix; by default
        :func:`mars_adamw` with the same numbers, as the authors' code has it. Their own
        runs take ``adamw(3e-3, b1=.9, b2=.95)``.
      labels: which leaves are matrices; :func:`hidden_matrices` by default.
      weight_decay: decoupled decay, multiplied by the learning rate; at least 0.
      mask: a tree of booleans (or a function that makes one) that says which leaves
        decay; all by default.
      accumulator_dtype: dtype of the averages and the stored gradient; float32 at least
        by default.

    Returns:
      The optimizer, with two numbers of state per parameter of a matrix and three of
      any other.

    Raises:
      ValueError: where a number is out of range; at ``init`` where labels or the mask
        do not fit the parameters; at ``update`` where weight decay is not given them.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> tx = optimx.mars_shampoo(3e-3)
      >>> params = {'kernel': jnp.ones((4, 6)), 'bias': jnp.zeros(6)}
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Yuan et al., *MARS*, 2024, https://arxiv.org/abs/2411.10438, algorithm 4, with
      step and epsilon as in the authors' code.
    """
    if otherwise is None:
        otherwise = mars_adamw(
            learning_rate,
            b1=b1,
            b2=b2,
            gamma=gamma,
            eps=eps,
            max_norm=max_norm,
            weight_decay=weight_decay,
            mask=mask,
            accumulator_dtype=accumulator_dtype,
        )
    step = optax.chain(
        optax.scale(1 / (1 - b1)),
        orthogonalize(
            steps=steps,
            coefficients=coefficients,
            eps=eps,
            dtype=dtype,
            mesh_axis=mesh_axis,
        ),
        scale_by_aspect_ratio(in_axis=in_axis, out_axis=out_axis),
    )
    rule = stages(
        correct=add_gradient_difference(
            correction_scale(gamma, b1), accumulator_dtype=accumulator_dtype
        ),
        clip=clip_by_block_norm(max_norm),
        precondition=precondition(
            ema(b1, debias=False, accumulator_dtype=accumulator_dtype), by=step
        ),
        decay=decay_weights(weight_decay, mask),
        rate=optax.scale_by_learning_rate(learning_rate),
    )
    return beside_adamw(
        rule,
        otherwise=otherwise,
        labels=labels,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        mask=mask,
        accumulator_dtype=accumulator_dtype,
    )


@_checks.hyperparameters
def mars_m(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: Scalar = 0.95,
    gamma: ScalarOrSchedule = 0.025,
    max_norm: Scalar = 1.0,
    steps: int = 5,
    coefficients: Coefficients = QUINTIC,
    dtype: Any = None,
    mesh_axis: Any = None,
    in_axis: int = -2,
    out_axis: int = -1,
    otherwise: optax.GradientTransformation | None = None,
    labels: Labels | None = None,
    weight_decay: Scalar = 0.0,
    mask: Mask | None = None,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""MARS-M: Moonlight's step on variance-reduced momentum.

    .. math::
        c_t &= g_t + \gamma \tfrac{\beta_1}{1-\beta_1} (g_t - g_{t-1}), \qquad
        c_t \leftarrow c_t / \max(1, \lVert c_t \rVert_2 / \text{max\_norm}) \\
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) c_t \\
        x_t &= x_{t-1} - \eta \Bigl( 0.2 \sqrt{\max(n_\text{in}, n_\text{out})}\;
            \operatorname{polar}(m_t) + \lambda x_{t-1} \Bigr)

    for matrices: the polar factor gets the root mean square of an AdamW update, so that
    one learning rate serves all. Same-shape matrices are stacked and the stack is split
    over the mesh that they live on; what is not a matrix gets AdamW.

    Args:
      learning_rate: the step size, at least 0, or a schedule counted from 0.
      b1: decay of the average, in [0, 1); it enters the correction too.
      gamma: strength of the variance reduction, at least 0, or a schedule evaluated at
        t = 1, 2, ...
      max_norm: largest norm of a corrected gradient, per leaf, above 0; infinity never
        clips.
      steps: Newton-Schulz iterations, at least 1.
      coefficients: of the iterations; see :func:`orthogonalize`.
      dtype: of the products; see :func:`orthogonalize`.
      mesh_axis: mesh axis or axes to split stacks over; all of the mesh by default.
      in_axis: the axis of inputs, as in :mod:`jax.nn.initializers`; -2 for kernels of
        Flax.
      out_axis: the axis of outputs; -1 for kernels of Flax.
      otherwise: the transformation of what is not a matrix; by default :func:`adamw`
        with b2 = 0.95 and the learning rate, weight decay and mask given here. A whole
        optimizer with its own learning rate may stand here.
      labels: which leaves are matrices; :func:`hidden_matrices` by default.
      weight_decay: decoupled decay, multiplied by the learning rate; at least 0.
      mask: a tree of booleans (or a function that makes one) that says which leaves
        decay; all by default.
      accumulator_dtype: dtype of the averages and the stored gradient; float32 at least
        by default.

    Returns:
      The optimizer, with two numbers of state per parameter.

    Raises:
      ValueError: where a number is out of range; at ``init`` where labels or the mask
        do not fit the parameters; at ``update`` where weight decay is not given them.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> tx = optimx.mars_m(6e-3)
      >>> params = {'kernel': jnp.ones((4, 6)), 'bias': jnp.zeros(6)}
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Liu et al., *MARS-M: When Variance Reduction Meets Matrices*, 2025,
      https://arxiv.org/abs/2510.21800, algorithm 2, in its approximate, clipped form.
    """
    step = optax.chain(
        orthogonalize(
            steps=steps,
            coefficients=coefficients,
            eps=_NORM_EPS,
            dtype=dtype,
            mesh_axis=mesh_axis,
        ),
        scale_by_longest_axis(0.2, in_axis=in_axis, out_axis=out_axis),
    )
    rule = stages(
        correct=add_gradient_difference(
            correction_scale(gamma, b1), accumulator_dtype=accumulator_dtype
        ),
        clip=clip_by_block_norm(max_norm),
        precondition=precondition(
            ema(b1, debias=False, accumulator_dtype=accumulator_dtype), by=step
        ),
        decay=decay_weights(weight_decay, mask),
        rate=optax.scale_by_learning_rate(learning_rate),
    )
    return beside_adamw(
        rule,
        otherwise=otherwise,
        labels=labels,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        mask=mask,
        accumulator_dtype=accumulator_dtype,
    )
