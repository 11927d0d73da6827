"""Shampoo: a root of the second moment of rows, and one of columns."""

from typing import Any

import optax

from optimx import _checks
from optimx.combine import graft, precondition, stages
from optimx.optimizers.adamw import beside_adamw
from optimx.transforms.decay import decay_weights
from optimx.transforms.diagonal import scale_by_rms
from optimx.transforms.kronecker import scale_by_kronecker
from optimx.transforms.momentum import ema
from optimx.typing import Labels, Mask, Scalar


@_checks.hyperparameters
def shampoo(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: Scalar = 0.9,
    b2: Scalar = 0.95,
    eps: Scalar = 1e-8,
    root_eps: Scalar = 1e-6,
    update_every: int = 10,
    block_size: int | None = 1024,
    max_dim: int = 8192,
    spread: bool = True,
    mesh_axis: Any = None,
    otherwise: optax.GradientTransformation | None = None,
    labels: Labels | None = None,
    weight_decay: Scalar = 0.0,
    mask: Mask | None = None,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Shampoo, with the norm of Adam.

    .. math::
        L_t &= \beta_2 L_{t-1} + (1-\beta_2) g_t g_t^H, \qquad
        R_t = \beta_2 R_{t-1} + (1-\beta_2) g_t^H g_t \\
        d_t &= \hat L^{-1/4}\, \hat m_t\, \hat R^{-1/4}, \qquad
        a_t = \hat m_t / (\sqrt{\hat v_t} + \epsilon) \\
        x_t &= x_{t-1} - \eta \Bigl( \frac{\lVert a_t \rVert}{\lVert d_t \rVert}
            d_t + \lambda x_{t-1} \Bigr)

    for matrices, with averages :math:`\hat m` of the gradient and :math:`\hat v` of its
    square, debiased, and roots :math:`\hat L` that are refreshed in turns
    (:func:`scale_by_kronecker`). Same-shape matrices are stacked and the stack is split
    over the mesh that they live on; what is not a matrix gets AdamW.

    Args:
      learning_rate: the step size, at least 0, or a schedule counted from 0.
      b1: decay of the average, in [0, 1).
      b2: decay of the factors and of the second moment, in [0, 1).
      eps: added to the root of the second moment that gives the norm, at least 0.
      root_eps: the ridge of the roots, relative to the largest eigenvalue; finite,
        above 0.
      update_every: steps between two refreshes of a root, at least 1.
      block_size: largest side of a block with factors of its own, at least 1; None cuts
        nothing.
      max_dim: a longer side has a diagonal factor, at least 1.
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
      The optimizer, with two numbers of state per parameter, and for a matrix of m x n
      in blocks of b x b four b x b for each block.

    Raises:
      ValueError: where a number is out of range; at ``init`` where labels or the mask
        do not fit the parameters; at ``update`` where weight decay is not given them.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> tx = optimx.shampoo(3e-3)
      >>> params = {'kernel': jnp.ones((4, 6)), 'bias': jnp.zeros(6)}
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Gupta et al., *Shampoo*, 2018, https://arxiv.org/abs/1802.09568, algorithm 1; Anil
      et al., 2020, https://arxiv.org/abs/2002.09018 (averages, blocks, grafting).
    """
    kronecker = scale_by_kronecker(
        b2,
        update_every=update_every,
        eps=root_eps,
        block_size=block_size,
        max_dim=max_dim,
        spread=spread,
        mesh_axis=mesh_axis,
    )
    adam = scale_by_rms(b2, eps=eps, accumulator_dtype=accumulator_dtype)
    rule = stages(
        precondition=precondition(
            ema(b1, accumulator_dtype=accumulator_dtype),
            by=graft(kronecker, magnitude=adam),
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
