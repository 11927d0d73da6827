"""Crossings with Muon: what is orthogonalized is not Muon's own momentum."""

from typing import Any

import optax

from optimx import _checks
from optimx.combine import mix, precondition, stages
from optimx.linalg.newton_schulz import QUINTIC, Coefficients
from optimx.optimizers.adamw import beside_adamw
from optimx.transforms.clipping import clip_by_block_norm
from optimx.transforms.decay import decay_weights
from optimx.transforms.gradient_difference import (
    add_gradient_difference,
    correction_scale,
)
from optimx.transforms.momentum import ema
from optimx.transforms.orthogonal import orthogonalize, scale_by_aspect_ratio
from optimx.typing import Labels, Mask, Scalar, ScalarOrSchedule


@_checks.hyperparameters
def ademamix_muon(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: Scalar = 0.9,
    b3: ScalarOrSchedule = 0.9999,
    alpha: ScalarOrSchedule = 5.0,
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
    r"""AdEMAMix before Muon: the polar factor of two memories.

    .. math::
        m_t &= \frac{m_{1,t}}{1-\beta_1^t} + \alpha(t)\, m_{2,t} \\
        x_t &= x_{t-1} - \eta \Bigl( \sqrt{\max(1, n_\text{out}/n_\text{in})}\;
            \operatorname{polar}(m_t) + \lambda x_{t-1} \Bigr)

    for matrices, with the memories of :func:`ademamix`: warm the slow one up. The step
    has the size of Muon's whatever alpha is; alpha turns its direction. Same-shape
    matrices are stacked and the stack is split over the mesh that they live on; what is
    not a matrix gets AdamW.

    Args:
      learning_rate: the step size, at least 0, or a schedule counted from 0.
      b1: decay of the fast average, in [0, 1).
      b3: decay of the slow average, in [0, 1), or a schedule evaluated at t = 1, 2,
        ...; see :func:`ademamix`.
      alpha: weight of the slow average, at least 0, or a schedule likewise.
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
      accumulator_dtype: dtype of the averages; float32 at least by default.

    Returns:
      The optimizer, with two numbers of state per parameter.

    Raises:
      ValueError: where a number is out of range; at ``init`` where labels or the mask
        do not fit the parameters; at ``update`` where weight decay is not given them.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> tx = optimx.ademamix_muon(0.02, b3=0.999, otherwise=optimx.adamw(1e-3))
      >>> params = {'kernel': jnp.ones((4, 6)), 'bias': jnp.zeros(6)}
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Pagliardini et al., *The AdEMAMix Optimizer*, 2024,
      https://arxiv.org/abs/2409.03137; Jordan et al., *Muon*, 2024,
      https://kellerjordan.github.io/posts/muon/.
    """
    memories = mix(
        (1.0, ema(b1, accumulator_dtype=accumulator_dtype)),
        (alpha, ema(b3, debias=False, accumulator_dtype=accumulator_dtype)),
    )
    step = optax.chain(
        orthogonalize(
            steps=steps, coefficients=coefficients, dtype=dtype, mesh_axis=mesh_axis
        ),
        scale_by_aspect_ratio(in_axis=in_axis, out_axis=out_axis),
    )
    rule = stages(
        precondition=precondition(memories, by=step),
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
def mars_ademamix_muon(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: Scalar = 0.95,
    b3: ScalarOrSchedule = 0.9999,
    alpha: ScalarOrSchedule = 5.0,
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
    r"""MARS before AdEMAMix before Muon: three ideas, one sentence.

    .. math::
        c_t &= g_t + \gamma \tfrac{\beta_1}{1-\beta_1} (g_t - g_{t-1}), \qquad
        c_t \leftarrow c_t / \max(1, \lVert c_t \rVert_2 / \text{max\_norm}) \\
        m_t &= \frac{m_{1,t}}{1-\beta_1^t} + \alpha(t)\, m_{2,t} \\
        x_t &= x_{t-1} - \eta \Bigl( \sqrt{\max(1, n_\text{out}/n_\text{in})}\;
            \operatorname{polar}(m_t) + \lambda x_{t-1} \Bigr)

    for matrices, with the memories of :func:`ademamix`, of c in place of g. Same-shape
    matrices are stacked and the stack is split over the mesh that they live on; what is
    not a matrix gets AdamW.

    Args:
      learning_rate: the step size, at least 0, or a schedule counted from 0.
      b1: decay of the fast average, in [0, 1); it enters the correction too.
      b3: decay of the slow average, in [0, 1), or a schedule evaluated at t = 1, 2,
        ...; see :func:`ademamix`.
      alpha: weight of the slow average, at least 0, or a schedule likewise.
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
      The optimizer, with three numbers of state per parameter of a matrix.

    Raises:
      ValueError: where a number is out of range; at ``init`` where labels or the mask
        do not fit the parameters; at ``update`` where weight decay is not given them.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> tx = optimx.mars_ademamix_muon(0.02, b3=0.999, otherwise=optimx.adamw(1e-3))
      >>> params = {'kernel': jnp.ones((4, 6)), 'bias': jnp.zeros(6)}
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Yuan et al., *MARS*, 2024, https://arxiv.org/abs/2411.10438; Pagliardini et al.,
      *The AdEMAMix Optimizer*, 2024, https://arxiv.org/abs/2409.03137; Jordan et al.,
      *Muon*, 2024, https://kellerjordan.github.io/posts/muon/.
    """
    memories = mix(
        (1.0, ema(b1, accumulator_dtype=accumulator_dtype)),
        (alpha, ema(b3, debias=False, accumulator_dtype=accumulator_dtype)),
    )
    step = optax.chain(
        orthogonalize(
            steps=steps, coefficients=coefficients, dtype=dtype, mesh_axis=mesh_axis
        ),
        scale_by_aspect_ratio(in_axis=in_axis, out_axis=out_axis),
    )
    rule = stages(
        correct=add_gradient_difference(
            correction_scale(gamma, b1), accumulator_dtype=accumulator_dtype
        ),
        clip=clip_by_block_norm(max_norm),
        precondition=precondition(memories, by=step),
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
