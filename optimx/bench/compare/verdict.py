"""Intervals in words."""

import math

from optimx.bench.compare.statistics import LEVEL, Estimate


def verdict(label: str, baseline: str, loss: Estimate, tokens: Estimate) -> str:
    """What the runs show of one contender against the baseline.

    Args:
      label: of the contender.
      baseline: label of the baseline.
      loss: its final loss less the baseline's.
      tokens: that it needs for the baseline's final loss, as a ratio.
    """
    if loss.low is None or loss.high is None:
        way = "lower" if loss.value < 0 else "higher"
        return (
            f"{label}: {abs(loss.value):.4f} {way} than {baseline} on one seed, which "
            "says nothing about another."
        )
    interval = f"{LEVEL:.0%} interval {signed(loss.low)} to {signed(loss.high)}"
    if loss.low <= 0 <= loss.high:
        return (
            f"{label}: no difference from {baseline} shown in final loss "
            f"({signed(loss.value)}, {interval})."
        )
    if loss.value > 0:
        return f"{label} ends higher than {baseline} by {loss.value:.4f} ({interval})."
    text = f"{label} ends lower than {baseline} by {-loss.value:.4f} ({interval})"
    if not math.isfinite(tokens.value):
        return text + "."
    return (
        f"{text}, and reaches {baseline}'s final loss with {tokens.value:.0%} of its "
        f"tokens (interval {ratio(tokens.low)} to {ratio(tokens.high)})."
    )


def signed(value: float) -> str:
    """A difference of losses."""
    return f"{value:+.4f}"


def ratio(value: float | None) -> str:
    """A share of tokens; what was never reached is more than all."""
    if value is None:
        return "-"
    return f"{value:.2f}" if math.isfinite(value) and value <= 1 else ">1"
