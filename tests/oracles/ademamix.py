"""AdEMAMix (arXiv 2409.03137), Algorithm 1, and the schedules of its section 3."""

import math

import numpy as np

from tests.oracles import at


def half_life_warmup(start, end, steps, *, nudge=0.0):
    """b3(t): linear in the half-life of the slow memory, `end` after `steps`.

    `nudge` is added to a decay before its half-life is taken. The paper has
    none; the authors' PyTorch code adds 1e-8.
    """

    def half_life(b):
        return math.log(0.5) / math.log(b + nudge) - 1

    def decay(h):
        return 0.5 ** (1 / (h + 1))

    def schedule(t):
        if t >= steps:
            return end
        part = t / steps
        return decay((1 - part) * half_life(start) + part * half_life(end))

    return schedule


def linear_warmup(end, steps):
    """alpha(t): linear from zero, `end` after `steps`."""
    return lambda t: end * min(t / steps, 1.0)


def ademamix(x, gradients, *, learning_rate, b1, b2, b3, alpha, eps, weight_decay):
    m1 = np.zeros_like(x)
    m2 = np.zeros_like(x)
    v = np.zeros_like(x)
    trajectory = []
    for t, g in enumerate(gradients, start=1):
        slow = at(b3, t)
        m1 = b1 * m1 + (1 - b1) * g
        m2 = slow * m2 + (1 - slow) * g
        v = b2 * v + (1 - b2) * g**2
        m1_hat = m1 / (1 - b1**t)
        v_hat = v / (1 - b2**t)
        # The slow memory has no bias correction: the paper wants it to start small.
        step = (m1_hat + at(alpha, t) * m2) / (np.sqrt(v_hat) + eps)
        x = x - at(learning_rate, t - 1) * (step + weight_decay * x)
        trajectory.append(x)
    return np.stack(trajectory)
