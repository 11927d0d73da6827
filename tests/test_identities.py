"""What must be equal because of how it is made, for any gradients and numbers.

Everything runs in float64, where two ways of computing one thing differ by
rounding: 2e-16 a step, over few steps, of numbers of order 1. SAME leaves that
four digits of room, and a wrong sign or index is off by the numbers themselves.
"""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimx
from optimx import registry
from tests import runs
from tests.oracles import adafactor, parts

SAME = 1e-12

STEPS = 5

SHAPES = {"scalar": (), "bias": (5,), "kernel": (4, 3), "stack": (2, 3, 4)}

seeds = st.integers(0, 2**16)
decays = st.floats(0.05, 0.98)
gammas = st.floats(0.005, 0.5)
weights = st.floats(0.1, 8.0)

# A seed has no simpler form: what fails is reported as it was found.
look = hypothesis.settings(
    derandomize=True,
    deadline=None,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)
for_any = hypothesis.settings(look, max_examples=5)
for_few = hypothesis.settings(look, max_examples=2)

each_optimizer = pytest.mark.parametrize("name", registry.names())


@pytest.fixture(autouse=True, scope="module")
def double():
    with runs.double_precision():
        yield


def is_shape(x):
    return isinstance(x, tuple)


def draw(seed, shapes=SHAPES):
    """Parameters, gradients and stale gradients; the steps lead in the last two."""
    rng = np.random.default_rng(seed)

    def tree(*steps):
        return jax.tree.map(
            lambda shape: jnp.asarray(rng.normal(size=(*steps, *shape))),
            shapes,
            is_leaf=is_shape,
        )

    return tree(), tree(STEPS), tree(STEPS)


def numpy(tree):
    return jax.tree.map(np.asarray, tree)


def close(ours, theirs, bound=SAME):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)

    def of_leaf(a, b):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape
        scale = max(np.max(np.abs(b), initial=0.0), 1e-300)
        np.testing.assert_allclose(a / scale, b / scale, rtol=0, atol=bound)

    jax.tree.map(of_leaf, ours, theirs)


def outputs_of_optax(tx, params, gradients):
    """Optax's own arithmetic promotes its counters, which our tests do not allow."""
    with jax.numpy_dtype_promotion("standard"):
        return runs.outputs(tx, params, gradients)


def same_outputs(a, b, params, gradients, bound=SAME, **extra):
    close(
        runs.outputs(a, params, gradients, **extra),
        runs.outputs(b, params, gradients, **extra),
        bound,
    )


def turns(name):
    """Whether matrices take turns, so that a step depends on a leaf's neighbours."""
    return "update_every" in registry.hyperparameters(name)


def build(name, **hyper):
    """A registered optimizer; where matrices take turns, all have theirs every step."""
    every_step = {"update_every": 1} if turns(name) else {}
    return registry.build(name, **{"learning_rate": 0.1} | every_step | hyper)


@functools.cache
def compiled(name, **hyper):
    """The updates of a registered optimizer over all steps; parameters stay put.

    Weights decay by a twentieth a step: parameters of zero leave the decay out.
    """
    tx = build(name, **{"weight_decay": 0.5} | hyper)

    @jax.jit
    def run(params, gradients, stale):
        def step(state, signals):
            gradient, stale = signals
            # The others take no stale gradients, and must not mind them.
            updates, state = tx.update(gradient, state, params, stale_grads=stale)
            return state, updates

        return jax.lax.scan(step, tx.init(params), (gradients, stale))[1]

    return run


# Mixes


@for_any
@hypothesis.given(seed=seeds, b1=decays, gamma=gammas)
def test_unclipped_mars_momentum_is_a_mix(seed, b1, gamma):
    # Let e_t = b1 e_{t-1} + (1 - b1) g_t and n_t = (1 - gamma) e_t + gamma g_t, with
    # e_0 = g_0 = 0. Then
    #   b1 n_{t-1} + (1 - b1) c_t,  c_t = g_t + gamma b1/(1 - b1) (g_t - g_{t-1}),
    #     = (1 - gamma) b1 e_{t-1} + gamma b1 g_{t-1}
    #       + (1 - b1) g_t + gamma b1 g_t - gamma b1 g_{t-1}
    #     = (1 - gamma) b1 e_{t-1} + (1 - b1 + gamma b1) g_t
    #     = (1 - gamma) (e_t - (1 - b1) g_t) + (1 - b1 + gamma b1) g_t
    #     = (1 - gamma) e_t + gamma g_t = n_t,
    # and n_0 = 0: MARS's momentum, no bias correction on either side, is n.
    params, gradients, _ = draw(seed)
    mars = optimx.stages(
        correct=optimx.add_gradient_difference(gamma * b1 / (1 - b1)),
        average=optimx.ema(b1, debias=False),
    )
    mixed = optimx.mix(
        (1 - gamma, optimx.ema(b1, debias=False)), (gamma, optax.identity())
    )
    same_outputs(mars, mixed, params, gradients)


