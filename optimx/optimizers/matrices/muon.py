"""Muon: the polar factor of a Nesterov momentum."""

from typing import Any

import jax.numpy as jnp
import optax

from optimx import _checks, _tree
from optimx.combine import mix, precondition, stages
from optimx.linalg.newton_schulz import QUINTIC, Coefficients
from optimx.optimizers.adamw import beside_adamw
from optimx.transforms.decay import decay_weights
from optimx.transforms.momentum import ema
from optimx.transforms.orthogonal import orthogonalize, scale_by_aspect_ratio
from optimx.typing import Labels, Mask, Scalar


@_checks.hyperparameters
def muon(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: Scalar = 0.95,
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
    r"""Muon: the polar factor of a Nesterov momentum.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t, \qquad
        n_t = \frac{\beta_1 m_t}{1-\beta_1^{t+1}}
            + \frac{(1-\beta_1) g_t}{1-\beta_1^t} \\
        x_t &= x_{t-1} - \eta \Bigl( \sqrt{\max(1, n_\text{out}/n_\text{in})}\;
            \operatorname{polar}(n_t) + \lambda x_{t-1} \Bigr)

    for matrices, the momentum debiased as in :func:`optax.contrib.muon`, and the polar
    factor by Newton-Schulz. Same-shape matrices are stacked and the stack is split over
    the mesh that they live on; what is not a matrix gets AdamW.

    Args:
      learning_rate: the step size, at least 0, or a schedule counted from 0.
      b1: decay of the average, in [0, 1).
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
      The optimizer, with one number of state per parameter of a matrix.

    Raises:
      ValueError: where a number is out of range; at ``init`` where labels or the mask
        do not fit the parameters; at ``update`` where weight decay is not given them.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> tx = optimx.muon(0.02, otherwise=optimx.adamw(3e-4))
      >>> params = {'kernel': jnp.ones((4, 6)), 'bias': jnp.zeros(6)}
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Jordan et al., *Muon*, 2024, https://kellerjordan.github.io/posts/muon/; the
      momentum's debiasing as in Optax.
    """

    def debiased(weight, ahead):
        dtype = jnp.result_type(float)

        def at(t):
            t = _tree.increment(t) if ahead else t
            return weight / _tree.debias(b1, t, dtype)

        return at

    momentum = mix(
        (debiased(b1, 1), ema(b1, debias=False, accumulator_dtype=accumulator_dtype)),
        (debiased(1 - b1, 0), optax.identity()),
    )
    step = optax.chain(
        orthogonalize(
            steps=steps, coefficients=coefficients, dtype=dtype, mesh_axis=mesh_axis
        ),
        scale_by_aspect_ratio(in_axis=in_axis, out_axis=out_axis),
    )
    rule = stages(
        precondition=precondition(momentum, by=step),
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
