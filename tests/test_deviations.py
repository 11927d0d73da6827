"""Each deviation from a paper that the pages in docs/papers list."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimx
from optimx.linalg.newton_schulz import POLAR_EXPRESS
from tests import fidelity, runs

ROOT = Path(__file__).parent.parent

OF_MATRICES = [
    name
    for name in optimx.registry.names()
    if "otherwise" in optimx.registry.hyperparameters(name)
]


def test_mars_magnifies_the_first_gradient():
    tx = optimx.mars_adamw(1.0, max_norm=jnp.inf)
    g = jnp.array([0.1, -0.2])
    _, state = tx.update(g, tx.init(g), g)
    average = state["precondition"].direction.average
    # (1 - b1) c_1 with c_1 = (1 + .025 * .95 / .05) g_1; float32 rounding.
    np.testing.assert_allclose(average, 0.05 * 1.475 * g, rtol=1e-6)


def test_lean_mars_has_the_second_moment_of_the_gradient():
    g = jnp.array([0.1, -20.0])
    tx = optimx.mars_adamw_lean(1.0, b2=0.9)
    updates, state = tx.update(g, tx.init(g), g)
    moment = state["precondition"].by.second_moment
    np.testing.assert_allclose(moment, 0.1 * g**2, rtol=1e-6)
    # The first momentum is MARS's, 1.475 g, also where that would clip it.
    np.testing.assert_allclose(updates, [-1.475, 1.475], rtol=1e-6)


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


@pytest.mark.parametrize(
    "name", ["mars_adamw", "mars_lion", "ademamix", "came", *OF_MATRICES]
)
def test_weight_decay_is_off_unless_asked_for(name):
    assert optimx.registry.hyperparameters(name)["weight_decay"] == 0.0


# Optimizers of matrices


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def first_updates(tx, grads, steps=1):
    """The updates of the last of some steps with the same gradients."""
    state = tx.init(grads)
    for _ in range(steps):
        updates, state = tx.update(grads, state, grads)
    return updates


@pytest.mark.parametrize("name", OF_MATRICES)
def test_embeddings_heads_and_stacked_vectors_are_no_matrices(name):
    grads = {
        "wte": normal(4, 3),
        "token_embedding": normal(4, 3),
        "lm_head": {"kernel": normal(3, 4)},
        "block": {"kernel": normal(2, 3, 3), "bias": normal(2, 3), "scale": normal(3)},
    }
    passed = optimx.registry.build(name, learning_rate=0.1, otherwise=optax.identity())
    updates = first_updates(passed, grads)
    alike = jax.tree.map(lambda u, g: bool(jnp.all(u == g)), updates, grads)
    assert not alike["block"].pop("kernel")
    assert all(jax.tree.leaves(alike))


@pytest.mark.parametrize("name", OF_MATRICES)
def test_what_is_not_a_matrix_gets_adamw_without_nesterov(name):
    grads = {"bias": normal(5)}
    tx = optimx.registry.build(name, learning_rate=0.1, weight_decay=0.2)
    # MARS-Shampoo has the MARS-AdamW rule there, as its authors' optimize_1d.
    rule = optimx.mars_adamw if name == "mars_shampoo" else optimx.adamw
    own = {} if name == "mars_shampoo" else {"b1": 0.9, "b2": 0.95}
    expected = rule(0.1, weight_decay=0.2, **own)
    np.testing.assert_array_equal(
        first_updates(tx, grads, steps=3)["bias"],
        first_updates(expected, grads, steps=3)["bias"],
    )


@pytest.mark.parametrize("name", ["mars_shampoo", "muon", "ademamix_muon"])
@pytest.mark.parametrize(("shape", "factor"), [((2, 8), 2.0), ((8, 2), 0.5)])
def test_step_factors_are_those_of_flax_kernels(name, shape, factor):
    def updates(**axes):
        tx = optimx.registry.build(name, learning_rate=0.1, **axes)
        return first_updates(tx, normal(*shape))

    flax, torch = updates(), updates(in_axis=-1, out_axis=-2)
    # sqrt(8 / 2) where there are more outputs than inputs, and 1 where there are not.
    np.testing.assert_allclose(flax, factor * torch, rtol=1e-6)


@pytest.mark.parametrize("name", ["mars_shampoo", "mars_m", "muon"])
def test_five_steps_of_the_quintic_are_no_polar_factor(name):
    """Singular values come into [0.68, 1.21]; other coefficients bring them to 1."""

    def values(**hyper):
        tx = optimx.registry.build(name, learning_rate=0.1, **hyper)
        found = np.linalg.svd(first_updates(tx, normal(6, 6)), compute_uv=False)
        return found / (0.1 * (0.2 * np.sqrt(6) if name == "mars_m" else 1.0))

    rough = values()
    assert np.all((rough > 0.67) & (rough < 1.22))
    assert np.max(np.abs(rough - 1)) > 0.05
    # Float32, and a matrix whose condition is some tens.
    np.testing.assert_allclose(
        values(coefficients=POLAR_EXPRESS, steps=8), 1.0, atol=1e-3
    )


def test_muon_knows_no_scale():
    small, usual = (
        first_updates(optimx.muon(0.1), scale * normal(4, 6)) for scale in (1e-12, 1)
    )
    # An epsilon of 1e-7 beside the norm would shorten the first to nothing.
    np.testing.assert_allclose(small, usual, rtol=1e-3)


def test_an_early_epsilon_is_all_that_mars_m_strays_by():
    """Matrices agree to rounding, and so do vectors with epsilon where theirs is."""
    run = fidelity.read("mars_m")
    case = next(case for case in fidelity.CASES if case.file == "mars_m")
    with runs.double_precision():
        ours = runs.trajectory(
            case.build(run.meta), run.init, run.gradients, jnp.float64
        )
    matrices = set(run.init) - {"bias"}
    init, ours, theirs = (
        {leaf: tree[leaf] for leaf in matrices} for tree in (run.init, ours, run.params)
    )
    assert runs.error(init, ours, theirs) <= fidelity.ITERATED
    hyper = fidelity.mars_m_vectors(run.meta)
    b1, b2, rate = hyper["b1"], hyper["b2"], hyper["learning_rate"]
    x, m, v, path = run.init["bias"], 0.0, 0.0, []
    for t, g in enumerate(run.gradients["bias"], start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        size = np.sqrt(1 - b2**t) / (1 - b1**t)
        step = size * m / (np.sqrt(v) + hyper["eps"])
        x = x - rate * (step + hyper["weight_decay"] * x)
        path.append(x)
    found = runs.error(run.init["bias"], np.stack(path), run.params["bias"])
    assert found <= fidelity.ROUNDING


def shampoo_factors(**hyper):
    return optimx.scale_by_kronecker(0.9, **{"update_every": 1} | hyper)


def test_shampoo_averages_where_the_paper_adds_up():
    """A steady gradient has one update; under sums it would shrink with the roots."""
    gradient = normal(4, 4)
    first, later = (first_updates(shampoo_factors(), gradient, n) for n in (1, 4))
    # Averages that were not debiased would be off by 0.1^(-1/2) at first.
    np.testing.assert_allclose(first, later, rtol=1e-3, atol=1e-4)


def test_shampoos_ridge_is_relative_to_the_largest_eigenvalue():
    gradient = normal(4, 4)
    large, small = (
        first_updates(shampoo_factors(eps=1e-3), scale * gradient)
        for scale in (1.0, 1e-4)
    )
    np.testing.assert_allclose(small, large, rtol=1e-4, atol=1e-5)


def test_shampoos_blocks_have_factors_of_their_own():
    blocks = normal(4, 2, 3)

    def joined(x):
        return jnp.block([[x[0], x[1]], [x[2], x[3]]])

    whole = first_updates(shampoo_factors(block_size=3), joined(blocks))
    alone = first_updates(shampoo_factors(), blocks)
    np.testing.assert_allclose(whole, joined(alone), rtol=1e-3, atol=1e-4)
    assert optimx.registry.hyperparameters("shampoo")["block_size"] == 1024


def test_shampoo_has_the_diagonal_of_a_long_side():
    gradient = normal(6, 3)
    tx = shampoo_factors(max_dim=4, block_size=None)
    _, state = tx.update(gradient, tx.init(gradient))
    squares = 0.1 * np.sum(np.square(gradient), axis=1)
    np.testing.assert_allclose(state.left[0, 0], squares, rtol=1e-5)
    assert state.right.shape == (1, 1, 3, 3)


def test_shampoo_has_the_identity_before_its_first_roots():
    gradients = normal(4, 3, 3)
    tx = shampoo_factors(update_every=4)
    turn = np.asarray(tx.init(gradients).turn).ravel()
    assert set(turn) == {0, 1, 2, 3}
    updates = first_updates(tx, gradients)
    passed = np.all(np.asarray(updates == gradients), axis=(1, 2))
    np.testing.assert_array_equal(passed, turn > 0)


@pytest.mark.parametrize("name", ["soap", "mars_soap", "ademamix_soap"])
def test_only_the_step_of_soaps_first_update_is_skipped(name):
    gradient = normal(4, 4)
    tx = optimx.registry.build(name, learning_rate=0.1, weight_decay=0.5, spread=False)
    params = jnp.full((4, 4), 2.0)
    updates, state = tx.update(gradient, tx.init(params), params)
    np.testing.assert_allclose(updates, -0.1 * 0.5 * params, rtol=1e-6)
    # The averages (b1 and, of AdEMAMix, b3) have seen it.
    averages = optax.tree_utils.tree_get_all_with_path(state, "average")
    assert averages
    for _, average in averages:
        assert bool(jnp.all(average != 0))
    updates, _ = tx.update(gradient, state, params)
    assert bool(jnp.all(updates != -0.1 * 0.5 * params))


def test_soaps_decay_is_of_the_parameters_before_the_step():
    params, gradient = jnp.full((4, 4), 2.0), normal(4, 4)

    def second(weight_decay):
        tx = optimx.soap(0.1, weight_decay=weight_decay, spread=False)
        _, state = tx.update(gradient, tx.init(params), params)
        return tx.update(gradient, state, params)[0]

    # The authors' code multiplies what has moved: 0.1 * 0.5 of the step more.
    np.testing.assert_allclose(second(0.5) - second(0.0), -0.1 * 0.5 * params, 1e-5)


def test_soap_does_not_turn_a_side_four_times_the_other():
    def shapes(*shape, **hyper):
        state = optimx.soap(0.1, **hyper).init(jnp.zeros(shape))
        (found,) = optax.tree_utils.tree_get_all_with_path(state, "right_basis")
        return getattr(found[1], "shape", None)

    assert shapes(3, 11) == (1, 11, 11)
    assert shapes(3, 12) is None
    assert shapes(3, 12, max_aspect=np.inf) == (1, 12, 12)
    assert shapes(3, 12, max_aspect=np.inf, max_dim=11) is None


def pages():
    found = sorted((ROOT / "docs" / "papers").glob("*.md"))
    return [page for page in found if page.stem != "index"]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_pages_name_tests_that_exist(page):
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text())
    assert named
    for path, function in named:
        source = (ROOT / path).read_text()
        assert not function or f"def {function}(" in source, (path, function)
