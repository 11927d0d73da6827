r"""A recorded stretch of a run, gone through again with other batches.

At the recorded parameters :math:`x_{t-K}, \dots, x_t` MARS's average of corrected
gradients is linear in gamma,

.. math:: m_t = a_t + \gamma\, d_t, \qquad
    a_t = \textstyle\sum_{i<K} w_i\, g_{t-i}, \qquad
    d_t = \textstyle\sum_{i<K} w_i\, s\,(g_{t-i} - h_{t-i}),

with :math:`s = \beta/(1-\beta)`, :math:`w_i = (1-\beta)\beta^i/(1-\beta^K)` and h the
gradient that is subtracted: the previous step's on its own batch, or the one at the
previous parameters on the present batch. Three averages are all gammas.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optimx.typing import PyTree

Gradient = Callable[[PyTree, Any], PyTree]


class Averages(NamedTuple):
    """What one sequence of batches makes of a stretch.

    Attributes:
      plain: the average of gradients, a.
      approximate: the average of differences to the previous step's gradient.
      exact: that of differences to the gradient at the previous parameters.
      norms: norm of each gradient, one for each step.
    """

    plain: PyTree
    approximate: PyTree
    exact: PyTree
    norms: jax.Array


class FullGradient(NamedTuple):
    """The mean gradient of many batches, and how well it is known.

    Attributes:
      mean: the gradient.
      count: of batches.
      squares: sum over batches of each leaf's squared norm, in order of the leaves.
    """

    mean: PyTree
    count: int
    squares: jax.Array


class Replay:
    """Goes through stretches of a run; compiled once for all of them.

    Args:
      gradient: of (parameters, batch).
      b1: decay of the averages.
      did: told how many gradients were taken.
    """

    def __init__(
        self,
        gradient: Gradient,
        b1: float,
        did: Callable[[int], None] = lambda count: None,
    ):
        self._b1, self._did = b1, did
        self._gradient = jax.jit(gradient)
        self._absorb = jax.jit(
            functools.partial(_absorb, gradient, b1), donate_argnums=0
        )
        self._add = jax.jit(functools.partial(_add, gradient), donate_argnums=0)

    def averages(
        self, points: Sequence[PyTree], sequences: Sequence[Sequence[Any]]
    ) -> list[Averages]:
        """The averages at the last of the points, for each sequence of batches.

        Args:
          points: parameters one update apart, K + 1 of them.
          sequences: batches, one for each point.
        """
        carried = []
        for batches in sequences:
            previous = self._gradient(points[0], batches[0])
            zeros = [jax.tree.map(jnp.zeros_like, previous) for _ in range(3)]
            carried.append((*zeros, previous))
        norms: list[list[jax.Array]] = [[] for _ in sequences]
        for k in range(1, len(points)):
            # All sequences while the two points are at hand.
            for r, batches in enumerate(sequences):
                carried[r], norm = self._absorb(
                    carried[r], points[k], points[k - 1], batches[k]
                )
                norms[r].append(norm)
                self._did(2)
        mass = 1 - self._b1 ** (len(points) - 1)
        return [
            Averages(*(jax.tree.map(lambda x: x / mass, one) for one in three), norm)
            for (*three, _), norm in zip(carried, map(jnp.stack, norms), strict=True)
        ]

    def full_gradient(self, point: PyTree, batches: Sequence[Any]) -> FullGradient:
        """The gradient at a point as the mean over batches."""
        shapes = jax.eval_shape(self._gradient, point, batches[0])
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        carried = zero, jnp.zeros(len(jax.tree.leaves(zero)), jnp.float32)
        for batch in batches:
            carried = self._add(carried, point, batch)
            self._did(1)
        total, squares = carried
        count = len(batches)
        return FullGradient(jax.tree.map(lambda x: x / count, total), count, squares)


def _absorb(gradient, b1, carried, point, before, batch):
    plain, approximate, exact, previous = carried
    g, stale = gradient(point, batch), gradient(before, batch)

    def average(old, new, scale):
        return jax.tree.map(lambda o, n: b1 * o + scale * n, old, new)

    # Of the differences s (1 - b1) = b1 goes in.
    carried = (
        average(plain, g, 1 - b1),
        average(approximate, jax.tree.map(jnp.subtract, g, previous), b1),
        average(exact, jax.tree.map(jnp.subtract, g, stale), b1),
        g,
    )
    return carried, _norm(g)


def _norm(tree: PyTree) -> jax.Array:
    return jnp.sqrt(sum(jnp.sum(x * x) for x in jax.tree.leaves(tree)))


def _add(gradient, carried, point, batch):
    total, squares = carried
    g = gradient(point, batch)
    own = jnp.stack([jnp.sum(x * x) for x in jax.tree.leaves(g)])
    return jax.tree.map(jnp.add, total, g), squares + own
