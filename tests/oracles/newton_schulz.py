"""Newton-Schulz: the quintic iteration towards the orthogonal polar factor."""

import numpy as np


def polar(x, *, steps=5, coefficients=((3.4445, -4.7750, 2.0315),), eps=0.0):
    """Each matrix of `x` with its singular values brought near one.

    These coefficients do not converge to one: they swing about it, and are chosen
    for how fast small singular values grow. A list shorter than `steps` repeats
    its last triple.
    """
    matrices = x.reshape(-1, *x.shape[-2:])
    out = np.zeros_like(matrices)
    for i, matrix in enumerate(matrices):
        norm = np.sqrt(np.sum(matrix**2))
        if norm == 0:
            continue
        y = matrix / (norm + eps)
        for step in range(steps):
            a, b, c = coefficients[min(step, len(coefficients) - 1)]
            gram = y @ y.T
            y = a * y + (b * gram + c * gram @ gram) @ y
        out[i] = y
    return out.reshape(x.shape)
