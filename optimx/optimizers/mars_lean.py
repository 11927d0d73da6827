"""MARS-AdamW without a stored gradient: unclipped, its momentum is a mix."""

from typing import Any

import jax.numpy as jnp
import optax

from optimx import _checks, _tree
from optimx.combine import mix, precondition, stages
from optimx.transforms.decay import decay_weights
from optimx.transforms.diagonal import scale_by_rms
from optimx.transforms.momentum import ema
from optimx.typing import Mask, Scalar, ScalarOrSchedule


@_checks.hyperparameters
def mars_adamw_lean(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: Scalar = 0.95,
    b2: Scalar = 0.99,
    gamma: ScalarOrSchedule = 0.025,
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    mask: Mask | None = None,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""MARS-AdamW with the state of AdamW: no gradient is stored.

    .. math::
        e_t &= \beta_1 e_{t-1} + (1-\beta_1) g_t, \qquad
        m_t = (1-\gamma)\, e_t + \gamma\, g_t, \qquad
        v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2 \\
        x_t &= x_{t-1} - \eta \Bigl( \frac{m_t/(1-\beta_1^t)}
            {\sqrt{v_t/(1-\beta_2^t)} + \epsilon} + \lambda x_{t-1} \Bigr)

    For a constant gamma, :math:`m_t` is exactly the momentum of :func:`mars_adamw`
    where that never clips. It differs in two points: nothing is clipped, so clip the
    whole gradient before, and the second moment is that of the gradient, not of the
    corrected one.

    Args:
      learning_rate: the step size, at least 0, or a schedule counted from 0.
      b1: decay of the average, in [0, 1).
      b2: decay of the average of squares, in [0, 1).
      gamma: weight of the gradient beside its average, at least 0, or a schedule
        evaluated at t = 1, 2, ... (then the momentum is no longer MARS's).
      eps: added to the root, at least 0.
      weight_decay: decoupled decay, multiplied by the learning rate; at least 0.
      mask: a tree of booleans (or a function that makes one) that says which leaves
        decay; all by default.
      accumulator_dtype: dtype of the averages; float32 at least by default.

    Returns:
      The optimizer, with two numbers of state per parameter.

    Raises:
      ValueError: where a number is out of range; at ``init`` where the mask does not
        fit the parameters; at ``update`` where weight decay is not given them.

    Examples:
      >>> import jax.numpy as jnp, optax, optimx
      >>> tx = optax.chain(
      ...     optax.clip_by_global_norm(1.0), optimx.mars_adamw_lean(6e-3))
      >>> x = jnp.ones(3)
      >>> updates, state = tx.update(x, tx.init(x), x)

    References:
      Yuan et al., *MARS*, 2024, https://arxiv.org/abs/2411.10438, algorithm 2.
    """

    def debiased(t):
        return _tree.at(gamma, t) / _tree.debias(b1, t, jnp.result_type(float))

    average = ema(b1, accumulator_dtype=accumulator_dtype)
    momentum = mix(
        (_tree.scaled(gamma, lambda g: 1 - g), average),
        (debiased, optax.identity()),
    )
    return stages(
        precondition=precondition(
            momentum, by=scale_by_rms(b2, eps=eps, accumulator_dtype=accumulator_dtype)
        ),
        decay=decay_weights(weight_decay, mask),
        rate=optax.scale_by_learning_rate(learning_rate),
    )