@for_any
@hypothesis.given(seed=seeds, b1=decays, b2=decays)
def test_lion_is_a_mix(seed, b1, b2):
    # Lion interpolates the old average, m_{t-1} = (m_t - (1 - b2) g_t) / b2:
    #   b1 m_{t-1} + (1 - b1) g_t = b1/b2 m_t + (1 - b1/b2) g_t.
    # Signs of equal numbers are equal: no tolerance, ties being improbable.
    params, gradients, _ = draw(seed)
    interpolated = optimx.stages(
        mix=optimx.mix(
            (b1 / b2, optimx.ema(b2, debias=False)), (1 - b1 / b2, optax.identity())
        ),
        sign=optax.scale_by_sign(),
    )
    same_outputs(interpolated, optax.scale_by_lion(b1, b2), params, gradients, 0)


@for_any
@hypothesis.given(seed=seeds, weight=weights)
def test_mix_of_one_is_itself(seed, weight):
    params, gradients, _ = draw(seed)
    part = optimx.precondition(optimx.ema(0.9), by=optimx.scale_by_rms(0.99))
    same_outputs(optimx.mix((1.0, part)), part, params, gradients, 0)
    nested = optimx.mix((weight, optimx.mix((-2.0, part))))
    same_outputs(nested, optimx.mix((-2.0 * weight, part)), params, gradients)


@for_any
@hypothesis.given(seed=seeds, b=decays, alpha=weights)
def test_two_equal_memories_are_one(seed, b, alpha):
    params, gradients, _ = draw(seed)
    memory = optimx.ema(b, debias=False)
    same_outputs(
        optimx.mix((1.0, memory), (alpha, memory)),
        optimx.mix((1.0 + alpha, memory)),
        params,
        gradients,
    )


@for_any
@hypothesis.given(seed=seeds, b=decays, alpha=weights)
def test_ademamix_of_two_equal_memories(seed, b, alpha):
    # The fast one is debiased and the slow one is not: together they are one
    # average whose weight is 1 / (1 - b^t) + alpha.
    params, gradients, _ = draw(seed)
    one = optimx.stages(
        precondition=optimx.precondition(
            optimx.mix(
                (
                    lambda t: 1 / (1 - b ** runs.real(t)) + alpha,
                    optimx.ema(b, debias=False),
                )
            ),
            by=optimx.scale_by_rms(0.99, eps=1e-8),
        ),
        rate=optax.scale_by_learning_rate(0.1),
    )
    two = optimx.ademamix(
        0.1, b1=b, b2=0.99, b3=b, alpha=alpha, eps=1e-8, weight_decay=0.0
    )
    same_outputs(two, one, params, gradients)


@for_few
@hypothesis.given(seed=seeds)
def test_ademamix_came_of_two_equal_memories_is_a_longer_came(seed):
    # The average of equal memories is either, so confidence is CAME's; their sum is
    # 1 + alpha times as long.
    params, gradients, stale = draw(seed)
    params = jax.tree.map(jnp.zeros_like, params)
    hyper = {"b1": 0.8, "b2": 0.9}
    two = compiled("ademamix_came", b3=0.8, alpha=2.0, confidence_decay=0.7, **hyper)
    one = compiled("came", b3=0.7, **hyper)
    expected = jax.tree.map(lambda u: 3.0 * u, one(params, gradients, stale))
    close(two(params, gradients, stale), expected)


# What the optimizers become when a part of them is switched off


