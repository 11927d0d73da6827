"""The stateful parts on their own: signals of one tensor in, signals out."""

import numpy as np

from tests.oracles import at


def ema(signals, decay, *, debias=True):
    """Moving average; corrected by the weight that the zero start still holds."""
    m, start, out = np.zeros_like(signals[0]), 1.0, []
    for t, g in enumerate(signals, start=1):
        b = at(decay, t)
        m = b * m + (1 - b) * g
        start = start * b
        out.append(m / (1 - start) if debias else m)
    return np.stack(out)


def rms(signals, decay, *, eps, debias=True, observed=None):
    """Adam's scaling of `signals`, its second moment that of `observed`."""
    observed = signals if observed is None else observed
    v, out = np.zeros_like(signals[0]), []
    for t, (g, seen) in enumerate(zip(signals, observed, strict=True), start=1):
        v = decay * v + (1 - decay) * seen**2
        v_hat = v / (1 - decay**t) if debias else v
        out.append(g / (np.sqrt(v_hat) + eps))
    return np.stack(out)


def factored_rms(signals, decay, *, eps, observed=None):
    """Scaling by row and column averages of squares over the last two axes."""
    observed = signals if observed is None else observed
    x = signals[0]
    if x.ndim < 2:
        v, out = np.zeros_like(x), []
        for g, seen in zip(signals, observed, strict=True):
            v = decay * v + (1 - decay) * (seen**2 + eps)
            out.append(g / np.sqrt(v))
        return np.stack(out)
    row = np.zeros(x.shape[:-1])
    col = np.zeros(x.shape[:-2] + x.shape[-1:])
    out = []
    for g, seen in zip(signals, observed, strict=True):
        row = decay * row + (1 - decay) * np.mean(seen**2 + eps, axis=-1)
        col = decay * col + (1 - decay) * np.mean(seen**2 + eps, axis=-2)
        v = np.einsum("...i,...j->...ij", row, col)
        v = v / np.mean(row, axis=-1)[..., None, None]
        out.append(g / np.sqrt(v))
    return np.stack(out)


def gradient_difference(signals, scale, *, stale=None):
    """g + scale (g - previous), or the same with given gradients for the stored."""
    previous, out = np.zeros_like(signals[0]), []
    for t, g in enumerate(signals, start=1):
        if stale is not None:
            previous = stale[t - 1]
        out.append(g + at(scale, t) * (g - previous))
        previous = g
    return np.stack(out)


def block_norm_clip(signals, max_norm):
    """Each signal's L2 norm brought down to `max_norm` if it lies above."""
    out = []
    for g in signals:
        norm = np.sqrt(np.sum(g**2))
        out.append(g * (max_norm / norm) if norm > max_norm else g)
    return np.stack(out)


def mix(weights, signals):
    """Weighted sum of several sequences; weights may be schedules."""
    steps = len(signals[0])
    return np.stack(
        [
            sum(at(w, t) * s[t - 1] for w, s in zip(weights, signals, strict=True))
            for t in range(1, steps + 1)
        ]
    )


def graft(direction, magnitude):
    """The direction of one sequence with the norms of the other."""
    out = []
    for d, m in zip(direction, magnitude, strict=True):
        norm = np.sqrt(np.sum(d**2))
        out.append(d / norm * np.sqrt(np.sum(m**2)) if norm > 0 else np.zeros_like(d))
    return np.stack(out)


def horizon(steps, fraction=0.2):
    """The decay that remembers a `fraction` of a run of `steps`."""
    return 1 - 1 / (fraction * steps)
