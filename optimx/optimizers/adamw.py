"""AdamW, the yardstick, as a sentence of the algebra."""

from typing import Any

import optax

from optimx import _checks
from optimx.combine import precondition, stages
from optimx.partition import hidden_matrices
from optimx.transforms.decay import decay_weights, require_mask
from optimx.transforms.diagonal import scale_by_rms
from optimx.transforms.momentum import ema
from optimx.typing import Labels, Mask, Scalar
from optimx.wrappers.matrices import matrices_only


@_checks.hyperparameters
def adamw(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 1e-4,
    mask: Mask | None = None,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdamW: an average of the gradient over the root of an average of its square.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t, \qquad
        v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2 \\
        x_t &= x_{t-1} - \eta \Bigl( \frac{m_t/(1-\beta_1^t)}
            {\sqrt{v_t/(1-\beta_2^t)} + \epsilon} + \lambda x_{t-1} \Bigr)

    The same numbers as :func:`optax.adamw`, with float32 averages for bfloat16
    parameters. It is here as the baseline that MARS with gamma = 0 and AdEMAMix with
    alpha = 0 reduce to, and as the usual rule for what is not a matrix.

    Args:
      learning_rate: the step size, at least 0, or a schedule counted from 0.
      b1: decay of the average, in [0, 1); 0 keeps no average.
      b2: decay of the average of squares, in [0, 1).
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
      >>> tx = optimx.adamw(0.5, weight_decay=0.0)
      >>> params = jnp.array([1.0, -2.0])
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> print(optax.apply_updates(params, updates))
      [ 0.5 -1.5]

    References:
      Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, 2017,
      https://arxiv.org/abs/1711.05101, algorithm 2.
    """
    return stages(
        precondition=precondition(
            ema(b1, accumulator_dtype=accumulator_dtype),
            by=scale_by_rms(b2, eps=eps, accumulator_dtype=accumulator_dtype),
        ),
        decay=decay_weights(weight_decay, mask),
        rate=optax.scale_by_learning_rate(learning_rate),
    )


def beside_adamw(
    rule: optax.GradientTransformation,
    *,
    otherwise: optax.GradientTransformation | None,
    labels: Labels | None,
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: Scalar,
    mask: Mask | None,
    accumulator_dtype: Any,
) -> optax.GradientTransformationExtraArgs:
    """A rule of matrices, and AdamW (or ``otherwise``) for what is not one."""
    if otherwise is None:
        otherwise = adamw(
            learning_rate,
            b1=0.9,
            b2=0.95,
            weight_decay=weight_decay,
            mask=mask,
            accumulator_dtype=accumulator_dtype,
        )
    tx = matrices_only(
        rule,
        otherwise=otherwise,
        labels=hidden_matrices if labels is None else labels,
    )

    def init(params):
        # Neither of the two rules sees all that a mask is for.
        require_mask(mask, params)
        return tx.init(params)

    return optax.GradientTransformationExtraArgs(init, tx.update)
