"""AdEMAMix: two memories of the gradient, one very slow."""

from typing import Any

import optax

from optimx import _checks
from optimx.combine import mix, precondition, stages
from optimx.transforms.decay import decay_weights
from optimx.transforms.diagonal import scale_by_rms
from optimx.transforms.momentum import ema
from optimx.typing import Mask, Scalar, ScalarOrSchedule


@_checks.hyperparameters
def ademamix(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    b3: ScalarOrSchedule = 0.9999,
    alpha: ScalarOrSchedule = 5.0,
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    mask: Mask | None = None,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdEMAMix: AdamW whose direction mixes a fast and a very slow average.

    .. math::
        m_{1,t} &= \beta_1 m_{1,t-1} + (1-\beta_1) g_t, \qquad
        m_{2,t} = \beta_3(t)\, m_{2,t-1} + (1-\beta_3(t)) g_t, \qquad
        v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2 \\
        x_t &= x_{t-1} - \eta \Bigl( \frac{m_{1,t}/(1-\beta_1^t) + \alpha(t)\,
            m_{2,t}}{\sqrt{v_t/(1-\beta_2^t)} + \epsilon} + \lambda x_{t-1} \Bigr)

    The slow average is deliberately not debiased. From scratch, warm both up over the
    run: ``b3=half_life_warmup(b1, 0.9999, steps)`` and ``alpha=linear_warmup(8,
    steps)``; constant values from the first step are unstable. For runs of fewer than
    about 100,000 updates take ``horizon(steps)`` for 0.9999.

    Args:
      learning_rate: the step size, at least 0, or a schedule counted from 0.
      b1: decay of the fast average, in [0, 1); 0 keeps no fast average.
      b2: decay of the average of squares, in [0, 1).
      b3: decay of the slow average, in [0, 1), or a schedule evaluated at t = 1, 2,
        ...
      alpha: weight of the slow average, at least 0, or a schedule evaluated at t =
        1, 2, ...
      eps: added to the root, at least 0.
      weight_decay: decoupled decay, multiplied by the learning rate; at least 0.
      mask: a tree of booleans (or a function that makes one) that says which leaves
        decay; all by default.
      accumulator_dtype: dtype of the averages; float32 at least by default.

    Returns:
      The optimizer, with three numbers of state per parameter.

    Raises:
      ValueError: where a number is out of range; at ``init`` where the mask does not
        fit the parameters; at ``update`` where weight decay is not given them.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> steps = 1000
      >>> tx = optimx.ademamix(
      ...     1e-3, b3=optimx.half_life_warmup(0.9, optimx.horizon(steps), steps),
      ...     alpha=optimx.linear_warmup(8.0, steps), weight_decay=0.1)
      >>> x = jnp.ones(3)
      >>> updates, state = tx.update(x, tx.init(x), x)

    References:
      Pagliardini et al., *The AdEMAMix Optimizer: Better, Faster, Older*, 2024,
      https://arxiv.org/abs/2409.03137, algorithm 1.
    """
    memories = mix(
        (1.0, ema(b1, accumulator_dtype=accumulator_dtype)),
        (alpha, ema(b3, debias=False, accumulator_dtype=accumulator_dtype)),
    )
    return stages(
        precondition=precondition(
            memories,
            by=scale_by_rms(b2, eps=eps, accumulator_dtype=accumulator_dtype),
        ),
        decay=decay_weights(weight_decay, mask),
        rate=optax.scale_by_learning_rate(learning_rate),
    )