@for_any
@hypothesis.given(seed=seeds, b1=decays, b2=decays, decay=st.floats(0.0, 0.5))
def test_adamw_is_that_of_optax(seed, b1, b2, decay):
    params, gradients, _ = draw(seed)
    hyper = {"b1": b1, "b2": b2, "eps": 1e-3, "weight_decay": decay}
    hyper["mask"] = {"scalar": False, "bias": False, "kernel": True, "stack": True}
    rate = optax.linear_schedule(0.1, 0.01, 4)
    # Optax takes its powers of the decays in float32.
    ours = runs.outputs(optimx.adamw(rate, **hyper), params, gradients)
    theirs = outputs_of_optax(optax.adamw(rate, **hyper), params, gradients)
    close(ours, theirs, 1e-6)


@for_any
@hypothesis.given(seed=seeds, b1=decays, b2=decays, decay=st.floats(0.0, 0.5))
def test_lion_is_that_of_optax(seed, b1, b2, decay):
    params, gradients, _ = draw(seed)
    hyper = {"b1": b1, "b2": b2, "weight_decay": decay}
    rate = optax.linear_schedule(0.1, 0.01, 4)
    same_outputs(
        optimx.lion(rate, **hyper), optax.lion(rate, **hyper), params, gradients
    )


ADAM = {"b1": 0.9, "b2": 0.99, "eps": 1e-6, "weight_decay": 0.1}
CAME = {"b1": 0.9, "b2": 0.99, "weight_decay": 0.1}
UNCORRECTED = {"gamma": 0.0, "max_norm": np.inf}


def less(name, without, plain, hyper=None):
    """A named pair: an optimizer with a part switched off, and what is left."""
    return pytest.param(name, without, plain, hyper or {}, id=f"{name}-{plain}")


@pytest.mark.parametrize(
    ("name", "without", "plain", "hyper"),
    [
        less("ademamix", ADAM | {"alpha": 0.0, "b3": 0.7}, "adamw", ADAM),
        less("mars_adamw", ADAM | UNCORRECTED, "adamw", ADAM),
        less("mars_adamw_exact", ADAM | UNCORRECTED, "adamw", ADAM),
        less("mars_ademamix", ADAM | UNCORRECTED, "ademamix", ADAM),
        less("mars_ademamix", ADAM | {"alpha": 0.0}, "mars_adamw", ADAM),
        less("mars_came", CAME | UNCORRECTED | {"b3": 0.7}, "came", CAME | {"b3": 0.7}),
        less(
            "ademamix_came",
            CAME | {"alpha": 0.0, "b3": 0.6, "confidence_decay": 0.7},
            "came",
            CAME | {"b3": 0.7},
        ),
    ],
)
@for_few
@hypothesis.given(seed=seeds)
def test_without_a_part_of_it_an_optimizer_is_another(
    name, without, plain, hyper, seed
):
    trees = draw(seed)
    close(compiled(name, **without)(*trees), compiled(plain, **hyper)(*trees))


@for_any
@hypothesis.given(seed=seeds, b1=decays)
def test_mars_lion_without_correction_is_the_sign_of_an_average(seed, b1):
    params, gradients, _ = draw(seed)
    plain = optimx.stages(
        average=optimx.ema(b1),
        sign=optax.scale_by_sign(),
        decay=optax.add_decayed_weights(0.1),
        rate=optax.scale_by_learning_rate(0.1),
    )
    hyper = {"b1": b1, "weight_decay": 0.1, **UNCORRECTED}
    same_outputs(optimx.mars_lion(0.1, **hyper), plain, params, gradients)


@for_few
@hypothesis.given(seed=seeds, b1=decays, b2=decays)
def test_came_without_confidence_is_adafactor_with_momentum(seed, b1, b2):
    params, gradients, _ = draw(seed)
    tx = optimx.stages(
        scale=optimx.scale_by_factored_rms(b2, eps=1e-30),
        clip=optax.clip_by_block_rms(1.0),
        trust=optimx.precondition(
            optimx.ema(b1, debias=False), by=optax.identity(), observe=optimx.residual
        ),
        rate=optax.scale_by_learning_rate(0.1),
    )
    hyper = {"learning_rate": 0.1, "b1": b1, "b2": b2}
    expected = jax.tree.map(
        lambda x, g: adafactor.adafactor(
            np.asarray(x), np.asarray(g), **hyper, eps=1e-30, clip_threshold=1.0
        ),
        params,
        gradients,
    )
    close(runs.trajectory(tx, params, gradients, jnp.float64), expected)


