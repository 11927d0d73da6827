"""SOAP (arXiv 2409.11321) after the authors' code, and two crossings.

Adam in the eigenbasis of Shampoo's factors. A matrix without a basis stands still,
weight decay apart, and so does every matrix in the first step. Later bases come
from one step of power iteration and QR. The momentum is kept in raw coordinates
and rotated when it is used, which equals rotating it along with every new basis.

The authors skip the first step altogether. Here the momentum has seen the first
gradient, and weight decay acts. So that it does not meet a second moment of one
gradient, that begins, as if it had seen one more, with the larger of what the
factors expect of a square (Adafactor's estimate in their basis) and the square
that is there.

mars_soap       MARS's corrected, clipped gradient in place of the gradient.
ademamix_soap   AdEMAMix's two memories in place of the momentum.

A first basis found from fewer gradients than span a side is not unique: whatever
orthonormal vectors eigh returns for eigenvalues of zero are as good as others,
and the steps after it depend on them. A comparison wants square matrices, or a
`phase` late enough for both factors to have full rank.
"""

import numpy as np

from tests.oracles.matrices import all_corrected, otherwise, two_memories, walk
from tests.oracles.parts import ema
from tests.oracles.shampoo import each_matrix


def first_basis(factor):
    """Eigenvectors, the largest eigenvalue first."""
    return np.linalg.eigh(factor)[1][:, ::-1]


def next_basis(factor, basis):
    """One step of power iteration, and the order that the columns were put in."""
    order = np.argsort(-np.diag(basis.T @ factor @ basis), kind="stable")
    if not np.any(factor):
        # Zeros speak for no basis, and QR would answer with one of its own.
        return basis, order
    return np.linalg.qr(factor @ basis[:, order])[0], order


def first_second_moment(g, factors, bases, weight, sides):
    """In the first basis: Adafactor's estimate from the factors, or more."""
    rows, columns = (
        np.diag(q.T @ factor @ q) / weight if wanted else None
        for q, factor, wanted in zip(bases, factors, sides, strict=True)
    )
    if columns is None:
        expected = np.repeat(rows[:, None] / g.shape[1], g.shape[1], axis=1)
    elif rows is None:
        expected = np.repeat(columns[None, :] / g.shape[0], g.shape[0], axis=0)
    else:
        total = np.sum(rows)
        expected = np.outer(rows, columns) / (total if total > 0 else 1)
    return np.maximum(expected, (bases[0].T @ g @ bases[1]) ** 2)


def of_matrix(
    signals, directions, *, b2, shampoo_decay, eps, update_every, phase, sides
):
    """The steps of one matrix; factors and second moment are of `signals`."""
    decay = b2 if shampoo_decay is None else shampoo_decay
    shape = signals[0].shape
    factors = [np.zeros((size, size)) for size in shape]
    bases = [np.eye(size) for size in shape]
    found, v, n = False, np.zeros(shape), 0
    steps = []
    for t, (g, m_hat) in enumerate(zip(signals, directions, strict=True), start=1):
        step = np.zeros(shape)
        if found:
            left, right = bases
            # The second moment is as old as the basis: so is its bias.
            n += 1
            v = b2 * v + (1 - b2) * (left.T @ g @ right) ** 2
            u = left.T @ m_hat @ right / (np.sqrt(v / (1 - b2**n)) + eps)
            step = left @ u @ right.T
        steps.append(step)
        for side, outer in enumerate((g @ g.T, g.T @ g)):
            factors[side] = decay * factors[side] + (1 - decay) * outer
        if (t - 1) % update_every == phase:
            for side in (0, 1):
                # A side that is not wanted keeps the identity for a basis.
                if sides[side] and not found:
                    bases[side] = first_basis(factors[side])
                elif sides[side]:
                    bases[side], order = next_basis(factors[side], bases[side])
                    v = np.take(v, order, axis=side)
            if not found and any(sides):
                weight = 1 - decay**t
                v = (1 - b2) * first_second_moment(g, factors, bases, weight, sides)
                n = 1
            found = True
    return np.stack(steps)


def soap(
    x,
    gradients,
    *,
    learning_rate,
    b1,
    b2,
    eps,
    update_every,
    weight_decay,
    shampoo_decay=None,
    phase=0,
    sides=(True, True),
):
    """Matrix i takes a new basis where (t - 1) % update_every == phase[i]."""
    rest = {"learning_rate": learning_rate, "weight_decay": weight_decay}
    if x.ndim < 2:
        return otherwise(x, gradients, **rest)
    steps = each_matrix(
        of_matrix,
        gradients,
        ema(gradients, b1),
        b2=b2,
        shampoo_decay=shampoo_decay,
        eps=eps,
        update_every=update_every,
        phase=phase,
        sides=sides,
    )
    return walk(x, steps, **rest)


def mars_soap(
    x,
    gradients,
    *,
    learning_rate,
    b1,
    b2,
    gamma,
    eps,
    update_every,
    weight_decay,
    max_norm=1.0,
    shampoo_decay=None,
    phase=0,
    sides=(True, True),
):
    """The clipping takes the tensor as a whole, all of its matrices together."""
    rest = {"learning_rate": learning_rate, "weight_decay": weight_decay}
    if x.ndim < 2:
        return otherwise(x, gradients, **rest)
    c = all_corrected(gradients, gamma=gamma, b1=b1, max_norm=max_norm)
    steps = each_matrix(
        of_matrix,
        c,
        ema(c, b1),
        b2=b2,
        shampoo_decay=shampoo_decay,
        eps=eps,
        update_every=update_every,
        phase=phase,
        sides=sides,
    )
    return walk(x, steps, **rest)


def ademamix_soap(
    x,
    gradients,
    *,
    learning_rate,
    b1,
    b2,
    b3,
    alpha,
    eps,
    update_every,
    weight_decay,
    shampoo_decay=None,
    phase=0,
    sides=(True, True),
):
    """Basis and second moment observe the gradient, as Adam's box does in AdEMAMix."""
    rest = {"learning_rate": learning_rate, "weight_decay": weight_decay}
    if x.ndim < 2:
        return otherwise(x, gradients, **rest)
    steps = each_matrix(
        of_matrix,
        gradients,
        two_memories(gradients, b1=b1, b3=b3, alpha=alpha),
        b2=b2,
        shampoo_decay=shampoo_decay,
        eps=eps,
        update_every=update_every,
        phase=phase,
        sides=sides,
    )
    return walk(x, steps, **rest)
