"""MARS (arXiv 2411.10438): MARS-AdamW (approximate, exact, lean), MARS-Lion.

The gradient before the first step is zero, as in the authors' code, so that
c_1 = (1 + gamma b1 / (1 - b1)) g_1; the paper starts from x_0 = x_1, c_1 = g_1.
"""

import numpy as np

from tests.oracles import at


def corrected(g, previous, *, gamma, b1, max_norm=1.0):
    """c_t: the gradient with its variance reduced, clipped as one tensor."""
    c = g + gamma * b1 / (1 - b1) * (g - previous)
    norm = np.sqrt(np.sum(c**2))
    if norm > max_norm:
        c = c / norm * max_norm
    return c


def mars_adamw(
    x,
    gradients,
    *,
    learning_rate,
    b1,
    b2,
    gamma,
    eps,
    weight_decay,
    max_norm=1.0,
    stale=None,
):
    """`stale[t - 1]`: the gradient at the previous parameters on the batch of step t.

    Without it, the gradient of the previous step stands in: the approximate form.
    Before the first step there are no previous parameters: `stale[0]` is not read.
    """
    m = np.zeros_like(x)
    v = np.zeros_like(x)
    previous = np.zeros_like(x)
    trajectory = []
    for t, g in enumerate(gradients, start=1):
        if stale is not None and t > 1:
            previous = stale[t - 1]
        c = corrected(g, previous, gamma=at(gamma, t), b1=b1, max_norm=max_norm)
        m = b1 * m + (1 - b1) * c
        v = b2 * v + (1 - b2) * c**2
        m_hat = m / (1 - b1**t)
        v_hat = v / (1 - b2**t)
        step = m_hat / (np.sqrt(v_hat) + eps) + weight_decay * x
        x = x - at(learning_rate, t - 1) * step
        previous = g
        trajectory.append(x)
    return np.stack(trajectory)


def mars_adamw_lean(x, gradients, *, learning_rate, b1, b2, gamma, eps, weight_decay):
    """Nothing is clipped, and the second moment is the gradient's.

    Written with the stored gradient that the optimizer does without.
    """
    m = np.zeros_like(x)
    v = np.zeros_like(x)
    previous = np.zeros_like(x)
    trajectory = []
    for t, g in enumerate(gradients, start=1):
        c = corrected(g, previous, gamma=gamma, b1=b1, max_norm=np.inf)
        m = b1 * m + (1 - b1) * c
        v = b2 * v + (1 - b2) * g**2
        m_hat = m / (1 - b1**t)
        v_hat = v / (1 - b2**t)
        step = m_hat / (np.sqrt(v_hat) + eps) + weight_decay * x
        x = x - at(learning_rate, t - 1) * step
        previous = g
        trajectory.append(x)
    return np.stack(trajectory)


def mars_lion(x, gradients, *, learning_rate, b1, gamma, weight_decay, max_norm=1.0):
    """The sign of the momentum itself: Lion's second interpolation is not here."""
    m = np.zeros_like(x)
    previous = np.zeros_like(x)
    trajectory = []
    for t, g in enumerate(gradients, start=1):
        c = corrected(g, previous, gamma=at(gamma, t), b1=b1, max_norm=max_norm)
        m = b1 * m + (1 - b1) * c
        x = x - at(learning_rate, t - 1) * (np.sign(m) + weight_decay * x)
        previous = g
        trajectory.append(x)
    return np.stack(trajectory)