@for_few
@hypothesis.given(seed=seeds)
def test_exact_mars_on_one_batch_after_another_is_the_approximate(seed):
    # The approximation *is* to take the previous step's gradient for the stale one.
    params, gradients, _ = draw(seed)
    stale = jax.tree.map(
        lambda g: jnp.concatenate([jnp.zeros_like(g[:1]), g[:-1]]), gradients
    )
    exact = compiled("mars_adamw_exact")(params, gradients, stale)
    close(exact, compiled("mars_adamw")(params, gradients, stale))


# The algebra


@for_any
@hypothesis.given(seed=seeds)
def test_ema_of_zero_is_the_identity_and_keeps_nothing(seed):
    params, gradients, _ = draw(seed)
    for debias in (True, False):
        nothing = optimx.ema(0.0, debias=debias)
        assert not jax.tree.leaves(nothing.init(params))
        same_outputs(nothing, optax.identity(), params, gradients, 0)


@pytest.mark.parametrize(
    "by",
    [optimx.scale_by_rms(0.9, eps=1e-6), optimx.scale_by_factored_rms(0.9, eps=1e-9)],
    ids=["rms", "factored"],
)
@for_any
@hypothesis.given(seed=seeds)
def test_precondition_of_the_gradient_is_the_preconditioner(by, seed):
    params, gradients, _ = draw(seed)
    same_outputs(optimx.precondition(optax.identity(), by=by), by, params, gradients, 0)


@for_any
@hypothesis.given(seed=seeds, b1=decays, b2=decays)
def test_adam_is_an_average_preconditioned(seed, b1, b2):
    params, gradients, _ = draw(seed)
    fork = optimx.precondition(optimx.ema(b1), by=optimx.scale_by_rms(b2, eps=1e-3))
    ours = runs.outputs(fork, params, gradients)
    # Optax takes its powers of the decays in float32.
    theirs = outputs_of_optax(optax.scale_by_adam(b1, b2, eps=1e-3), params, gradients)
    close(ours, theirs, 1e-6)


@for_any
@hypothesis.given(seed=seeds)
def test_observed_signal_takes_the_place_of_the_incoming_one(seed):
    # A fork inside a fork: the outer one's signal is what the inner one observes.
    params, gradients, others = draw(seed)
    inner = optimx.precondition(optimx.ema(0.9), by=optimx.scale_by_rms(0.9, eps=1e-3))

    def oracle(g, other):
        m = parts.ema(np.asarray(g), 0.9)
        return parts.rms(m, 0.9, eps=1e-3, observed=np.asarray(other))

    close(
        runs.outputs(inner, params, gradients, observed=others),
        jax.tree.map(oracle, gradients, others),
    )


@for_any
@hypothesis.given(seed=seeds)
def test_stages_of_stages_are_stages(seed):
    params, gradients, _ = draw(seed)
    difference = optimx.add_gradient_difference(0.5)
    clip = optimx.clip_by_block_norm(1.0)
    average = optimx.ema(0.9)
    flat = optimx.stages(difference=difference, clip=clip, average=average)
    left = optimx.stages(
        mars=optimx.stages(difference=difference, clip=clip), average=average
    )
    right = optimx.stages(
        difference=difference, rest=optimx.stages(clip=clip, average=average)
    )
    same_outputs(left, flat, params, gradients, 0)
    same_outputs(right, flat, params, gradients, 0)
    same_outputs(flat, optax.chain(difference, clip, average), params, gradients, 0)


@for_any
@hypothesis.given(seed=seeds)
def test_stages_run_in_the_order_they_are_named(seed):
    # Names whose alphabetical order is the reverse.
    params, gradients, _ = draw(seed)
    clip, double = optimx.clip_by_block_norm(1.0), optax.scale(2.0)
    same_outputs(
        optimx.stages(z=clip, a=double), optax.chain(clip, double), params, gradients, 0
    )


@for_any
@hypothesis.given(seed=seeds)
def test_graft_of_a_direction_on_itself_is_the_direction(seed):
    params, gradients, _ = draw(seed)
    direction = optimx.precondition(optimx.ema(0.9), by=optimx.scale_by_rms(0.9))
    same_outputs(
        optimx.graft(direction, magnitude=direction), direction, params, gradients
    )


