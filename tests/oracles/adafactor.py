"""Adafactor (arXiv 1804.04235) with momentum, a constant decay and no relative step.

What is left of CAME when its confidence is taken away; the factors are
reconstructed as the paper does it, by an outer product over a sum.
"""

import numpy as np


def adafactor(x, gradients, *, learning_rate, b1, b2, eps, clip_threshold):
    whole = np.zeros_like(x)
    row_sums = np.zeros(x.shape[:-1])
    col_sums = np.zeros(x.shape[:-2] + x.shape[-1:])
    m = np.zeros_like(x)
    trajectory = []
    for g in gradients:
        square = g**2 + eps
        if x.ndim >= 2:
            row_sums = b2 * row_sums + (1 - b2) * square.sum(axis=-1)
            col_sums = b2 * col_sums + (1 - b2) * square.sum(axis=-2)
            total = row_sums.sum(axis=-1)[..., None, None]
            v = row_sums[..., :, None] * col_sums[..., None, :] / total
        else:
            whole = b2 * whole + (1 - b2) * square
            v = whole
        u = g / np.sqrt(v)
        u = u / max(1.0, np.sqrt(np.mean(u**2)) / clip_threshold)
        m = b1 * m + (1 - b1) * u
        x = x - learning_rate * m
        trajectory.append(x)
    return np.stack(trajectory)
