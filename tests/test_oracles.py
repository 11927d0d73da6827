"""Every optimizer and every stateful part beside its box in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimx
from optimx import registry
from tests import runs, test_matrix_oracles
from tests.boxes import (
    ADAM,
    DOUBLE,
    MARS,
    MEMORIES,
    SINGLE,
    STEPS,
    Case,
    deviation,
    fading,
    fading_gamma,
    signals,
    warmups,
)
from tests.oracles import (
    adamw,
    ademamix,
    came,
    crossings,
    lion,
    mars,
    parts,
)

CAME = {
    "b1": 0.9,
    "b2": 0.99,
    "b3": 0.999,
    "eps": 1e-30,
    "confidence_eps": 1e-16,
    "clip_threshold": 1.0,
}


CASES = {
    "adamw": Case(adamw.adamw, {"b1": 0.9, **ADAM}),
    "lion": Case(lion.lion, {"b1": 0.9, "b2": 0.98}),
    "mars_adamw": Case(mars.mars_adamw, {**MARS, **ADAM}, fading_gamma),
    "mars_adamw_exact": Case(
        mars.mars_adamw, {**MARS, **ADAM}, fading_gamma, exact=True
    ),
    "mars_adamw_lean": Case(mars.mars_adamw_lean, {"b1": 0.95, "gamma": 0.025, **ADAM}),
    "mars_lion": Case(mars.mars_lion, MARS, fading_gamma),
    "ademamix": Case(ademamix.ademamix, {**MEMORIES, **ADAM}, warmups),
    "came": Case(came.came, CAME),
    "mars_ademamix": Case(
        crossings.mars_ademamix,
        {**MEMORIES, **ADAM, **MARS},
        lambda papers: {**warmups(papers), "gamma": fading},
    ),
    "mars_came": Case(crossings.mars_came, {**CAME, **MARS}, fading_gamma),
    "ademamix_came": Case(
        crossings.ademamix_came,
        {**CAME, **MEMORIES, "confidence_decay": 0.998},
        warmups,
    ),
}

SCHEDULED = [name for name, case in CASES.items() if case.scheduled(ademamix)]


def test_every_registered_optimizer_has_an_oracle():
    assert set(registry.names()) == {*CASES, *test_matrix_oracles.CASES}


@pytest.mark.parametrize("name", CASES)
def test_optimizer_in_double_precision(name):
    with runs.double_precision():
        assert deviation(name, CASES[name], jnp.float64) <= DOUBLE


@pytest.mark.parametrize("name", CASES)
def test_optimizer_in_single_precision(name):
    assert deviation(name, CASES[name], jnp.float32) <= SINGLE


@pytest.mark.parametrize("name", SCHEDULED)
def test_optimizer_with_schedules(name):
    with runs.double_precision():
        assert (
            deviation(name, CASES[name], jnp.float64, seed=1, scheduled=True) <= DOUBLE
        )


@pytest.mark.parametrize("name", SCHEDULED)
def test_optimizer_with_schedules_in_single_precision(name):
    assert deviation(name, CASES[name], jnp.float32, seed=1, scheduled=True) <= SINGLE


def test_without_a_fast_memory():
    # b1 = 0: the fast memory is the gradient itself.
    params, gradients = signals(2)
    hyper = {**MEMORIES, **ADAM, "b1": 0.0, "learning_rate": 0.01}
    hyper["weight_decay"] = 0.0
    expected = jax.tree.map(
        lambda x, g: ademamix.ademamix(x, g, **hyper), params, gradients
    )
    with runs.double_precision():
        path = runs.trajectory(optimx.ademamix(**hyper), params, gradients, jnp.float64)
    assert runs.error(params, path, expected) <= DOUBLE


def test_the_gradients_exercise_both_sides_of_both_clips():
    for g in jax.tree.leaves(signals(0)[1]):
        if not np.any(g):
            continue
        c = parts.gradient_difference(g, 0.025 * 0.95 / 0.05)
        long = np.sqrt(np.sum(c.reshape(STEPS, -1) ** 2, axis=1)) > 1
        assert 0 < long.sum() < STEPS
        u = parts.factored_rms(g, CAME["b2"], eps=CAME["eps"])
        large = np.sqrt(np.mean(u.reshape(STEPS, -1) ** 2, axis=1)) > 1
        assert 0 < large.sum() < STEPS


# Parts


def leafwise(oracle, *trees):
    return jax.tree.map(oracle, *trees)


def agree(transformation, gradients, expected, dtype, **extra):
    """Asserts that a part's outputs are the expected ones, relative to the largest."""
    bound = DOUBLE if dtype == jnp.float64 else SINGLE
    grads = runs.as_tree(gradients, dtype)
    extra = runs.as_tree(extra, dtype)
    start = jax.tree.map(lambda g: jnp.zeros_like(g[0]), grads)
    ours = runs.outputs(transformation, start, grads, **extra)

    def of_leaf(ours, theirs):
        assert ours.dtype == dtype
        assert ours.shape == theirs.shape
        scale = np.max(np.abs(theirs)) or 1.0
        np.testing.assert_allclose(ours / scale, theirs / scale, rtol=0, atol=bound)

    jax.tree.map(of_leaf, ours, expected)