@for_any
@hypothesis.given(seed=seeds)
def test_a_chain_behind_a_fork_shows_both_the_same_signal(seed):
    # The first trap: q observes the gradient too, not what p made of it. As plain
    # stages q would observe p's output, so the two must differ.
    params, gradients, _ = draw(seed)
    p = optimx.scale_by_rms(0.5, eps=1e-3)
    q = optimx.scale_by_rms(0.9, eps=1e-3)

    def both_see_the_gradient(g):
        g = np.asarray(g)
        once = parts.rms(g, 0.5, eps=1e-3)
        return parts.rms(once, 0.9, eps=1e-3, observed=g)

    expected = jax.tree.map(both_see_the_gradient, gradients)
    for chain in (optax.chain(p, q), optimx.stages(p=p, q=q)):
        fork = optimx.precondition(optax.identity(), by=chain)
        close(runs.outputs(fork, params, gradients), expected)
        plain = runs.outputs(chain, params, gradients)
        assert np.max(np.abs(plain["kernel"] - expected["kernel"])) > 1e-3


@for_any
@hypothesis.given(seed=seeds)
def test_matrices_only_masks_the_observed_signal(seed):
    # The second trap: what is observed must lose the vectors as the updates do.
    params, gradients, _ = draw(seed)
    fork = optimx.precondition(
        optimx.ema(0.9, debias=False),
        observe=optimx.residual,
        by=optimx.matrices_only(optimx.scale_by_factored_rms(0.99, eps=1e-9)),
    )

    def oracle(g):
        g = np.asarray(g)
        m = parts.ema(g, 0.9, debias=False)
        if g.ndim - 1 < 2:
            return m
        return parts.factored_rms(m, 0.99, eps=1e-9, observed=g - m)

    close(runs.outputs(fork, params, gradients), jax.tree.map(oracle, gradients))


# Every optimizer treats each leaf alone, wherever it stands


def rounding(name):
    """SAME, times what roots and bases of eigenvectors magnify where there are any."""
    return 1e-8 if turns(name) else SAME


@each_optimizer
@for_few
@hypothesis.given(seed=seeds)
def test_order_and_nesting_of_leaves_do_not_matter(name, seed):
    def nest(t):
        return [{"deep": (t["stack"], {"x": t["scalar"]})}, t["kernel"], (t["bias"],)]

    trees = draw(seed)
    expected = compiled(name)(*trees)
    close(compiled(name)(*map(nest, trees)), nest(expected), rounding(name))


@each_optimizer
@for_few
@hypothesis.given(seed=seeds)
def test_a_tree_is_updated_as_its_halves_are(name, seed):
    trees = draw(seed)
    halves = ("scalar", "kernel"), ("bias", "stack")
    expected = compiled(name)(*trees)
    for half in halves:
        ours = compiled(name)(*({k: t[k] for k in half} for t in trees))
        close(ours, {k: expected[k] for k in half}, rounding(name))


@each_optimizer
@for_few
@hypothesis.given(seed=seeds)
def test_order_of_rows_and_columns_does_not_matter(name, seed):
    rng = np.random.default_rng(seed)
    orders = {n: rng.permutation(n) for n in (2, 3, 4, 5)}

    def shuffle(x, steps):
        for axis in range(steps, x.ndim):
            x = jnp.take(x, orders[x.shape[axis]], axis)
        return x

    trees = draw(seed)
    shuffled = (
        jax.tree.map(functools.partial(shuffle, steps=steps), tree)
        for tree, steps in zip(trees, (0, 1, 1), strict=True)
    )
    expected = jax.tree.map(functools.partial(shuffle, steps=1), compiled(name)(*trees))
    close(compiled(name)(*shuffled), expected, rounding(name))


@each_optimizer
@for_few
@hypothesis.given(seed=seeds)
def test_opposite_numbers_give_opposite_updates(name, seed):
    trees = draw(seed)
    expected = compiled(name)(*trees)
    opposite = compiled(name)(*jax.tree.map(jnp.negative, trees))
    close(opposite, jax.tree.map(jnp.negative, expected), 0)


