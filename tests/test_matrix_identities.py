"""What must be equal between optimizers of matrices because of how they are made.

Float64 but for the comparison with Optax: two ways to one number differ by rounding
of 2e-16 a step, times what a root or an iteration amplifies, a few hundred. SAME
leaves that four digits of room; a wrong sign or factor is off by the numbers
themselves.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimx
from optimx import registry
from optimx.linalg.newton_schulz import POLAR_EXPRESS, QUINTIC
from tests import runs

SAME = 1e-10

STEPS = 8
RATE = 0.1

SHAPES = {"up": (4, 6), "gate": (4, 6), "stack": (2, 6, 4)}


def draw(seed, shapes=SHAPES, dtype=jnp.float64):
    """Parameters and gradients; the steps lead in the latter."""
    rng = np.random.default_rng(seed)

    def tree(*steps):
        return {
            name: jnp.asarray(rng.normal(size=(*steps, *shape)), dtype)
            for name, shape in shapes.items()
        }

    return tree(), tree(STEPS)


@pytest.fixture
def double():
    with runs.double_precision():
        yield


def compiled(tx):
    """The updates of all steps, leaves (steps, ...); the parameters stay put."""

    @jax.jit
    def run(params, gradients):
        def step(state, gradient):
            updates, state = tx.update(gradient, state, params)
            return state, updates

        return jax.lax.scan(step, tx.init(params), gradients)[1]

    return lambda *trees: jax.tree.map(np.asarray, run(*trees))


@functools.cache
def optimizer(name, **hyper):
    """A registered optimizer, compiled once for all tests that take the same."""
    labels = {"labels": optimx.by_rank}
    return compiled(registry.build(name, learning_rate=RATE, **labels, **hyper))


def close(ours, theirs, bound=SAME):
    """Each leaf at each step, in units of its largest entry."""

    def of_leaf(a, b):
        assert a.shape == b.shape
        for one, other in zip(a, b, strict=True):
            scale = max(np.max(np.abs(other)), 1e-300)
            np.testing.assert_allclose(one / scale, other / scale, rtol=0, atol=bound)

    jax.tree.map(of_leaf, ours, theirs)


# Optax's Muon

SETTLING = (*(QUINTIC,) * 3, *(POLAR_EXPRESS[-1],) * 2)


def beside_optax(coefficients, dtype):
    # Tall by 12, not 8 or 16: of those Optax's own polar factors, as jax 0.12 compiles
    # them for CPU in float32, stray by 2e-5 from those in float64; ours by 2e-6.
    shapes = {"square": (5, 5), "wide": (3, 8), "tall": (12, 6), "long": (4, 40)}
    params, gradients = draw(0, shapes, dtype)
    rate = optax.linear_schedule(0.1, 0.01, STEPS)
    hyper = {"ns_coeffs": coefficients, "weight_decay": 0.2, "beta": 0.9}
    theirs = optax.contrib.muon(rate, eps=0.0, **hyper)
    ours = optimx.muon(rate, coefficients=coefficients, weight_decay=0.2, b1=0.9)
    # Optax's arithmetic promotes its counters.
    with jax.numpy_dtype_promotion("standard"):
        expected = compiled(theirs)(params, gradients)
    return compiled(ours)(params, gradients), expected


@pytest.mark.parametrize(
    "coefficients", [QUINTIC, SETTLING], ids=["one triple", "one each step"]
)
def test_muon_is_that_of_optax(coefficients):
    # Rounding of 6e-8 in each of five steps, which multiply that of the smallest
    # singular values here by ten or twenty.
    close(*beside_optax(coefficients, jnp.float32), 1e-5)


def test_muon_is_that_of_optax_in_double_precision(double):
    """Also where steps start steeply, and float32 has five digits left."""
    close(*beside_optax(POLAR_EXPRESS[:5], jnp.float64))


# Sentences that say the same


def chained(*parts):
    return compiled(optax.chain(*parts, optax.scale(-RATE)))


def test_mars_shampoo_without_variance_reduction_is_an_orthogonalized_average(double):
    trees = draw(1)
    ours = optimizer("mars_shampoo", b1=0.9, gamma=0.0, max_norm=np.inf, eps=1e-3)
    # Dividing by 1 - b1 is dividing the epsilon: a polar factor has no scale.
    expected = chained(
        optimx.ema(0.9, debias=False),
        optimx.orthogonalize(eps=1e-3 * 0.1),
        optimx.scale_by_aspect_ratio(),
    )
    close(ours(*trees), expected(*trees))


def test_mars_m_is_mars_shampoo_of_another_size(double):
    trees = draw(2)
    ours = optimizer("mars_m", b1=0.9, gamma=0.05)(*trees)
    theirs = optimizer("mars_shampoo", b1=0.9, gamma=0.05, eps=1e-7 / 0.1)(*trees)
    for name, update in theirs.items():
        rows, columns = update.shape[-2:]
        published = np.sqrt(max(1, columns / rows))
        moonlight = 0.2 * np.sqrt(max(rows, columns))
        theirs[name] = update * (moonlight / published)
    close(ours, theirs)


def test_ademamix_muon_without_the_slow_memory(double):
    trees = draw(3)
    expected = chained(
        optimx.ema(0.9), optimx.orthogonalize(), optimx.scale_by_aspect_ratio()
    )
    close(optimizer("ademamix_muon", b1=0.9, alpha=0.0)(*trees), expected(*trees))


EVERY = {"update_every": 3, "max_aspect": np.inf}
UNCORRECTED = {"gamma": 0.0, "max_norm": np.inf}


@pytest.mark.parametrize(
    ("crossing", "own", "plain", "shared"),
    [
        ("mars_soap", UNCORRECTED, "soap", {"b1": 0.9, "b2": 0.95, **EVERY}),
        ("ademamix_soap", {"alpha": 0.0}, "soap", {"b1": 0.9, "b2": 0.95, **EVERY}),
        (
            "mars_ademamix_muon",
            UNCORRECTED,
            "ademamix_muon",
            {"b1": 0.9, "b3": 0.99, "alpha": 2.0},
        ),
    ],
)
def test_a_crossing_without_one_parent_is_the_other(
    double, crossing, own, plain, shared
):
    trees = draw(4)
    expected = optimizer(plain, **shared)(*trees)
    assert np.any(expected["up"][-1])
    close(optimizer(crossing, **own, **shared)(*trees), expected)


def test_soap_without_a_basis_is_adamw(double):
    trees = draw(5)
    adam = {"b1": 0.9, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.0}
    expected = compiled(optimx.adamw(RATE, **adam))(*trees)
    close(optimizer("soap", max_dim=1, **adam)(*trees), expected)


def test_shampoo_has_the_norm_of_adamw(double):
    trees = draw(6)
    adam = {"b1": 0.9, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.0}
    expected = compiled(optimx.adamw(RATE, **adam))(*trees)
    ours = optimizer("shampoo", update_every=3, **adam)(*trees)

    def norms(updates):
        return {
            name: np.linalg.norm(u.reshape(STEPS, -1), axis=1, keepdims=True)
            for name, u in updates.items()
        }

    close(norms(ours), norms(expected))
    # With another direction, or there would be nothing to graft.
    assert np.max(np.abs(ours["up"] - expected["up"])) > 0.1 * RATE


def test_shampoo_of_diagonal_gradients_is_adam(double):
    """Two fourth roots of squares are one root; nothing leaves the diagonal."""
    _, gradients = draw(7, {"w": (5,)})
    diagonal = jax.vmap(jnp.diag)(gradients["w"])
    # A ridge of 1e-15 of the largest square moves roots by less than SAME as long as
    # the squares are within five digits of each other.
    ours = optimx.scale_by_kronecker(0.9, update_every=1, eps=1e-15)
    found = compiled(ours)(diagonal[0], diagonal)
    adam = compiled(optimx.scale_by_rms(0.9, eps=0.0))
    expected = adam(gradients["w"][0], gradients["w"])
    close({"w": found}, {"w": np.stack([np.diag(u) for u in expected])})


# Symmetries

# Adam alone has none of them: it knows the axes.
RULES = {
    "eigenbasis": compiled(
        optimx.in_eigenbasis(
            optimx.scale_by_rms(0.9, eps=1e-8), decay=0.9, update_every=3
        )
    ),
    "kronecker": compiled(optimx.scale_by_kronecker(0.9, update_every=3)),
    "orthogonalize": compiled(optimx.orthogonalize()),
}


def unitary(seed, is_complex):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(5, 5))
    return np.linalg.qr(x + 1j * rng.normal(size=(5, 5)) if is_complex else x)[0]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("is_complex", [False, True], ids=["rotation", "unitary"])
def test_turning_the_gradients_turns_the_updates(double, rule, is_complex):
    trees = draw(8, {"w": (3, 5, 5)})
    left, right = unitary(0, is_complex), unitary(1, is_complex)

    def turned(tree):
        return jax.tree.map(lambda x: left @ np.asarray(x) @ right, tree)

    plain = RULES[rule](*trees)
    assert np.any(plain["w"][-1])
    # A complex number and the real one that scales it are of two dtypes.
    with jax.numpy_dtype_promotion("standard" if is_complex else "strict"):
        ours = RULES[rule](*map(turned, trees))
    # The ridge of Shampoo's first roots, 1e-6, stands beside rounding of 2e-16: roots
    # of singular factors agree to 1e-10, and stand on both sides of the gradient.
    close(ours, turned(plain), 1e-8)


# Turns


@pytest.mark.parametrize("name", ["shampoo", "soap"])
def test_with_one_step_a_cycle_there_are_no_turns(double, name):
    trees = draw(9, {"stack": (3, 4, 5)})
    spread = optimizer(name, update_every=1)(*trees)
    at_once = optimizer(name, update_every=1, spread=False)(*trees)
    close(spread, at_once)
