"""SOAP: Adam in Shampoo's eigenbasis."""

from typing import Any

import optax

from optimx import _checks
from optimx.combine import precondition, stages
from optimx.optimizers.adamw import beside_adamw
from optimx.transforms.decay import decay_weights
from optimx.transforms.diagonal import scale_by_rms
from optimx.transforms.eigenbasis import in_eigenbasis
from optimx.transforms.momentum import ema
from optimx.typing import Labels, Mask, Scalar


@_checks.hyperparameters
def soap(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: Scalar = 0.95,
    b2: Scalar = 0.95,
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
    r"""SOAP: Adam in the eigenbasis of the gradient's second moments.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t, \qquad
        v_t = \beta_2 v_{t-1} + (1-\beta_2) |Q_L^H g_t Q_R|^2 \\
        x_t &= x_{t-1} - \eta \Bigl( Q_L
            \frac{Q_L^H \hat m_t Q_R}{\sqrt{\hat v_t} + \epsilon} Q_R^H
            + \lambda x_{t-1} \Bigr)

    for matrices, with :math:`Q_L` and :math:`Q_R` the slowly turning eigenvectors of
    averages of :math:`g g^H` and :math:`g^H g` (:func:`in_eigenbasis`), and bias
    corrections hatted. A matrix stands still until its first basis, for at most
    ``update_every`` steps. Same-shape matrices are stacked and the stack is split over
    the mesh that they live on; what is not a matrix gets AdamW.

    Args:
      learning_rate: the step size, at least 0, or a schedule counted from 0.
      b1: decay of the average, in [0, 1).
      b2: decay of the second moment in the eigenbasis, in [0, 1).
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
      The optimizer, with two numbers of state per parameter, and for a matrix two
      square matrices for each side that is turned.

    Raises:
      ValueError: where a number is out of range; at ``init`` where labels or the mask
        do not fit the parameters; at ``update`` where weight decay is not given them.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> tx = optimx.soap(3e-3)
      >>> params = {'kernel': jnp.ones((4, 6)), 'bias': jnp.zeros(6)}
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Vyas et al., *SOAP*, 2024, https://arxiv.org/abs/2409.11321, algorithm 3.
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