@each_optimizer
@for_few
@hypothesis.given(seed=seeds)
def test_first_update_goes_downhill(name, seed):
    params, gradients, stale = draw(seed)
    params, stale = jax.tree.map(jnp.zeros_like, (params, stale))
    # Whoever works in eigenvectors has them from the first gradient: here it is all
    # the gradient there is.
    gradients = jax.tree.map(lambda g: jnp.broadcast_to(g[0], g.shape), gradients)
    updates = compiled(name)(params, gradients, stale)
    first = 1 if name.endswith("soap") else 0
    for u, g in zip(jax.tree.leaves(updates), jax.tree.leaves(gradients), strict=True):
        assert np.sum(u[first] * g[first]) < 0


@each_optimizer
@for_few
@hypothesis.given(seed=seeds)
def test_weight_decay_shrinks_what_has_no_gradient(name, seed):
    params, gradients, _ = draw(seed)
    zero = jax.tree.map(jnp.zeros_like, gradients)
    updates = compiled(name)(params, zero, zero)
    shrunk = jax.tree.map(
        lambda p: np.broadcast_to(-0.1 * 0.5 * p, (STEPS, *p.shape)), params
    )
    close(updates, shrunk)


# The number that is added to a root or a square makes small gradients count less;
# a clip makes large ones count less. Without both, Adam's kind knows no scale.
NO_SCALE = {
    "adamw": {"eps": 1e-30},
    "lion": {},
    "mars_adamw": {"eps": 1e-30, "max_norm": np.inf},
    "mars_adamw_exact": {"eps": 1e-30, "max_norm": np.inf},
    "mars_adamw_lean": {"eps": 1e-30},
    "mars_lion": {"max_norm": np.inf},
    "ademamix": {"eps": 1e-30},
    "came": {"eps": 1e-30},
    "mars_ademamix": {"eps": 1e-30, "max_norm": np.inf},
    "mars_came": {"eps": 1e-30, "max_norm": np.inf},
    "ademamix_came": {"eps": 1e-30},
}


@pytest.mark.parametrize("name", NO_SCALE)
@for_few
@hypothesis.given(seed=seeds, factor=st.floats(1e-3, 1e3))
def test_scale_of_the_gradients_does_not_matter(name, seed, factor):
    params, gradients, stale = draw(seed)
    run = compiled(name, **NO_SCALE[name])
    larger = jax.tree.map(lambda g: g * factor, (gradients, stale))
    # 1e-30 is 1e-17 of the smallest squares here, and CAME's residuals, being
    # differences, lose three digits.
    close(run(params, *larger), run(params, gradients, stale), 1e-9)


@each_optimizer
@for_few
@hypothesis.given(seed=seeds, angle=st.floats(0.1, 3.0))
def test_phase_of_complex_numbers_turns_the_updates(name, seed, angle):
    # Second moments are of |g|^2, so nothing but the direction turns. Real numbers
    # are where it turns from.
    trees = draw(seed)

    def turn(tree):
        return jax.tree.map(lambda x: jnp.asarray(np.exp(1j * angle) * x), tree)

    # A complex number times a real one is a promotion, and here it is meant.
    with jax.numpy_dtype_promotion("standard"):
        turned = compiled(name)(*map(turn, map(numpy, trees)))
    # CAME's residuals, being differences, lose three digits.
    close(turned, turn(numpy(compiled(name)(*trees))), 1e-9)


# Before, around and inside other transformations


@pytest.mark.parametrize(
    "after",
    [
        optax.lamb(0.1, weight_decay=0.1),
        optax.sgd(0.1, momentum=0.9, nesterov=True),
        optax.rmsprop(0.1),
        optax.adafactor(0.1),
        optax.contrib.ademamix(0.1),
    ],
    ids=["lamb", "sgd", "rmsprop", "adafactor", "contrib.ademamix"],
)
@for_few
@hypothesis.given(seed=seeds, scale=gammas)
def test_mars_before_any_optax_transformation(after, seed, scale):
    params, gradients, _ = draw(seed)
    chain = optax.chain(
        optimx.add_gradient_difference(scale), optimx.clip_by_block_norm(1.0), after
    )

    def by_hand(g):
        c = parts.gradient_difference(np.asarray(g), scale)
        return jnp.asarray(parts.block_norm_clip(c, 1.0))

    close(
        outputs_of_optax(chain, params, gradients),
        outputs_of_optax(after, params, jax.tree.map(by_hand, gradients)),
    )


