r"""Error, bias and variance of estimates of a gradient, for every gamma.

All of them are squared norms of linear combinations of the same few trees, so that
one matrix of inner products holds them. With R independent sequences of batches,
estimates :math:`m_r`, their mean :math:`\bar m`, the mean :math:`\hat G` of N other
batches, and S the variance of one batch's gradient (its squared distance from the
full gradient, expected),

.. math::
    \text{variance} &= \tfrac{1}{R-1} \textstyle\sum_r \lVert m_r - \bar m\rVert^2 \\
    \text{bias}^2 &= \lVert \bar m - \hat G \rVert^2 - \text{variance}/R - S/N \\
    \text{error} &= \text{bias}^2 + \text{variance}

are free of bias as estimates of what they are called, as is
:math:`\lVert G\rVert^2 = \lVert\hat G\rVert^2 - S/N`, which they are divided by.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from optimx.bench.claims.replay import Averages, FullGradient

MODES = ("approximate", "exact")


@dataclasses.dataclass(frozen=True)
class Errors:
    """What follows from the inner products of averages and full gradient.

    Attributes:
      products: of all pairs of ``[plain_1..R, approximate_1..R, exact_1..R, full]``.
      replays: R.
      batches: N, of the full gradient.
      one_batch: S.
    """

    products: np.ndarray
    replays: int
    batches: int
    one_batch: float

    @property
    def full(self) -> float:
        """Squared norm of the full gradient."""
        return float(self.products[-1, -1] - self.one_batch / self.batches)

    @property
    def full_error(self) -> float:
        """Expected squared error of the full gradient itself, over its norm's."""
        return self.one_batch / self.batches / self.full

    def of(self, mode: str, gamma: float) -> dict[str, float]:
        """``variance``, ``bias2``, ``error`` and its standard error over replays."""
        weights = self._weights(mode, gamma)
        mean = weights.mean(axis=0)
        spread = sum(self._norm2(w - mean) for w in weights)
        variance = spread / max(1, self.replays - 1)
        target = np.eye(len(self.products))[-1]
        own = self.one_batch / self.batches
        bias2 = self._norm2(mean - target) - variance / self.replays - own
        each = [self._norm2(w - target) for w in weights]
        scatter = np.std(each, ddof=1) / np.sqrt(self.replays)
        found = {
            "variance": variance,
            "bias2": bias2,
            "error": bias2 + variance,
            "error_standard_error": scatter,
        }
        return {key: float(value / self.full) for key, value in found.items()}

    def best(self, mode: str) -> tuple[float, float]:
        """The gamma of the least error, of all real numbers, and that error."""
        # The error is a parabola in gamma: three of its points are all of it.
        low, middle, high = (self.of(mode, g)["error"] for g in (-1.0, 0.0, 1.0))
        curvature, slope = (high + low) / 2 - middle, (high - low) / 2
        gamma = -slope / (2 * curvature)
        return gamma, self.of(mode, gamma)["error"]

    def without(self, replay: int) -> "Errors":
        """What the other replays tell."""
        mine = [replay + part * self.replays for part in range(1 + len(MODES))]
        kept = np.delete(np.delete(self.products, mine, 0), mine, 1)
        return dataclasses.replace(self, products=kept, replays=self.replays - 1)

    def _weights(self, mode: str, gamma: float) -> np.ndarray:
        """Each replay's estimate as a combination of the trees."""
        count = self.replays
        weights = np.zeros((count, len(self.products)))
        rows = np.arange(count)
        weights[rows, rows] = 1
        weights[rows, count * (1 + MODES.index(mode)) + rows] = gamma
        return weights

    def _norm2(self, weights: np.ndarray) -> float:
        return float(weights @ self.products @ weights)


def jackknife(
    errors: Errors, statistic: Callable[[Errors], float]
) -> tuple[float, float]:
    """A number, and its standard error over the replays.

    That of the full gradient, the same in all of them, is not in it.

    Args:
      errors: of three replays or more.
      statistic: the number.
    """
    count = errors.replays
    each = np.array([statistic(errors.without(r)) for r in range(count)])
    return statistic(errors), float(np.sqrt((count - 1) * each.var()))


def compare_with(
    full: FullGradient, averages: Sequence[Averages], leaves: Sequence[bool]
) -> Errors:
    """The errors of averages over some of the leaves.

    Args:
      full: gradient, where the averages end.
      averages: of each replay.
      leaves: which count, in the order of the tree.
    """
    trees = [getattr(one, key) for key in ("plain", *MODES) for one in averages]
    columns = [jax.tree.leaves(tree) for tree in (*trees, full.mean)]
    products = np.zeros((len(columns), len(columns)))
    chosen = [index for index, counts in enumerate(leaves) if counts]
    for index in chosen:
        rows = [np.asarray(leaf[index], np.float64).ravel() for leaf in columns]
        matrix = np.stack(rows)
        products += matrix @ matrix.T
    squares = np.asarray(full.squares, np.float64)[chosen].sum()
    one_batch = (squares - full.count * products[-1, -1]) / (full.count - 1)
    return Errors(products, len(averages), full.count, float(one_batch))
