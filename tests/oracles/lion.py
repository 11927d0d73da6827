"""Lion (arXiv 2302.06675), Algorithm 2.

The direction interpolates with b1, the momentum that is kept with b2.
"""

import numpy as np

from tests.oracles import at


def lion(x, gradients, *, learning_rate, b1, b2, weight_decay):
    m = np.zeros_like(x)
    trajectory = []
    for t, g in enumerate(gradients, start=1):
        c = b1 * m + (1 - b1) * g
        x = x - at(learning_rate, t - 1) * (np.sign(c) + weight_decay * x)
        m = b2 * m + (1 - b2) * g
        trajectory.append(x)
    return np.stack(trajectory)