LAYERS = 3

MODEL = {"blocks": {"bias": (LAYERS, 5), "kernel": (LAYERS, 4, 5)}, "gate": (3, 4)}


@each_optimizer
@for_few
@hypothesis.given(seed=seeds)
def test_per_layer_is_the_inner_one_on_each_layer(name, seed):
    params, gradients, stale = draw(seed, MODEL)
    inner = build(name)
    wrapped = optimx.per_layer(inner, "blocks*")
    ours = runs.outputs(wrapped, params, gradients, stale_grads=stale)

    def part(tree, layer, axis):
        """One layer's leaves, or with no layer the leaves that are not stacked."""
        if layer is None:
            return tree["gate"]
        return jax.tree.map(lambda x: jnp.take(x, layer, axis), tree["blocks"])

    for layer in (*range(LAYERS), None):
        expected = runs.outputs(
            inner,
            part(params, layer, 0),
            part(gradients, layer, 1),
            stale_grads=part(stale, layer, 1),
        )
        close(part(ours, layer, 1), expected, rounding(name))


@each_optimizer
@for_few
@hypothesis.given(seed=seeds)
def test_as_matrices_is_reshaping_by_hand(name, seed):
    # Matrices nearly square: a gradient without a direction says nothing of its basis.
    shapes = {
        "query": (4, 2, 2),
        "output": (2, 2, 4),
        "convolution": (2, 3, 2, 5),
        "bias": (2, 3),
    }
    params, gradients, stale = draw(seed, shapes)
    inner = registry.build(name, learning_rate=0.1)
    wrapped = optimx.as_matrices(
        inner,
        {
            "query": ((0,), (1, 2)),
            "output": ((2,), (0, 1)),
            "convolution": ((0, 2), (3,)),
        },
    )

    def by_hand(tree, lead):
        return {
            "query": tree["query"].reshape(*lead, 1, 4, 4),
            "output": jnp.moveaxis(tree["output"], -1, -3).reshape(*lead, 1, 4, 4),
            "convolution": jnp.moveaxis(tree["convolution"], -3, -4).reshape(
                *lead, 3, 4, 5
            ),
            "bias": tree["bias"],
        }

    ours = runs.outputs(wrapped, params, gradients, stale_grads=stale)
    expected = runs.outputs(
        inner,
        by_hand(params, ()),
        by_hand(gradients, (STEPS,)),
        stale_grads=by_hand(stale, (STEPS,)),
    )
    assert {k: v.shape[1:] for k, v in ours.items()} == shapes
    ours = jax.tree.map(np.asarray, by_hand(ours, (STEPS,)))
    close(ours, expected, rounding(name))


@each_optimizer
@for_few
@hypothesis.given(seed=seeds)
def test_matrices_only_splits_a_tree_in_two(name, seed):
    params, gradients, stale = draw(seed)
    inner = registry.build(name, learning_rate=0.1)
    otherwise = optimx.adamw(0.2)
    ours = runs.outputs(
        optimx.matrices_only(inner, otherwise=otherwise),
        params,
        gradients,
        stale_grads=stale,
    )
    for tx, half in ((inner, ("kernel", "stack")), (otherwise, ("scalar", "bias"))):
        few = [{k: t[k] for k in half} for t in (params, gradients, stale)]
        expected = runs.outputs(tx, *few[:2], stale_grads=few[2])
        close({k: ours[k] for k in half}, expected, rounding(name))


@for_few
@hypothesis.given(seed=seeds)
def test_in_float32_rounds_once_at_the_end(seed):
    params, gradients, _ = draw(seed, {"kernel": (4, 3)})
    params, gradients = runs.as_tree((params, gradients), jnp.bfloat16)
    inner = optimx.mars_adamw(0.1)
    ours = runs.outputs(optimx.in_float32(inner), params, gradients)
    wide = runs.as_tree((params, gradients), jnp.float32)
    expected = jax.tree.map(
        lambda u: jnp.asarray(u).astype(jnp.bfloat16), runs.outputs(inner, *wide)
    )
    jax.tree.map(np.testing.assert_array_equal, ours, expected)
