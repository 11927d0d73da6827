"""MARS's correction: the gradient, plus a multiple of how it changed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimx import _checks, _order, _tree
from optimx.typing import Count, PyTree, Scalar, ScalarOrSchedule


def correction_scale(gamma: ScalarOrSchedule, b1: Scalar) -> ScalarOrSchedule:
    """MARS's factor of the difference, gamma b1 / (1 - b1)."""
    return _tree.scaled(gamma, lambda g: g * b1 / (1 - b1))


class GradientDifferenceState(NamedTuple):
    """State of :func:`add_gradient_difference`.

    Attributes:
      count: the number of updates seen, int32.
      previous: the gradient of the last update, zero before the first.
    """

    count: Count
    previous: optax.Updates

    def written_after(self, later: PyTree) -> "GradientDifferenceState":
        """The same state, its gradient written when ``later`` has been computed."""
        return self._replace(previous=_order.after(self.previous, later))


def add_gradient_difference(
    scale: ScalarOrSchedule, *, accumulator_dtype: Any = None
) -> optax.GradientTransformationExtraArgs:
    r"""Adds a multiple of the change of the gradient since the last update.

    .. math:: c_t = g_t + s_t \, (g_t - g_{t-1}), \qquad g_0 = 0

    With :math:`s = \gamma\,\beta_1/(1-\beta_1)` this is the variance-reduced
    gradient of MARS in its approximate form, where :math:`g_{t-1}` is the gradient
    that the previous step used. It is a stage of its own and may stand before any
    Optax transformation. Place it *inside* :class:`optax.MultiSteps`, so that the
    difference is one of accumulated gradients.

    Because :math:`g_0 = 0`, the first corrected gradient is :math:`(1+s_1) g_1`, as
    in the authors' code (the paper starts from :math:`g_0 = g_1`).

    Args:
      scale: the factor s of the difference, a finite number or a schedule that is
        evaluated at t = 1, 2, ...
      accumulator_dtype: the dtype of the stored gradient. By default float32, or
        the parameter's own dtype where that is wider.

    Returns:
      A transformation whose updates keep their shapes and dtypes. Its state is a
      :class:`GradientDifferenceState`: one number per parameter.

    Raises:
      ValueError: where ``scale`` is not finite, or at ``init`` where a parameter is
        not floating-point or complex.

    Examples:
      >>> import jax.numpy as jnp, optax, optimx
      >>> tx = optax.chain(
      ...     optimx.add_gradient_difference(0.475),
      ...     optimx.clip_by_block_norm(1.0),
      ...     optax.lamb(1e-3))
      >>> params = {'w': jnp.ones((2, 3))}
      >>> updates, state = tx.update(params, tx.init(params), params)

      >>> difference = optimx.add_gradient_difference(0.5)
      >>> state = difference.init(jnp.zeros(1))
      >>> for gradient in (2.0, 3.0):
      ...   corrected, state = difference.update(jnp.array([gradient]), state)
      ...   print(corrected)
      [3.]
      [3.5]

    References:
      Yuan et al., *MARS: Unleashing the Power of Variance Reduction for Training
      Large Models*, 2024, https://arxiv.org/abs/2411.10438, equation (2.5) and
      the approximate variant of section 3.
    """
    where = "add_gradient_difference"
    _checks.finite(where, "scale", scale, schedule=True)

    def init(params):
        _checks.inexact_leaves(where, params)
        previous = jax.tree.map(
            lambda p: _tree.zeros(p, _tree.accumulator(p, accumulator_dtype)), params
        )
        return GradientDifferenceState(jnp.zeros([], jnp.int32), previous)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        count = _tree.increment(state.count)
        s = _tree.at(scale, count)

        def correct(g, previous):
            wide = g.astype(_tree.accumulator(g))
            difference = wide - previous.astype(wide.dtype)
            return (wide + _tree.like(s, wide) * difference).astype(g.dtype)

        corrected = jax.tree.map(correct, updates, state.previous)
        previous = jax.tree.map(lambda g, p: g.astype(p.dtype), updates, state.previous)
        return corrected, GradientDifferenceState(count, previous)

    return optax.GradientTransformationExtraArgs(init, update)


class StaleGradientDifferenceState(NamedTuple):
    """State of :func:`add_stale_gradient_difference`.

    Attributes:
      count: the number of updates seen, int32.
    """

    count: Count


