"""Orthogonalization, and the factors that give its result the size of a step."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optimx import _checks, _tree
from optimx.linalg import newton_schulz
from optimx.linalg.newton_schulz import QUINTIC, Coefficients
from optimx.stacks import in_stacks
from optimx.typing import Scalar


def orthogonalize(
    *,
    steps: int = 5,
    coefficients: Coefficients = QUINTIC,
    eps: Scalar = 0.0,
    dtype: Any = None,
    mesh_axis: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Replaces each matrix by an approximation of its polar factor.

    .. math:: U \Sigma V^H \leftarrow U\, p(\Sigma)\, V^H \approx U V^H

    by Newton-Schulz iterations (:func:`optimx.linalg.newton_schulz.polar`). The last
    two axes of a leaf are its matrix; leading axes are a batch. Same-shape matrices
    are stacked and the stack is split over the mesh on which the updates live
    (:func:`in_stacks`): no iteration communicates.

    Args:
      steps: iterations, at least 1.
      coefficients: a triple (a, b, c), or one per step, of which the last is
        repeated: ``QUINTIC`` (default) and ``POLAR_EXPRESS`` of
        :mod:`optimx.linalg.newton_schulz`, or your own.
      eps: added to the Frobenius norm that a matrix is divided by, at least 0.
      dtype: of the products, such as bfloat16; by default that of the updates. On
        CPU half precision is computed in float32.
      mesh_axis: mesh axis or axes to split stacks over; all of the mesh by default.

    Returns:
      A stateless transformation. As ``by=`` of :func:`precondition` it observes
      nothing.

    Raises:
      ValueError: where ``steps`` is below 1, coefficients are not triples, ``eps`` is
        negative or ``dtype`` not floating-point; at ``init``, where a leaf is no
        matrix.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> tx = optimx.orthogonalize(steps=8, coefficients=(1.875, -1.25, 0.375))
      >>> x = jnp.array([[2.0, 0.0], [0.0, -1.0]])
      >>> print(tx.update(x, tx.init(x))[0].round(3) + 0.0)
      [[ 1.  0.]
       [ 0. -1.]]

    References:
      Jordan et al., *Muon*, 2024, https://kellerjordan.github.io/posts/muon/.
    """
    where = "orthogonalize"
    newton_schulz.coefficient_list(where, coefficients, steps)
    _checks.non_negative(where, "eps", eps)
    if dtype is not None and not jnp.issubdtype(jnp.dtype(dtype), jnp.floating):
        raise ValueError(f"{where}: dtype must be floating-point, got {dtype!r}.")

    def polar(x):
        return newton_schulz.polar(
            x, steps=steps, coefficients=coefficients, eps=eps, dtype=dtype
        )

    def init(params):
        _checks.inexact_leaves(where, params)
        return optax.EmptyState()

    def update(updates, state, params=None):
        del params
        return jax.tree.map(polar, updates), state

    stacked = in_stacks(optax.GradientTransformation(init, update), mesh_axis=mesh_axis)

    def without_extras(updates, state, params=None, **extra_args):
        # What is not looked at need not be stacked.
        del params, extra_args
        return stacked.update(updates, state)

    return optax.GradientTransformationExtraArgs(stacked.init, without_extras)


def scale_by_aspect_ratio(
    *, in_axis: int = -2, out_axis: int = -1
) -> optax.GradientTransformationExtraArgs:
    r"""Scales a matrix by the root of outputs over inputs, where that is above 1.

    .. math:: u \leftarrow u \sqrt{\max(1, n_\text{out} / n_\text{in})}

    The step of MARS-Shampoo and Muon: an orthogonal matrix keeps the root mean square
    of its inputs in its outputs.

    Args:
      in_axis: the axis of inputs, as in :mod:`jax.nn.initializers`; -2 for kernels of
        Flax, -1 for weights of PyTorch.
      out_axis: the axis of outputs; -1 for kernels of Flax, -2 for weights of PyTorch.

    Returns:
      A stateless transformation; leaves with fewer axes pass unchanged.

    Raises:
      ValueError: where an axis is no Python integer or the two are the same.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> tx = optimx.scale_by_aspect_ratio()
      >>> kernel = jnp.ones((2, 8))
      >>> print(tx.update(kernel, tx.init(kernel))[0][0, 0])
      2.0

    References:
      Jordan et al., *Muon*, 2024, https://kellerjordan.github.io/posts/muon/; the
      code of Yuan et al., *MARS*, 2024, https://arxiv.org/abs/2411.10438.
    """

    def factor(fan_in, fan_out):
        return math.sqrt(max(1.0, fan_out / fan_in))

    return _scale_by_axes("scale_by_aspect_ratio", factor, in_axis, out_axis)


def scale_by_longest_axis(
    scale: Scalar = 0.2, *, in_axis: int = -2, out_axis: int = -1
) -> optax.GradientTransformationExtraArgs:
    r"""Scales a matrix by a multiple of the root of its longer side.

    .. math:: u \leftarrow s\, u \sqrt{\max(n_\text{in}, n_\text{out})}

    The step of MARS-M and Moonlight: an orthogonal matrix has entries of root mean
    square :math:`1/\sqrt{\max(n_\text{in}, n_\text{out})}`, and s becomes that of the
    update; 0.2 is about AdamW's, so that learning rates carry over.

    Args:
      scale: the root mean square of the update, at least 0.
      in_axis: the axis of inputs, as in :mod:`jax.nn.initializers`.
      out_axis: the axis of outputs.

    Returns:
      A stateless transformation; leaves with fewer axes pass unchanged.

    Raises:
      ValueError: where ``scale`` is negative, an axis is no Python integer or the two
        are the same.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> tx = optimx.scale_by_longest_axis(0.5)
      >>> kernel = jnp.ones((2, 4))
      >>> print(tx.update(kernel, tx.init(kernel))[0][0, 0])
      1.0

    References:
      Liu et al., *Muon is Scalable for LLM Training*, 2025,
      https://arxiv.org/abs/2502.16982, section 2.2; Liu et al., *MARS-M*, 2025,
      https://arxiv.org/abs/2510.21800.
    """
    _checks.non_negative("scale_by_longest_axis", "scale", scale)

    def factor(fan_in, fan_out):
        return scale * math.sqrt(max(fan_in, fan_out))

    return _scale_by_axes("scale_by_longest_axis", factor, in_axis, out_axis)


def _scale_by_axes(where: str, factor: Any, in_axis: int, out_axis: int):
    _checks.two_axes(where, in_axis=in_axis, out_axis=out_axis)

    def init(params):
        del params
        return optax.EmptyState()

    def update(updates, state, params=None, **extra_args):
        del params, extra_args

        def scale(u):
            if not all(-u.ndim <= axis < u.ndim for axis in (in_axis, out_axis)):
                return u
            if not u.size:
                return u
            return u * _tree.like(factor(u.shape[in_axis], u.shape[out_axis]), u)

        return jax.tree.map(scale, updates), state

    return optax.GradientTransformationExtraArgs(init, update)
