"""The papers crossed: no paper prints these boxes, so here they are written out.

mars_ademamix   MARS's corrected, clipped gradient in AdEMAMix's box.
mars_came       the same gradient in CAME's box.
ademamix_came   CAME's box with two memories. The residual is meant to be small
                where the momentum is sure, so it is taken to a weighted *average*
                of the two; the step is then as long as AdEMAMix's *sum*.
"""

import numpy as np

from tests.oracles import at
from tests.oracles.came import SecondMoment, clip_rms
from tests.oracles.mars import corrected


def mars_ademamix(
    x,
    gradients,
    *,
    learning_rate,
    b1,
    b2,
    b3,
    alpha,
    gamma,
    eps,
    weight_decay,
    max_norm=1.0,
):
    m1 = np.zeros_like(x)
    m2 = np.zeros_like(x)
    v = np.zeros_like(x)
    previous = np.zeros_like(x)
    trajectory = []
    for t, g in enumerate(gradients, start=1):
        slow = at(b3, t)
        c = corrected(g, previous, gamma=at(gamma, t), b1=b1, max_norm=max_norm)
        m1 = b1 * m1 + (1 - b1) * c
        m2 = slow * m2 + (1 - slow) * c
        v = b2 * v + (1 - b2) * c**2
        v_hat = v / (1 - b2**t)
        step = (m1 / (1 - b1**t) + at(alpha, t) * m2) / (np.sqrt(v_hat) + eps)
        x = x - at(learning_rate, t - 1) * (step + weight_decay * x)
        previous = g
        trajectory.append(x)
    return np.stack(trajectory)


def mars_came(
    x,
    gradients,
    *,
    learning_rate,
    b1,
    b2,
    b3,
    gamma,
    eps,
    confidence_eps,
    clip_threshold,
    weight_decay,
    max_norm=1.0,
):
    m = np.zeros_like(x)
    previous = np.zeros_like(x)
    v = SecondMoment(x, b2, eps)
    s = SecondMoment(x, b3, confidence_eps)
    trajectory = []
    for t, g in enumerate(gradients, start=1):
        c = corrected(g, previous, gamma=at(gamma, t), b1=b1, max_norm=max_norm)
        v.fold_in(c)
        u = clip_rms(c * v.inverse_root(), clip_threshold)
        m = b1 * m + (1 - b1) * u
        step = m
        if x.ndim >= 2:
            s.fold_in(u - m)
            step = m * s.inverse_root()
        x = x - at(learning_rate, t - 1) * (step + weight_decay * x)
        previous = g
        trajectory.append(x)
    return np.stack(trajectory)


def ademamix_came(
    x,
    gradients,
    *,
    learning_rate,
    b1,
    b2,
    b3,
    alpha,
    confidence_decay,
    eps,
    confidence_eps,
    clip_threshold,
    weight_decay,
):
    m1 = np.zeros_like(x)
    m2 = np.zeros_like(x)
    v = SecondMoment(x, b2, eps)
    s = SecondMoment(x, confidence_decay, confidence_eps)
    trajectory = []
    for t, g in enumerate(gradients, start=1):
        slow, a = at(b3, t), at(alpha, t)
        v.fold_in(g)
        u = clip_rms(g * v.inverse_root(), clip_threshold)
        m1 = b1 * m1 + (1 - b1) * u
        m2 = slow * m2 + (1 - slow) * u
        m = (m1 + a * m2) / (1 + a)
        step = m
        if x.ndim >= 2:
            s.fold_in(u - m)
            step = m * s.inverse_root()
        step = (1 + a) * step
        x = x - at(learning_rate, t - 1) * (step + weight_decay * x)
        trajectory.append(x)
    return np.stack(trajectory)
