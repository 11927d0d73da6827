"""Every value that a monitor measures, against numpy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from monitored import draws, measured

import optimx
from optimx.transforms import momentum


def flat(tree):
    leaves = jax.tree.leaves(tree)
    return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in leaves])


def norm(tree):
    return np.linalg.norm(flat(tree))


def test_values_of_the_whole_update_are_numpys():
    updates, _, found = measured(optimx.adamw(0.1))
    g, u = draws(2), updates
    assert found["measured"] == 3
    assert found["cosine"] == pytest.approx(
        flat(u) @ flat(g) / norm(u) / norm(g), rel=1e-5
    )
    size = flat(g).size
    assert found["gradient_rms"] == pytest.approx(norm(g) / size**0.5, rel=1e-5)
    assert found["update_rms"] == pytest.approx(norm(u) / size**0.5, rel=1e-5)
    for name, leaf in u.items():
        rms = np.sqrt(np.mean(np.square(np.asarray(leaf, np.float64))))
        assert found[f"update_rms/{name}"] == pytest.approx(rms, rel=1e-5)


def test_correction_and_clipped_share_are_numpys():
    limit, factor = 7.5, 0.025 * 0.95 / 0.05
    _, _, found = measured(optimx.mars_adamw(0.1, max_norm=limit))
    g, old = draws(2), draws(1)
    correction = {k: factor * (np.asarray(g[k]) - np.asarray(old[k])) for k in g}
    c = {k: np.asarray(g[k]) + correction[k] for k in g}
    norms = [np.linalg.norm(x) for x in c.values()]
    assert found["correct/change"] == pytest.approx(
        norm(correction) / norm(g), rel=1e-5
    )
    assert found["clip/shrunk"] == pytest.approx(np.mean([n > limit for n in norms]))
    assert 0 < found["clip/shrunk"] < 1
    cut = [n - min(n, limit) for n in norms]
    assert found["clip/change"] == pytest.approx(
        np.linalg.norm(cut) / np.linalg.norm(norms), rel=1e-4
    )


def test_confidence_and_gain_are_numpys():
    updates, _, found = measured(
        optimx.precondition(optimx.ema(0.9), by=optimx.scale_by_rms(0.99))
    )
    weights = np.array([0.9**2, 0.9, 1.0]) * 0.1 / (1 - 0.9**3)
    d = sum(w * flat(draws(t)) for t, w in enumerate(weights))
    left = np.sum((flat(draws(2)) - d) ** 2)
    assert found["confidence"] == pytest.approx(d @ d / (d @ d + left), rel=1e-5)
    assert found["gain"] == pytest.approx(norm(updates) / np.linalg.norm(d), rel=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.9999, 0.999999])
@pytest.mark.parametrize("count", [1, 2, 10, 1000, 100_000])
def test_ages_are_mean_ages(decay, count):
    k = np.arange(count, dtype=np.float64)
    weights = decay**k
    expected = (k * weights).sum() / weights.sum()
    found = momentum.age(decay, jnp.int32(count))
    # The decay itself is rounded to float32: 6e-8 beside 1 - decay.
    tolerance = 1e-3 + 2 * 6e-8 / (1 - decay)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=1e-5)


@pytest.mark.parametrize("build", [optimx.shampoo, optimx.soap])
def test_conditions_are_those_of_the_factors(build):
    tx = build(0.1, update_every=1, spread=False, labels=optimx.by_rank)
    _, state, found = measured(tx, steps=40)
    (name,) = (name for name in found if name.endswith("/condition"))
    by = state.inner.inner_states["matrix"].inner_state["precondition"].by
    by = getattr(by, "direction", by)
    logs = []
    for side in (by.left, by.right):
        for factor in jax.tree.leaves(side):
            values = np.linalg.eigvalsh(np.asarray(factor, np.float64))
            ridge = 1e-6 * values[..., -1] if build is optimx.shampoo else 0
            high, low = values[..., -1] + ridge, values[..., 0] + ridge
            logs += np.log10(high / low).ravel().tolist()
    # Power iterations, and bases that are those of the step before.
    assert np.log10(found[name]) == pytest.approx(np.mean(logs), abs=0.15)


def test_the_two_memories_of_ademamix_have_ages_of_their_own():
    _, _, found = measured(optimx.ademamix(0.1, b1=0.5, b3=0.9))
    for index, b in enumerate((0.5, 0.9)):
        expected = (b + 2 * b**2) / (1 + b + b**2)
        name = f"precondition/direction/{index}/age"
        assert found[name] == pytest.approx(expected, rel=1e-3)
