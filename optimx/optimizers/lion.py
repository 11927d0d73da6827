"""Lion, as a mix of an average and the gradient."""

from typing import Any

import optax

from optimx import _checks
from optimx.combine import mix, precondition, stages
from optimx.transforms.decay import decay_weights
from optimx.transforms.momentum import ema
from optimx.typing import Mask, Scalar


@_checks.hyperparameters
def lion(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: Scalar = 0.9,
    b2: Scalar = 0.99,
    weight_decay: Scalar = 1e-3,
    mask: Mask | None = None,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Lion: the sign of an interpolation between momentum and gradient.

    .. math::
        x_t &= x_{t-1} - \eta \bigl( \operatorname{sign}(\beta_1 m_{t-1} +
            (1-\beta_1) g_t) + \lambda x_{t-1} \bigr) \\
        m_t &= \beta_2 m_{t-1} + (1-\beta_2) g_t

    Written with the *new* average, because :math:`\beta_1 m_{t-1} + (1-\beta_1) g_t` is
    :math:`(\beta_1/\beta_2)\, m_t + (1 - \beta_1/\beta_2)\, g_t`: a mix, in which
    nothing reads a buffer that the same step overwrites.

    Args:
      learning_rate: the step size, at least 0, or a schedule counted from 0.
      b1: weight of the momentum in the step, in [0, 1).
      b2: decay of the momentum, in (0, 1).
      weight_decay: decoupled decay, multiplied by the learning rate; at least 0.
      mask: a tree of booleans (or a function that makes one) that says which leaves
        decay; all by default.
      accumulator_dtype: dtype of the momentum; float32 at least by default.

    Returns:
      The optimizer, with one number of state per parameter.

    Raises:
      ValueError: where a number is out of range; at ``init`` where the mask does not
        fit the parameters; at ``update`` where weight decay is not given them.

    Examples:
      >>> import jax.numpy as jnp, optax, optimx
      >>> tx = optimx.lion(0.5, weight_decay=0.0)
      >>> params = jnp.array([1.0, -2.0])
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> print(optax.apply_updates(params, updates))
      [ 0.5 -1.5]

    References:
      Chen et al., *Symbolic Discovery of Optimization Algorithms*, 2023,
      https://arxiv.org/abs/2302.06675, algorithm 2.
    """
    _checks.positive("lion", "b2", b2)
    average = ema(b2, debias=False, accumulator_dtype=accumulator_dtype)
    return stages(
        precondition=precondition(
            mix((b1 / b2, average), (1 - b1 / b2, optax.identity())),
            by=optax.scale_by_sign(),
        ),
        decay=decay_weights(weight_decay, mask),
        rate=optax.scale_by_learning_rate(learning_rate),
    )
