"""AdamW: decoupled weight decay (arXiv 1711.05101), Algorithm 2."""

import numpy as np

from tests.oracles import at


def adamw(x, gradients, *, learning_rate, b1, b2, eps, weight_decay):
    m = np.zeros_like(x)
    v = np.zeros_like(x)
    trajectory = []
    for t, g in enumerate(gradients, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat = m / (1 - b1**t)
        v_hat = v / (1 - b2**t)
        step = m_hat / (np.sqrt(v_hat) + eps) + weight_decay * x
        x = x - at(learning_rate, t - 1) * step
        trajectory.append(x)
    return np.stack(trajectory)
