"""Optimizers whose step is the polar factor of a momentum.

mars_shampoo         MARS-Shampoo (arXiv 2411.10438), as the authors' code has it.
mars_m               MARS-M (arXiv 2510.21800), approximate and clipped.
muon                 Muon with Nesterov momentum, both of its terms debiased.
ademamix_muon        Muon of AdEMAMix's two memories. No paper prints it.
mars_ademamix_muon   The same of MARS's corrected, clipped gradient.

The last two axes of a tensor are its matrix and the others count matrices, each
with a polar factor of its own; MARS's clipping takes the tensor as a whole. What
has fewer than two axes goes to AdamW. No gradient depends on where the parameters
are, so the steps are written down first and walked afterwards.
"""

import numpy as np

from tests.oracles import at
from tests.oracles.adamw import adamw
from tests.oracles.mars import corrected, mars_adamw
from tests.oracles.newton_schulz import polar
from tests.oracles.parts import ema, mix


def otherwise(x, gradients, *, learning_rate, weight_decay):
    """What is not a matrix: AdamW with the constants of language models."""
    hyper = {"learning_rate": learning_rate, "weight_decay": weight_decay}
    return adamw(x, gradients, b1=0.9, b2=0.95, eps=1e-8, **hyper)


def walk(x, steps, *, learning_rate, weight_decay):
    """The tensor after each step, with decoupled weight decay."""
    trajectory = []
    for t, step in enumerate(steps, start=1):
        x = x - at(learning_rate, t - 1) * (step + weight_decay * x)
        trajectory.append(x)
    return np.stack(trajectory)


def all_corrected(gradients, *, gamma, b1, max_norm):
    """MARS's c_t for every t."""
    previous, out = np.zeros_like(gradients[0]), []
    for t, g in enumerate(gradients, start=1):
        out.append(corrected(g, previous, gamma=at(gamma, t), b1=b1, max_norm=max_norm))
        previous = g
    return np.stack(out)


def two_memories(signals, *, b1, b3, alpha):
    """AdEMAMix's direction: only the fast memory is corrected for bias."""
    return mix((1.0, alpha), (ema(signals, b1), ema(signals, b3, debias=False)))


def widening(x, in_axis, out_axis):
    """Muon's factor: larger steps for matrices with more outputs than inputs."""
    return np.sqrt(max(1, x.shape[out_axis] / x.shape[in_axis]))


def mars_shampoo(
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
    in_axis=-2,
    out_axis=-1,
):
    """`eps` is the polar factor's too. Only vectors read `b2`: theirs is MARS-AdamW."""
    rest = {"learning_rate": learning_rate, "weight_decay": weight_decay}
    difference = {"gamma": gamma, "b1": b1, "max_norm": max_norm}
    if x.ndim < 2:
        return mars_adamw(x, gradients, b2=b2, eps=eps, **difference, **rest)
    m = ema(all_corrected(gradients, **difference), b1, debias=False)
    # The division by 1 - b1 is felt only through polar's epsilon.
    factor = widening(x, in_axis, out_axis)
    steps = [factor * polar(each / (1 - b1), eps=eps) for each in m]
    return walk(x, steps, **rest)


def mars_m(
    x, gradients, *, learning_rate, b1, gamma, weight_decay, max_norm=1.0, **axes
):
    """The factor does not ask which axis is which: `axes` are taken and not read."""
    rest = {"learning_rate": learning_rate, "weight_decay": weight_decay}
    if x.ndim < 2:
        return otherwise(x, gradients, **rest)
    c = all_corrected(gradients, gamma=gamma, b1=b1, max_norm=max_norm)
    m = ema(c, b1, debias=False)
    factor = 0.2 * np.sqrt(max(x.shape[-2:]))
    return walk(x, [factor * polar(each, eps=1e-7) for each in m], **rest)


def muon(
    x, gradients, *, learning_rate, weight_decay, b1=0.95, in_axis=-2, out_axis=-1
):
    rest = {"learning_rate": learning_rate, "weight_decay": weight_decay}
    if x.ndim < 2:
        return otherwise(x, gradients, **rest)
    m = np.zeros_like(x)
    steps = []
    for t, g in enumerate(gradients, start=1):
        m = b1 * m + (1 - b1) * g
        # The momentum is looked at one step ahead, hence its bias of step t + 1.
        n = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        steps.append(widening(x, in_axis, out_axis) * polar(n))
    return walk(x, steps, **rest)


def ademamix_muon(
    x,
    gradients,
    *,
    learning_rate,
    b1,
    b3,
    alpha,
    weight_decay,
    in_axis=-2,
    out_axis=-1,
):
    rest = {"learning_rate": learning_rate, "weight_decay": weight_decay}
    if x.ndim < 2:
        return otherwise(x, gradients, **rest)
    factor = widening(x, in_axis, out_axis)
    directions = two_memories(gradients, b1=b1, b3=b3, alpha=alpha)
    return walk(x, [factor * polar(n) for n in directions], **rest)


def mars_ademamix_muon(
    x,
    gradients,
    *,
    learning_rate,
    b1,
    b3,
    alpha,
    gamma,
    weight_decay,
    max_norm=1.0,
    in_axis=-2,
    out_axis=-1,
):
    """`b1` is the fast memory's decay and, in the same breath, MARS's."""
    rest = {"learning_rate": learning_rate, "weight_decay": weight_decay}
    if x.ndim < 2:
        return otherwise(x, gradients, **rest)
    factor = widening(x, in_axis, out_axis)
    c = all_corrected(gradients, gamma=gamma, b1=b1, max_norm=max_norm)
    directions = two_memories(c, b1=b1, b3=b3, alpha=alpha)
    return walk(x, [factor * polar(n) for n in directions], **rest)
