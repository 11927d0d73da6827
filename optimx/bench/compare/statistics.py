"""What seeds say, and how sure they are: means, spreads, bootstrap intervals.

A seed has the same initial parameters and the same batches under every optimizer, so
runs are compared in pairs. The bootstrap draws seeds with replacement, always the
same for both. With few seeds it is too sure of itself: all that it can draw lies
between the seeds there are. Its intervals are therefore stretched about the estimate
by sqrt(n / (n - 1)) t / z, the ratio of the half-widths of the intervals that a normal
sample has by its own standard deviation and by the bootstrap's.
"""

import dataclasses
import math

import numpy as np
from scipy import special

LEVEL = 0.95
DRAWS = 10_000
_SEED = 0


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number and its interval.

    Attributes:
      value: of all seeds; infinite where it is beyond what was run.
      low: end of the interval; None where one seed tells nothing about others.
      high: the other end.
    """

    value: float
    low: float | None
    high: float | None


def spread(values: np.ndarray) -> float | None:
    """The standard deviation over seeds; None of one seed."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def loss_difference(ours: np.ndarray, theirs: np.ndarray) -> Estimate:
    """Mean of our final losses less theirs.

    Args:
      ours: a final loss for each seed.
      theirs: the baseline's, in the same order of seeds.
    """
    each = ours - theirs
    value = float(each.mean())
    draws = each[_draws(len(each))].mean(axis=1)
    return _estimate(value, draws, len(each))


def token_ratio(
    steps: np.ndarray, ours: np.ndarray, theirs: np.ndarray, total: int
) -> Estimate:
    """Tokens until our mean loss is the baseline's last, over the baseline's tokens.

    Args:
      steps: at which losses were taken.
      ours: validation losses, (seeds, steps).
      theirs: the baseline's final losses, one for each seed.
      total: steps of the baseline's runs.

    Returns:
      The ratio, by linear interpolation between evaluations; infinite where the loss
      is not reached.
    """
    value = reached(steps, ours.mean(axis=0), theirs.mean()) / total
    found, where = np.unique(_draws(len(ours)), axis=0, return_inverse=True)
    ratios = [
        reached(steps, ours[drawn].mean(axis=0), theirs[drawn].mean()) / total
        for drawn in found
    ]
    # What is never reached has a place in the order, and no distance: the interval is
    # one of logarithms, and infinity stays what it is.
    draws = np.log(np.asarray(ratios))[np.ravel(where)]
    inner = _estimate(math.log(value), draws, len(ours))
    if inner.low is None or inner.high is None:
        return Estimate(value, None, None)
    return Estimate(value, math.exp(inner.low), math.exp(inner.high))


def reached(steps: np.ndarray, losses: np.ndarray, goal: float) -> float:
    """The first step at which a curve is at a goal; infinite if it never is.

    The first evaluation counts as the beginning of the curve.
    """
    below = np.flatnonzero(losses <= goal)
    if not len(below):
        return math.inf
    index = int(below[0])
    if index == 0:
        return float(steps[0])
    x, y = steps[index - 1 : index + 1], losses[index - 1 : index + 1]
    share = (y[0] - goal) / (y[0] - y[1])
    return float(x[0] + share * (x[1] - x[0]))


def _draws(count: int) -> np.ndarray:
    """Seeds with replacement, sorted: (draws, seeds). The same every time."""
    generator = np.random.default_rng(_SEED)
    return np.sort(generator.integers(count, size=(DRAWS, count)), axis=1)


def _estimate(value: float, draws: np.ndarray, count: int) -> Estimate:
    if count == 1:
        return Estimate(value, None, None)
    tail = (1 - LEVEL) / 2
    # Not interpolated: between a number and infinity there is nothing.
    low, high = np.quantile(draws, [tail, 1 - tail], method="inverted_cdf")
    normal = special.ndtri(1 - tail)
    student = special.stdtrit(count - 1, 1 - tail)
    stretch = math.sqrt(count / (count - 1)) * student / normal
    return Estimate(
        value, _stretched(value, low, stretch), _stretched(value, high, stretch)
    )


def _stretched(value: float, end: float, stretch: float) -> float:
    if not math.isfinite(value) or not math.isfinite(end):
        return float(end)
    return float(value + stretch * (end - value))
