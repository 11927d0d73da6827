"""Crossings with SOAP: other gradients, or other memories, in the eigenbasis."""

from typing import Any

import optax

from optimx import _checks
from optimx.combine import mix, precondition, stages
from optimx.optimizers.adamw import beside_adamw
from optimx.transforms.clipping import clip_by_block_norm
from optimx.transforms.decay import decay_weights
from optimx.transforms.diagonal import scale_by_rms
from optimx.transforms.eigenbasis import in_eigenbasis
from optimx.transforms.gradient_difference import (
    add_gradient_difference,
    correction_scale,
)
from optimx.transforms.momentum import ema
from optimx.typing import Labels, Mask, Scalar, ScalarOrSchedule


@_checks.hyperparameters
def mars_soap(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: Scalar = 0.95,
    b2: Scalar = 0.99,
    gamma: ScalarOrSchedule = 0.025,
    max_norm: Scalar = 1.0,
    factor_decay: Scalar | None = None,
    eps: Scalar = 1e-8,
    update_every: int = 10,
    max_dim: int = 10_000,
    max_aspect: float = 4,
    spread: bool = True,
    mesh_axis: Any = None,
    otherwise: optax.GradientTransformation | None = None,
    labels: Labels | None = None,
    weight_decay: Scalar = 0.0,
    mask: Mask | None = None,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""MARS before SOAP: variance-reduced gradients in their eigenbasis.

    .. math::
        c_t &= g_t + \gamma \tfrac{\beta_1}{1-\beta_1} (g_t - g_{t-1}), \qquad
        c_t \leftarrow c_t / \max(1, \lVert c_t \rVert_2 / \text{max\_norm}) \\
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) c_t, \qquad
        v_t = \beta_2 v_{t-1} + (1-\beta_2) |Q_L^H c_t Q_R|^2 \\
        x_t &= x_{t-1} - \eta \Bigl( Q_L
            \frac{Q_L^H \hat m_t Q_R}{\sqrt{\hat v_t} + \epsilon} Q_R^H
            + \lambda x_{t-1} \Bigr)

    for matrices, with :math:`Q_L` and :math:`Q_R` the slowly turning eigenvectors of
    averages of :math:`c c^H` and :math:`c^H c` (:func:`in_eigenbasis`), and bias
    corrections hatted. A matrix stands still until its first basis, for at most
    ``update_every`` steps. Same-shape matrices are stacked and the stack is split over
    the mesh that they live on; what is not a matrix gets AdamW.

    Args:
      learning_rate: the step size, at least 0, or a schedule counted from 0.
      b1: decay of the average, in [0, 1); it enters the correction too.
      b2: decay of the second moment in the eigenbasis, in [0, 1).
      gamma: strength of the variance reduction, at least 0, or a schedule evaluated at
        t = 1, 2, ...
      max_norm: largest norm of a corrected gradient, per leaf, above 0; infinity never
        clips.
      factor_decay: decay of the factors, in [0, 1); ``b2`` by default.
      eps: added to the root of the second moment, at least 0.
      update_every: steps between two refreshes of a basis, at least 1.
      max_dim: a longer side is not turned, at least 1.
      max_aspect: a side at least this many times the other is not turned, above 1.
      spread: whether matrices take turns at refreshing, rather than all at once.
      mesh_axis: mesh axis or axes to split stacks over; all of the mesh by default.
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
      The optimizer, with three numbers of state per parameter of a matrix, and two
      square matrices for each side that is turned.

    Raises:
      ValueError: where a number is out of range; at ``init`` where labels or the mask
        do not fit the parameters; at ``update`` where weight decay is not given them.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> tx = optimx.mars_soap(3e-3)
      >>> params = {'kernel': jnp.ones((4, 6)), 'bias': jnp.zeros(6)}
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Yuan et al., *MARS*, 2024, https://arxiv.org/abs/2411.10438; Vyas et al., *SOAP*,
      2024, https://arxiv.org/abs/2409.11321.
    """
    basis = in_eigenbasis(
        scale_by_rms(b2, eps=eps, accumulator_dtype=accumulator_dtype),
        decay=b2 if factor_decay is None else factor_decay,
        update_every=update_every,
        max_dim=max_dim,
        max_aspect=max_aspect,
        spread=spread,
        mesh_axis=mesh_axis,
    )
    rule = stages(
        correct=add_gradient_difference(
            correction_scale(gamma, b1), accumulator_dtype=accumulator_dtype
        ),
        clip=clip_by_block_norm(max_norm),
        precondition=precondition(
            ema(b1, accumulator_dtype=accumulator_dtype), by=basis
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
def ademamix_soap(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: Scalar = 0.9,
    b2: Scalar = 0.95,
    b3: ScalarOrSchedule = 0.9999,
    alpha: ScalarOrSchedule = 5.0,
    factor_decay: Scalar | None = None,
    eps: Scalar = 1e-8,
    update_every: int = 10,
    max_dim: int = 10_000,
    max_aspect: float = 4,
    spread: bool = True,
    mesh_axis: Any = None,
    otherwise: optax.GradientTransformation | None = None,
    labels: Labels | None = None,
    weight_decay: Scalar = 0.0,
    mask: Mask | None = None,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdEMAMix in SOAP's eigenbasis: two memories over a rotated second moment.

    .. math::
        m_t &= \frac{m_{1,t}}{1-\beta_1^t} + \alpha(t)\, m_{2,t} \\
        v_t &= \beta_2 v_{t-1} + (1-\beta_2) |Q_L^H g_t Q_R|^2 \\
        x_t &= x_{t-1} - \eta \Bigl( Q_L
            \frac{Q_L^H m_t Q_R}{\sqrt{\hat v_t} + \epsilon} Q_R^H
            + \lambda x_{t-1} \Bigr)

    for matrices, with :math:`Q_L` and :math:`Q_R` the slowly turning eigenvectors of
    averages of :math:`g g^H` and :math:`g^H g` (:func:`in_eigenbasis`), and bias
    corrections hatted. A matrix stands still until its first basis, for at most
    ``update_every`` steps. The memories are those of :func:`ademamix`: warm the slow
    one up. Same-shape matrices are stacked and the stack is split over the mesh that
    they live on; what is not a matrix gets AdamW.

    Args:
      learning_rate: the step size, at least 0, or a schedule counted from 0.
      b1: decay of the fast average, in [0, 1).
      b2: decay of the second moment in the eigenbasis, in [0, 1).
      b3: decay of the slow average, in [0, 1), or a schedule evaluated at t = 1, 2,
        ...; see :func:`ademamix`.
      alpha: weight of the slow average, at least 0, or a schedule likewise.
      factor_decay: decay of the factors, in [0, 1); ``b2`` by default.
      eps: added to the root of the second moment, at least 0.
      update_every: steps between two refreshes of a basis, at least 1.
      max_dim: a longer side is not turned, at least 1.
      max_aspect: a side at least this many times the other is not turned, above 1.
      spread: whether matrices take turns at refreshing, rather than all at once.
      mesh_axis: mesh axis or axes to split stacks over; all of the mesh by default.
      otherwise: the transformation of what is not a matrix; by default :func:`adamw`
        with b2 = 0.95 and the learning rate, weight decay and mask given here. A whole
        optimizer with its own learning rate may stand here.
      labels: which leaves are matrices; :func:`hidden_matrices` by default.
      weight_decay: decoupled decay, multiplied by the learning rate; at least 0.
      mask: a tree of booleans (or a function that makes one) that says which leaves
        decay; all by default.
      accumulator_dtype: dtype of the averages; float32 at least by default.

    Returns:
      The optimizer, with three numbers of state per parameter of a matrix, and two
      square matrices for each side that is turned.

    Raises:
      ValueError: where a number is out of range; at ``init`` where labels or the mask
        do not fit the parameters; at ``update`` where weight decay is not given them.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> tx = optimx.ademamix_soap(1e-3, b3=0.999)
      >>> params = {'kernel': jnp.ones((4, 6)), 'bias': jnp.zeros(6)}
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Pagliardini et al., *The AdEMAMix Optimizer*, 2024,
      https://arxiv.org/abs/2409.03137; Vyas et al., *SOAP*, 2024,
      https://arxiv.org/abs/2409.11321.
    """
    memories = mix(
        (1.0, ema(b1, accumulator_dtype=accumulator_dtype)),
        (alpha, ema(b3, debias=False, accumulator_dtype=accumulator_dtype)),
    )
    basis = in_eigenbasis(
        scale_by_rms(b2, eps=eps, accumulator_dtype=accumulator_dtype),
        decay=b2 if factor_decay is None else factor_decay,
        update_every=update_every,
        max_dim=max_dim,
        max_aspect=max_aspect,
        spread=spread,
        mesh_axis=mesh_axis,
    )
    rule = stages(
        precondition=precondition(memories, by=basis),
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