@pytest.fixture(params=["float64", "float32"])
def dtype(request):
    if request.param == "float32":
        yield jnp.float32
    else:
        with runs.double_precision():
            yield jnp.float64


@pytest.fixture
def gradients():
    # A few steps: the parts run one step at a time here, not in a scan.
    return jax.tree.map(lambda g: g[:12], signals(3)[1])


@pytest.fixture
def others():
    return jax.tree.map(lambda g: g[:12], signals(4)[1])


@pytest.mark.parametrize("debias", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9999])
def test_ema(decay, debias, gradients, dtype):
    expected = leafwise(lambda g: parts.ema(g, decay, debias=debias), gradients)
    agree(optimx.ema(decay, debias=debias), gradients, expected, dtype)


def test_ema_of_scheduled_decay(gradients, dtype):
    ours = optimx.half_life_warmup(0.5, 0.999, 8)
    theirs = ademamix.half_life_warmup(0.5, 0.999, 8)
    expected = leafwise(lambda g: parts.ema(g, theirs, debias=False), gradients)
    agree(optimx.ema(ours, debias=False), gradients, expected, dtype)


@pytest.mark.parametrize("debias", [True, False])
def test_rms(debias, gradients, dtype):
    expected = leafwise(
        lambda g: parts.rms(g, 0.99, eps=1e-3, debias=debias), gradients
    )
    part = optimx.scale_by_rms(0.99, eps=1e-3, debias=debias)
    agree(part, gradients, expected, dtype)


def test_rms_of_an_observed_signal(gradients, others, dtype):
    expected = leafwise(
        lambda g, o: parts.rms(g, 0.99, eps=1e-3, observed=o), gradients, others
    )
    part = optimx.scale_by_rms(0.99, eps=1e-3)
    agree(part, gradients, expected, dtype, observed=others)


def test_factored_rms(gradients, dtype):
    expected = leafwise(lambda g: parts.factored_rms(g, 0.99, eps=1e-30), gradients)
    part = optimx.scale_by_factored_rms(0.99, eps=1e-30)
    agree(part, gradients, expected, dtype)


def test_factored_rms_of_an_observed_signal(gradients, others, dtype):
    expected = leafwise(
        lambda g, o: parts.factored_rms(g, 0.9, eps=1e-3, observed=o),
        gradients,
        others,
    )
    part = optimx.scale_by_factored_rms(0.9, eps=1e-3)
    agree(part, gradients, expected, dtype, observed=others)


@pytest.mark.parametrize("scale", [0.475, fading])
def test_gradient_difference(scale, gradients, dtype):
    expected = leafwise(lambda g: parts.gradient_difference(g, scale), gradients)
    agree(optimx.add_gradient_difference(scale), gradients, expected, dtype)


