"""CAME (arXiv 2307.02047), Algorithm 2, as the authors' code runs it.

Tensors of two and more axes are factored over their last two; on the others the
second moment is kept whole and the confidence is left out. Nothing is corrected
for bias.
"""

import numpy as np

from tests.oracles import at


class SecondMoment:
    """Running average of squares, kept as row and column averages if it can be."""

    def __init__(self, x, decay, eps):
        self.decay, self.eps = decay, eps
        self.factored = x.ndim >= 2
        if self.factored:
            self.row = np.zeros(x.shape[:-1])
            self.col = np.zeros(x.shape[:-2] + x.shape[-1:])
        else:
            self.whole = np.zeros(x.shape)

    def fold_in(self, signal):
        b, square = self.decay, signal**2 + self.eps
        if self.factored:
            self.row = b * self.row + (1 - b) * square.mean(axis=-1)
            self.col = b * self.col + (1 - b) * square.mean(axis=-2)
        else:
            self.whole = b * self.whole + (1 - b) * square

    def inverse_root(self):
        if not self.factored:
            return 1 / np.sqrt(self.whole)
        row = self.row / self.row.mean(axis=-1, keepdims=True)
        return 1 / np.sqrt(row[..., :, None] * self.col[..., None, :])


def clip_rms(u, threshold):
    return u / max(1.0, np.sqrt(np.mean(u**2)) / threshold)


def came(
    x,
    gradients,
    *,
    learning_rate,
    b1,
    b2,
    b3,
    eps,
    confidence_eps,
    clip_threshold,
    weight_decay,
):
    m = np.zeros_like(x)
    v = SecondMoment(x, b2, eps)
    s = SecondMoment(x, b3, confidence_eps)
    trajectory = []
    for t, g in enumerate(gradients, start=1):
        v.fold_in(g)
        u = clip_rms(g * v.inverse_root(), clip_threshold)
        m = b1 * m + (1 - b1) * u
        if x.ndim >= 2:
            s.fold_in(u - m)
            step = m * s.inverse_root()
        else:
            step = m
        x = x - at(learning_rate, t - 1) * (step + weight_decay * x)
        trajectory.append(x)
    return np.stack(trajectory)
