"""Averages of corrected gradients: against the optimizers' stages, and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimx import add_gradient_difference, add_stale_gradient_difference, ema
from optimx.bench.claims.errors import compare_with
from optimx.bench.claims.replay import Replay

B1, GAMMA = 0.9, 0.3
SCALE = B1 / (1 - B1)


def gradient(params, batch):
    """Of a function that is not quadratic, so that order matters."""
    return jax.grad(lambda p: jnp.sum(jnp.sin(p["a"] * batch)) * jnp.sum(p["b"] ** 3))(
        params
    )


def test_the_averages_are_those_of_the_optimizers_stages():
    generator = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(generator.normal(size=shape), jnp.float32)

    points = [{"a": draw(5), "b": draw(2, 3)} for _ in range(6)]
    batches = [draw(5) for _ in points]
    (found,) = Replay(gradient, B1).averages(points, [batches])
    grads = [gradient(*both) for both in zip(points, batches, strict=True)]
    for kind in ("approximate", "exact"):
        if kind == "exact":
            correct = add_stale_gradient_difference(GAMMA * SCALE)
            state = correct.init(points[0])
        else:
            correct = add_gradient_difference(GAMMA * SCALE)
            _, state = correct.update(grads[0], correct.init(points[0]))
        average = ema(B1)
        held = average.init(points[0])
        for k in range(1, len(points)):
            stale = gradient(points[k - 1], batches[k])
            corrected, state = correct.update(grads[k], state, stale_grads=stale)
            expected, held = average.update(corrected, held)
        mine = jax.tree.map(
            lambda a, d: a + GAMMA * d, found.plain, getattr(found, kind)
        )
        for name in expected:
            np.testing.assert_allclose(mine[name], expected[name], rtol=2e-5, atol=1e-6)
    norms = [np.sqrt(sum(jnp.sum(x * x) for x in g.values())) for g in grads[1:]]
    np.testing.assert_allclose(found.norms, norms, rtol=1e-5)


SIGMA, CURVATURE, SIZE, STEPS, REPLAYS, BATCHES = 0.7, 2.0, 512, 12, 24, 64


@pytest.fixture(scope="module")
def quadratic():
    """Errors on (h + noise) x^2 / 2, whose gradient's noise grows with x."""
    generator = np.random.default_rng(1)
    path = np.cumsum(generator.normal(1, 0.2, (STEPS + 1, SIZE)), axis=0)

    def noise(*shape):
        return generator.normal(0, SIGMA, (*shape, SIZE)).astype(np.float32)

    replay = Replay(lambda x, noise: {"x": (CURVATURE + noise) * x["x"]}, B1)
    points = [{"x": jnp.asarray(x, jnp.float32)} for x in path]
    averages = replay.averages(points, noise(REPLAYS, STEPS + 1))
    full = replay.full_gradient(points[-1], noise(BATCHES))
    return path, full, compare_with(full, averages, [True])


def expected(path, mode, gamma):
    """Variance and squared bias in closed form, over the squared full gradient."""
    ages = np.arange(STEPS)
    w = (1 - B1) * B1**ages / (1 - B1**STEPS)
    s = gamma * SCALE
    now, before = path[:0:-1], path[-2::-1]  # by age
    mean = (w[:, None] * (now + s * (now - before))).sum(axis=0)
    if mode == "exact":
        # The noise of a step meets the step's own parameters and those before it.
        parts = w[:, None] * (now + s * (now - before))
    else:
        # The noise of a step comes in twice: with its own weight, and the next one's.
        later = np.concatenate([[0.0], w])
        own = np.concatenate([w, [0.0]])
        parts = ((1 + s) * own - s * later)[:, None] * path[::-1]
    full = (CURVATURE * path[-1]) @ (CURVATURE * path[-1])
    variance = SIGMA**2 * (parts**2).sum()
    bias2 = CURVATURE**2 * ((mean - path[-1]) ** 2).sum()
    return variance / full, bias2 / full


@pytest.mark.parametrize("gamma", [0.0, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("mode", ["approximate", "exact"])
def test_variance_and_bias_of_a_noisy_quadratic(quadratic, mode, gamma):
    path, _, errors = quadratic
    variance, bias2 = expected(path, mode, gamma)
    found = errors.of(mode, gamma)
    # 24 x 512 numbers: the spread of their mean square is sqrt(2 / 12288) = 1.3 %;
    # neighbours in a path are far from equally large, which makes it more.
    assert found["variance"] == pytest.approx(variance, rel=0.06)
    # Its noise is of the order of the variance over the root of 24 x 512.
    assert found["bias2"] == pytest.approx(bias2, rel=0.05, abs=0.05 * variance)
    assert found["error"] == pytest.approx(found["variance"] + found["bias2"])


def test_the_full_gradient_and_its_error(quadratic):
    path, full, errors = quadratic
    one = SIGMA**2 * (path[-1] @ path[-1])
    assert errors.one_batch == pytest.approx(one, rel=0.05)
    true = CURVATURE**2 * (path[-1] @ path[-1])
    assert errors.full == pytest.approx(true, rel=0.02)
    assert errors.full_error == pytest.approx(one / BATCHES / true, rel=0.05)
    away = ((np.asarray(full.mean["x"]) - CURVATURE * path[-1]) ** 2).sum()
    assert errors.full_error == pytest.approx(away / true, rel=0.3)


def test_exact_correction_by_one_has_no_bias_but_that_of_the_window(quadratic):
    path, _, errors = quadratic
    left = B1**STEPS
    stretch = left / (1 - left) * CURVATURE * (path[-1] - path[0])
    bias2 = stretch @ stretch / errors.full
    assert expected(path, "exact", 1.0)[1] == pytest.approx(bias2, rel=0.03)
    assert errors.of("exact", 1.0)["bias2"] == pytest.approx(bias2, rel=0.1)


def test_leaves_add_up():
    generator = np.random.default_rng(2)
    points = [
        {"a": jnp.asarray(generator.normal(size=5), jnp.float32), "b": jnp.ones((2, 3))}
        for _ in range(4)
    ]

    def draw(*shape):
        return generator.normal(size=(*shape, 5)).astype(np.float32)

    replay = Replay(gradient, B1)
    averages = replay.averages(points, draw(3, 4))
    full = replay.full_gradient(points[-1], draw(7))
    either = [compare_with(full, averages, [x, not x]) for x in (True, False)]
    both = compare_with(full, averages, [True, True])
    np.testing.assert_allclose(
        sum(e.products for e in either), both.products, rtol=1e-12
    )
    assert sum(e.one_batch for e in either) == pytest.approx(both.one_batch)