@pytest.mark.parametrize("scale", [0.475, fading])
def test_stale_gradient_difference(scale, gradients, others, dtype):
    expected = leafwise(
        lambda g, o: parts.gradient_difference(g, scale, stale=o), gradients, others
    )
    part = optimx.add_stale_gradient_difference(scale)
    agree(part, gradients, expected, dtype, stale_grads=others)


@pytest.mark.parametrize("max_norm", [0.3, 1.0, 3.0])
def test_block_norm_clip(max_norm, gradients, dtype):
    expected = leafwise(lambda g: parts.block_norm_clip(g, max_norm), gradients)
    agree(optimx.clip_by_block_norm(max_norm), gradients, expected, dtype)


def test_mix_of_scheduled_weights(gradients, dtype):
    ours = optimx.mix(
        (fading, optimx.ema(0.5)),
        (optimx.linear_warmup(4.0, 8), optimx.ema(0.9, debias=False)),
        (-1.0, optax.identity()),
    )
    weights = (fading, ademamix.linear_warmup(4.0, 8), -1.0)

    def oracle(g):
        slow = parts.ema(g, 0.9, debias=False)
        return parts.mix(weights, (parts.ema(g, 0.5), slow, g))

    agree(ours, gradients, leafwise(oracle, gradients), dtype)


def test_precondition_observes_what_came_in(gradients, dtype):
    expected = leafwise(
        lambda g: parts.rms(parts.ema(g, 0.9), 0.99, eps=1e-3, observed=g), gradients
    )
    fork = optimx.precondition(optimx.ema(0.9), by=optimx.scale_by_rms(0.99, eps=1e-3))
    agree(fork, gradients, expected, dtype)


def test_precondition_observes_the_residual(gradients, dtype):
    def oracle(g):
        m = parts.ema(g, 0.9, debias=False)
        return parts.rms(m, 0.99, eps=1e-3, observed=g - m)

    fork = optimx.precondition(
        optimx.ema(0.9, debias=False),
        by=optimx.scale_by_rms(0.99, eps=1e-3),
        observe=optimx.residual,
    )
    agree(fork, gradients, leafwise(oracle, gradients), dtype)


def test_graft(gradients, dtype):
    expected = leafwise(
        lambda g: parts.graft(parts.ema(g, 0.9), parts.rms(g, 0.99, eps=1e-3)),
        gradients,
    )
    tx = optimx.graft(optimx.ema(0.9), magnitude=optimx.scale_by_rms(0.99, eps=1e-3))
    agree(tx, gradients, expected, dtype)


@pytest.mark.parametrize("start", [0.5, 0.9, 0.95])
@pytest.mark.parametrize("end", [0.99, 0.9999])
def test_half_life_warmup(start, end, dtype):
    ours = optimx.half_life_warmup(start, end, 40)
    theirs = ademamix.half_life_warmup(start, end, 40)
    for t in (1, 2, 17, 39, 40, 41, 1000):
        # What the average uses is 1 - b3, of which float32 has four digits here:
        # 6e-8 / 1e-4.
        bound = 1e-10 if dtype == jnp.float64 else 2e-3
        distance = 1 - np.float64(ours(jnp.asarray(t)))
        assert distance == pytest.approx(1 - theirs(t), rel=bound)


def test_linear_warmup(dtype):
    ours, theirs = optimx.linear_warmup(8.0, 40), ademamix.linear_warmup(8.0, 40)
    for t in (1, 2, 17, 39, 40, 41, 1000):
        assert float(ours(jnp.asarray(t))) == pytest.approx(theirs(t), rel=1e-6)


def test_warmup_stable_decay():
    rate = optimx.warmup_stable_decay(3.0, steps=100, warmup=10, decay=20, end=1.0)
    expected = np.interp(np.arange(121), [0, 10, 80, 100], [0.0, 3.0, 3.0, 1.0])
    ours = [float(rate(jnp.asarray(count))) for count in range(121)]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("steps", "fraction"), [(5000, 0.2), (100, 0.5)])
def test_horizon(steps, fraction):
    assert optimx.horizon(steps, fraction) == pytest.approx(
        parts.horizon(steps, fraction), rel=1e-12
    )
