"""Shampoo (arXiv 1802.09568) with averaged factors, grafted onto Adam.

    L = b2 L + (1 - b2) g g^T,  R = b2 R + (1 - b2) g^T g,  d = L^(-1/4) m R^(-1/4)

The factors are corrected for bias before their roots are taken, every
`update_every` steps; the direction d is then given the length of Adam's step.
"""

import numpy as np

from tests.oracles.matrices import otherwise, walk
from tests.oracles.parts import ema, graft, rms


def inverse_fourth_root(factor, root_eps):
    """(F + root_eps * lambda_max * I)^(-1/4); the identity for a factor of zeros."""
    if not np.any(factor):
        return np.eye(len(factor))
    values, vectors = np.linalg.eigh(factor)
    # A factor has no negative eigenvalues: those that appear are rounding.
    values = np.maximum(values, 0) + root_eps * values[-1]
    return (vectors * values**-0.25) @ vectors.T


def of_matrix(gradients, momenta, *, decay, root_eps, update_every, phase):
    """L^(-1/4) m R^(-1/4) at each step, for one matrix."""
    rows, cols = gradients[0].shape
    left, right = np.zeros((rows, rows)), np.zeros((cols, cols))
    left_root, right_root = np.eye(rows), np.eye(cols)
    out = []
    for t, (g, m) in enumerate(zip(gradients, momenta, strict=True), start=1):
        left = decay * left + (1 - decay) * g @ g.T
        right = decay * right + (1 - decay) * g.T @ g
        if (t - 1) % update_every == phase:
            left_root = inverse_fourth_root(left / (1 - decay**t), root_eps)
            right_root = inverse_fourth_root(right / (1 - decay**t), root_eps)
        out.append(left_root @ m @ right_root)
    return np.stack(out)


def each_matrix(rule, signals, directions, *, phase, **hyper):
    """`rule` on every matrix of a batch; `phase` is one number or one for each."""
    matrices = [s.reshape(len(s), -1, *s.shape[-2:]) for s in (signals, directions)]
    phases = np.broadcast_to(phase, matrices[0].shape[1:2])
    out = [
        rule(matrices[0][:, i], matrices[1][:, i], phase=p, **hyper)
        for i, p in enumerate(phases)
    ]
    return np.stack(out, axis=1).reshape(signals.shape)


def shampoo(
    x,
    gradients,
    *,
    learning_rate,
    b1,
    b2,
    eps,
    root_eps,
    update_every,
    weight_decay,
    phase=0,
):
    """Matrix i takes new roots where (t - 1) % update_every == phase[i].

    Until its first it has the identity for roots.
    """
    rest = {"learning_rate": learning_rate, "weight_decay": weight_decay}
    if x.ndim < 2:
        return otherwise(x, gradients, **rest)
    m_hat = ema(gradients, b1)
    directions = each_matrix(
        of_matrix,
        gradients,
        m_hat,
        decay=b2,
        root_eps=root_eps,
        update_every=update_every,
        phase=phase,
    )
    # Norms are of the whole tensor, all of its matrices together.
    adam = rms(m_hat, b2, eps=eps, observed=gradients)
    return walk(x, graft(directions, adam), **rest)
