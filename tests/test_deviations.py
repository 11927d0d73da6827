"""Each deviation from a paper that the pages in docs/papers list."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimx

ROOT = Path(__file__).parent.parent


def test_mars_magnifies_the_first_gradient():
    tx = optimx.mars_adamw(1.0, max_norm=jnp.inf)
    g = jnp.array([0.1, -0.2])
    _, state = tx.update(g, tx.init(g), g)
    average = state["precondition"].direction.average
    # (1 - b1) c_1 with c_1 = (1 + .025 * .95 / .05) g_1; float32 rounding.
    np.testing.assert_allclose(average, 0.05 * 1.475 * g, rtol=1e-6)


def test_a_matrix_has_two_axes_or_more():
    ranks = [jnp.zeros((1,) * rank) for rank in range(5)]
    assert optimx.by_rank(ranks) == ["other", "other", "matrix", "matrix", "matrix"]


def test_two_learning_rates_follow_two_schedules():
    def falling(count):
        return jnp.where(count < 1, 1.0, 0.1)

    tx = optimx.matrices_only(optimx.mars_lion(falling), otherwise=optimx.adamw(1.0))
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    state = tx.init(params)
    sizes = []
    for _ in range(2):
        updates, state = tx.update(params, state, params)
        sizes.append(jax.tree.map(lambda u: float(-u.ravel()[0]), updates))
    assert sizes[1]["kernel"] == pytest.approx(0.1 * sizes[0]["kernel"])
    assert sizes[1]["bias"] == pytest.approx(sizes[0]["bias"])


@pytest.mark.parametrize("name", optimx.registry.names())
def test_half_precision_parameters_keep_float32_averages(name):
    params = jnp.ones((3, 2), jnp.bfloat16)
    state = optimx.registry.build(name, learning_rate=1e-3).init(params)
    floats = [x for x in jax.tree.leaves(state) if x.dtype != jnp.int32]
    assert floats
    assert {x.dtype for x in floats} == {jnp.dtype(jnp.float32)}


def test_memory_schedules_count_from_one():
    seen = []

    def recording(count):
        jax.debug.callback(lambda c: seen.append(int(c)), count)
        return jnp.float32(0.5)

    tx = optimx.ademamix(1e-3, b3=recording, alpha=recording)
    g = jnp.ones(2)
    state = tx.init(g)
    for _ in range(3):
        _, state = tx.update(g, state, g)
    jax.effects_barrier()
    assert sorted(seen) == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    "build",
    [
        lambda: optimx.linear_warmup(8.0, 0),
        lambda: optimx.half_life_warmup(0.9, 0.9999, 0),
    ],
)
def test_a_warm_up_of_no_steps_is_an_error(build):
    with pytest.raises(ValueError, match=r"steps must be a whole number >= 1, got 0"):
        build()


def test_no_fast_memory_keeps_no_buffer():
    tx = optimx.ademamix(1e-3, b1=0.0, b3=optimx.half_life_warmup(0.0, 0.999, 10))
    g = jnp.ones((4, 3))
    state = tx.init(g)
    sizes = [x.size for x in jax.tree.leaves(state) if x.ndim]
    assert sizes == [g.size] * 2
    updates, _ = tx.update(g, state, g)
    assert jnp.all(jnp.isfinite(updates))


@pytest.mark.parametrize("decay", [0.999, 0.9999, 0.99999])
def test_bias_correction_has_no_cancellation(decay):
    g = jnp.float32(3.0)
    tx = optimx.scale_by_rms(decay, eps=0.0)
    updates, _ = tx.update(g, tx.init(g))
    # A few float32 roundings; 1 - decay**t in float32 is off by up to 3e-3 here.
    assert float(updates) == pytest.approx(1.0, abs=5e-7)


def test_came_survives_zero_rows_beside_huge_ones():
    # The quotient of the rows is 1e-30 / 1e17 and less: below float32's smallest.
    g = jnp.zeros((4, 3)).at[0].set(1e9)
    tx = optimx.came(1e-3)
    state = tx.init(g)
    for _ in range(3):
        updates, state = tx.update(g, state, g)
    for leaf in jax.tree.leaves((updates, state)):
        assert jnp.all(jnp.isfinite(leaf))
    assert jnp.all(updates[0] < 0)
    assert jnp.all(updates[1:] == 0)


def test_came_survives_an_overflow():
    tx = optimx.came(1e-3)
    g = jnp.ones((4, 3))
    state = tx.init(g)
    _, state = tx.update(1e30 * g, state, g)
    updates, state = tx.update(g, state, g)
    for leaf in jax.tree.leaves((updates, state)):
        assert jnp.all(jnp.isfinite(leaf))


@pytest.mark.parametrize("name", ["mars_adamw", "mars_lion", "ademamix", "came"])
def test_weight_decay_is_off_unless_asked_for(name):
    assert optimx.registry.hyperparameters(name)["weight_decay"] == 0.0


def pages():
    return sorted((ROOT / "docs" / "papers").glob("*.md"))


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_pages_name_tests_that_exist(page):
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text())
    assert named
    for path, function in named:
        source = (ROOT / path).read_text()
        assert not function or f"def {function}(" in source, (path, function)