def add_stale_gradient_difference(
    scale: ScalarOrSchedule,
) -> optax.GradientTransformationExtraArgs:
    r"""Adds a multiple of the gradient's change, both taken on the same batch.

    .. math:: c_t = g(x_t; \xi_t) + s_t \, \bigl(g(x_t; \xi_t) - g(x_{t-1};
        \xi_t)\bigr)

    This is exact MARS. The caller passes the *stale* gradient
    :math:`g(x_{t-1}; \xi_t)`, at the previous parameters on the present batch, as
    ``update(..., stale_grads=...)``; at the first step it is zero, as in the
    authors' code. :func:`value_and_stale_grad` computes it. Nothing but a counter
    is kept, and a second backward pass is paid for.

    Args:
      scale: the factor s of the difference, a finite number or a schedule that is
        evaluated at t = 1, 2, ...

    Returns:
      A transformation whose ``update`` needs ``stale_grads``, a tree like the
      updates.

    Raises:
      ValueError: where ``scale`` is not finite; at ``update`` where ``stale_grads``
        is missing or not shaped as the updates.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> tx = optimx.add_stale_gradient_difference(0.5)
      >>> g = jnp.array([2.0])
      >>> tx.update(g, tx.init(g), stale_grads=jnp.array([1.0]))[0]
      Array([2.5], dtype=float32)

    References:
      Yuan et al., *MARS*, 2024, https://arxiv.org/abs/2411.10438, algorithm 1.
    """
    where = "add_stale_gradient_difference"
    _checks.finite(where, "scale", scale, schedule=True)

    def init(params):
        _checks.inexact_leaves(where, params)
        return StaleGradientDifferenceState(jnp.zeros([], jnp.int32))

    def update(updates, state, params=None, *, stale_grads=None, **extra_args):
        del params, extra_args
        if stale_grads is None:
            if jax.tree.leaves(updates):
                raise ValueError(
                    f"{where}: update needs stale_grads, the gradient at the previous "
                    "parameters on the present batch (zeros at the first step): "
                    "tx.update(grads, state, params, stale_grads=stale). "
                    "optimx.value_and_stale_grad computes it."
                )
            stale_grads = updates  # Of nothing, there is nothing to compare.
        _checks.same_structure(where, "stale_grads", stale_grads, updates)
        count = _tree.increment(state.count)
        s = _tree.at(scale, count)

        def correct(g, stale):
            wide = g.astype(_tree.accumulator(g))
            difference = wide - stale.astype(wide.dtype)
            return (wide + _tree.like(s, wide) * difference).astype(g.dtype)

        corrected = jax.tree.map(correct, updates, stale_grads)
        return corrected, StaleGradientDifferenceState(count)

    return optax.GradientTransformationExtraArgs(init, update)


def value_and_stale_grad(fun: Callable, *, has_aux: bool = False) -> Callable:
    r"""Makes what a training step of exact MARS needs from a loss function.

    The stale gradient of step t + 1, :math:`g(x_t; \xi_{t+1})`, is known as soon as
    the next batch is: it is taken at step t, before the parameters move, and kept
    until the next step. No second copy of the parameters is held.

    Args:
      fun: a scalar loss of ``(params, batch)``, differentiable in ``params``.
      has_aux: whether ``fun`` returns ``(loss, aux)``.

    Returns:
      A function of ``(params, batch, next_batch)`` that returns ``(value, grads,
      next_stale_grads)``, where ``value`` is what ``fun`` returned on ``batch``.
      Keep ``next_stale_grads`` and pass it as ``stale_grads`` at the next update;
      begin with zeros.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, optimx
      >>> def loss(params, batch):
      ...   return jnp.mean((batch @ params) ** 2)
      >>> step = optimx.value_and_stale_grad(loss)
      >>> batches = jax.random.normal(jax.random.key(0), (4, 8, 3))
      >>> params = jnp.ones(3)
      >>> tx = optimx.mars_adamw_exact(1e-2)
      >>> state, stale = tx.init(params), jnp.zeros(3)
      >>> for batch, next_batch in zip(batches, batches[1:]):
      ...   value, grads, next_stale = step(params, batch, next_batch)
      ...   updates, state = tx.update(grads, state, params, stale_grads=stale)
      ...   params, stale = optax.apply_updates(params, updates), next_stale

    References:
      Yuan et al., *MARS*, 2024, https://arxiv.org/abs/2411.10438, algorithm 1.
    """
    value_and_grad = jax.value_and_grad(fun, has_aux=has_aux)
    stale_grad = jax.grad(fun, has_aux=has_aux)

    def both(params: PyTree, batch: PyTree, next_batch: PyTree):
        value, grads = value_and_grad(params, batch)
        stale = stale_grad(params, next_batch)
        return value, grads, stale[0] if has_aux else stale

    return both
