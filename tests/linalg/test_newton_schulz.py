import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimx.linalg import newton_schulz
from optimx.linalg.newton_schulz import POLAR_EXPRESS, QUINTIC
from tests import runs
from tests.oracles import newton_schulz as oracle

POLAR = jax.jit(newton_schulz.polar, static_argnames=("steps", "coefficients", "dtype"))

# The coefficients and steps that people use, and a run long enough to swing.
RULES = {
    "quintic 5": (QUINTIC, 5),
    "express 5": (POLAR_EXPRESS, 5),
    "express 8": (POLAR_EXPRESS, 8),
    "quintic 12": (QUINTIC, 12),
}
rules = pytest.mark.parametrize("rule", RULES)

SPECTRA = {
    "ill conditioned": lambda k: np.geomspace(1, 1e-8, k),
    "rank deficient": lambda k: 1.0 * (np.arange(k) < (k + 1) // 2),
    "one dominates": lambda k: np.where(np.arange(k) < 1, 1, 1e-3 / (1 + np.arange(k))),
    "tiny": lambda k: 1e-30 * np.geomspace(1, 1e-2, k),
    "huge": lambda k: 1e30 * np.geomspace(1, 1e-2, k),
    "zero": np.zeros,
}

# Wide, tall, square, a row and a column.
SHAPES = [(1, 9), (9, 1), (1, 1), (12, 12), (12, 16), (24, 96), (96, 24)]


@pytest.fixture
def blocks(monkeypatch):
    """Blocks of 8 and more, so that small matrices have them too."""
    monkeypatch.setattr(newton_schulz, "_SMALLEST_BLOCK", 8)
    monkeypatch.setattr(newton_schulz, "_MOST_BLOCKS", 4)


# Two, two, three and four blocks, of like sizes and of others; both forms of each.
BLOCKED = [(16, 16), (21, 17), (27, 80), (80, 35), (43, 43)]


def triples_of(rule):
    coefficients, steps = RULES[rule]
    return newton_schulz.coefficient_list("test", coefficients, steps)


def composed(values, triples):
    """The published polynomials one after the other, in double precision."""
    for a, b, c in triples:
        values = a * values + b * values**3 + c * values**5
    return values


@functools.cache
def given(shape, kind, seed=0, phase=False):
    """A matrix with a known spectrum, or a random one, rounded to single precision."""
    rng = np.random.default_rng(seed)

    def normal(*size):
        x = rng.normal(size=size)
        return x + 1j * rng.normal(size=size) if phase else x

    k = min(shape)
    if kind == "random":
        x = normal(*shape)
    else:
        left = np.linalg.qr(normal(shape[0], k))[0]
        right = np.linalg.qr(normal(shape[1], k))[0]
        x = (left * SPECTRA[kind](k)) @ right.conj().T
    return x.astype(np.complex64 if phase else np.float32)


@functools.cache
def svd(shape, kind, seed=0, phase=False):
    x = given(shape, kind, seed, phase).astype(complex if phase else float)
    left, values, right = np.linalg.svd(x, full_matrices=False)
    norm = np.sqrt(np.sum(values**2))
    return left, values / (norm or 1), right


def exact(triples, *matrix):
    left, values, right = svd(*matrix)
    return (left * composed(values, triples)) @ right


def plain(x, triples):
    """The iteration as written, in the precision of `x`, for a norm that is safe."""
    x = x / np.sqrt(np.sum(x * x))
    for a, b, c in np.asarray(triples, x.dtype):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x


def spectral(x):
    return np.linalg.norm(np.asarray(x, float), 2)


@rules
@pytest.mark.parametrize("kind", ["random", *SPECTRA])
def test_it_is_the_polynomial_of_the_singular_values(kind, rule):
    """In double precision, whose rounding hides nothing: the algebra of both forms."""
    coefficients, steps = RULES[rule]
    triples = triples_of(rule)
    amplified = math.prod(a for a, _, _ in triples)
    for shape in ((1, 9), (12, 12), (24, 96), (96, 24)):
        with runs.double_precision():
            x = jnp.asarray(given(shape, kind), float)
            ours = POLAR(x, steps=steps, coefficients=coefficients)
        # Rounding, 1e-16, grows like small singular values do, and on a Gram matrix,
        # which has their squares, like the squares.
        gram = max(shape) > 2 * min(shape)
        atol = 100 * 1e-16 * amplified + gram * 1e-16 * amplified**2
        np.testing.assert_allclose(
            ours, exact(triples, shape, kind), rtol=0, atol=atol, err_msg=str(shape)
        )


@pytest.mark.parametrize("shape", BLOCKED)
@pytest.mark.parametrize("phase", [False, True], ids=["real", "complex"])
def test_blocks_are_the_polynomial_too(blocks, shape, phase):
    triples = triples_of("express 5")
    with runs.double_precision(), jax.numpy_dtype_promotion("standard"):
        x = jnp.asarray(given(shape, "random", 0, phase), complex if phase else float)
        ours = jax.jit(lambda x: newton_schulz.polar(x, coefficients=POLAR_EXPRESS))(x)
    # Rounding, 1e-16, by what the five steps amplify, 1e3 and on a Gram matrix 1e6.
    expected = exact(triples, shape, "random", 0, phase)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-10)


def test_blocks_of_large_matrices_cost_no_digits():
    """As they come: sides of several hundred, wide and tall."""
    for shape in ((401, 540), (600, 400)):
        x = given(shape, "random")
        # Some dozen roundings, 6e-8; what is amplified is small to begin with.
        theirs = plain(x, [QUINTIC] * 5)
        np.testing.assert_allclose(POLAR(x), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_single_precision_is_the_iteration_as_written(shape):
    """Random matrices, as one meets them: the Gram form and blocks cost nothing."""
    x = given(shape, "random")
    ours = POLAR(x)
    assert ours.dtype == jnp.float32
    # Some dozen roundings, 6e-8; what is amplified is small to begin with.
    np.testing.assert_allclose(ours, plain(x, [QUINTIC] * 5), rtol=0, atol=1e-5)
    truth = exact([QUINTIC] * 5, shape, "random")
    np.testing.assert_allclose(ours, truth, rtol=0, atol=1e-5)


@rules
@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("shape", [(24, 24), (24, 96)])
def test_single_precision_with_every_spectrum(shape, kind, rule):
    coefficients, steps = RULES[rule]
    triples = triples_of(rule)
    ours = POLAR(given(shape, kind), steps=steps, coefficients=coefficients)
    off = spectral(ours - exact(triples, shape, kind))
    # Rounding of small singular values, 6e-8, grows as they do: at most by the
    # product of the slopes. To this the Gram form adds what it admits, 2e-3 in a step
    # of each group, which later groups multiply.
    amplified = 2.0**-24 * math.prod(a for a, _, _ in triples)
    gram = shape[0] != shape[1]
    assert off <= max(5 * amplified, 1e-5) + gram * 0.01
    # Nothing leaves the band: 1.2024 is the quintic's maximum.
    assert spectral(ours) <= 1.21


@rules
def test_blocks_in_single_precision_with_every_spectrum(blocks, rule):
    """Rounded blocks commute less than rounded matrices; with later restarts this is
    where singular values left the band for good, up to 4e4."""
    coefficients, steps = RULES[rule]
    triples = triples_of(rule)
    amplified = 2.0**-24 * math.prod(a for a, _, _ in triples)
    x = np.stack([given((24, 96), kind) for kind in SPECTRA])
    every = jax.jit(
        lambda x: newton_schulz.polar(x, steps=steps, coefficients=coefficients)
    )(x)
    for kind, ours in zip(SPECTRA, every, strict=True):
        # As above; measured, blocks multiply what the Gram form adds by up to ten.
        off = spectral(ours - exact(triples, (24, 96), kind))
        assert off <= 5 * amplified + 0.03, kind
        assert spectral(ours) <= 1.21, kind


def test_many_steps_on_a_squared_null_space_stay_in_the_band(blocks):
    x = given((24, 96), "rank deficient")
    ours = jax.jit(lambda x: newton_schulz.polar(x, steps=20))(x)
    values = np.linalg.svd(np.asarray(ours), compute_uv=False)
    # The quintic settles in [0.68, 1.14] and never passes 1.2024; the other half is
    # rounding, amplified to anything up to it.
    assert values[11] >= 0.67
    assert values[0] <= 1.21


@pytest.mark.parametrize("shape", [(24, 24), (24, 96)])
@pytest.mark.parametrize("kind", ["random", *SPECTRA])
@rules
def test_bfloat16_stays_in_the_band(shape, kind, rule):
    """The branch of accelerators, where the products themselves are bfloat16."""
    triples = triples_of(rule)
    unit = newton_schulz._normalized(jnp.asarray(given(shape, kind)), 0.0)
    ours = _iterated(unit.astype(jnp.bfloat16), triples=triples, blocked=False)
    assert ours.dtype == jnp.bfloat16
    ours = np.asarray(ours, float)
    assert np.isfinite(ours).all()
    # The maximum of the quintic, 1.2024, or of the express, 1.1236, and a dozen
    # roundings of 2^-8.
    assert spectral(ours) <= 1.25
    if kind == "random" and rule == "quintic 5":
        truth = exact(triples, shape, kind)
        # 2^-8 = 0.004 in each of 5 steps, of which the first are amplified by up to
        # 3.4 in each that follows.
        assert spectral(ours - truth) <= 0.25
        assert np.sqrt(np.mean((ours - truth) ** 2) / np.mean(truth**2)) <= 0.15


_iterated = jax.jit(newton_schulz._iterate, static_argnames=("triples", "blocked"))


@rules
def test_the_oracle_says_the_same(rule):
    coefficients, steps = RULES[rule]
    x = np.stack([given((6, 9), "random", seed) for seed in range(2)]).astype(float)
    theirs = oracle.polar(x, steps=steps, coefficients=triples_of(rule), eps=0.5)
    with runs.double_precision():
        ours = POLAR(jnp.asarray(x), steps=steps, coefficients=coefficients, eps=0.5)
    # Rounding, 1e-16, times what 12 quintic steps amplify, 3e6.
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


# --- the coefficients -----------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "start", "low", "high"),
    [
        # What the documentation of QUINTIC says.
        ("quintic 5", 0.0015, 0.6798, 1.2024),
        ("quintic 12", 3e-7, 0.6818, 1.2024),
        ("express 5", 0.001, 0.8461, 1.1236),
        ("express 8", 0.001, 1 - 1e-12, 1 + 1e-12),
    ],
)
def test_bands(rule, start, low, high):
    values = np.concatenate([np.geomspace(start, 1, 200001), np.linspace(start, 1)])
    ends = composed(values, triples_of(rule))
    # Rounded to the four digits given.
    assert low - 1e-4 <= ends.min() <= low + 1e-3
    assert high - 1e-4 <= ends.max() <= high + 1e-4
    # The band holds in matrices: half of the values at the lower end of it.
    k = 24
    spectrum = np.concatenate([np.full(k // 2, 1.2 * start), np.geomspace(0.3, 1, 12)])
    left, right = (
        np.linalg.qr(np.random.default_rng(seed).normal(size=(n, k)))[0]
        for seed, n in enumerate((k, 2 * k))
    )
    coefficients, steps = RULES[rule]
    x = jnp.asarray((left * spectrum / np.linalg.norm(spectrum)) @ right.T, "float32")
    found = np.linalg.svd(POLAR(x, steps=steps, coefficients=coefficients))[1]
    if rule != "quintic 12":  # Whose lower end is near the rounding of the matrix.
        started = min(spectrum / np.linalg.norm(spectrum))
        low = min(low, composed(started, triples_of(rule)))
    # What the Gram form admits.
    noise = 5 * newton_schulz._LARGEST_NOISE
    assert found.max() <= high + noise
    if rule != "quintic 12":
        assert found.min() >= low - noise


def test_the_quintic_settles_in_its_band_and_not_at_one():
    values = np.linspace(0.01, 1, 10001)
    for _ in range(40):
        values = composed(values, [QUINTIC])
    seen = [values := composed(values, [QUINTIC]) for _ in range(100)]
    assert np.min(seen) == pytest.approx(0.68, abs=0.005)
    assert np.max(seen) == pytest.approx(1.135, abs=0.005)


def best_quintic(low, high):
    """Remez: a x + b x^3 + c x^5 nearest to 1 on [low, high], and its error."""
    inner = np.array([low + (high - low) / 4, low + (high - low) * 3 / 4])
    for _ in range(100):
        points = np.array([low, *inner, high])
        table = np.stack([points, points**3, points**5, [1, -1, 1, -1]], axis=1)
        a, b, c, error = np.linalg.solve(table, np.ones(4))
        inner = np.sort(np.sqrt(np.roots([5 * c, 3 * b, a]).real))
    return (a, b, c), abs(error)


def test_published_coefficients_are_the_best():
    """Each is derived again, from the interval that the ones before it leave over.

    Two things in the authors' derivation beside the theorem (the best polynomial on
    [l, u] leaves [1 - e, 1 + e]): the lower end is raised to 0.024 of the upper one,
    so that values in the middle are not pushed below a tenth of the largest, which
    binds in the first three steps; and then the polynomial is scaled so that what it
    leaves over lies around 1. From the fourth step on it is the theorem itself.
    """
    cushion = 0.02407327424182761
    low, high = 1e-3, 1.0
    for index, triple in enumerate(POLAR_EXPRESS[:7]):
        raised = max(low, cushion * high)
        assert (raised > low) == (index < 3)
        found, _ = best_quintic(raised, high)
        ends = composed(np.array([low, high]), [found])
        found = np.array(found) * 2 / np.sum(ends)
        # The factor 1.01 is against rounding: it shrinks the argument.
        published = np.array(triple) * 1.01 ** np.array([1, 3, 5])
        # Digits given: 15; the error of the sixth and the seventh, 1e-3 and 1e-9,
        # is what a system of nearly equal equations knows of their coefficients.
        np.testing.assert_allclose(published, found, rtol=1e-6 if index < 6 else 1e-3)
        low = composed(low, [published])
        inside = np.linspace(raised, high, 100001)
        values = composed(inside, [published])
        high = 2 - low
        if index >= 3:
            assert values.min() == pytest.approx(low, abs=1e-9)
        else:
            assert values.min() == pytest.approx(values.max() / 10, rel=1e-6)
        assert values.max() == pytest.approx(high, abs=1e-9)
    # What is left over is 1e-9 from 1, for which the best is the limit of both ends.
    assert POLAR_EXPRESS[7] == (15 / 8, -10 / 8, 3 / 8)
    assert high - low < 1e-8


# --- which form, and what it computes -------------------------------------------


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def traced(function, *shape, dtype=jnp.float32):
    x = jax.ShapeDtypeStruct(shape, dtype)
    return list(equations(jax.make_jaxpr(function)(x).jaxpr))


def products(shape, steps=5, coefficients=QUINTIC, dtype=jnp.float32, blocked=True):
    triples = newton_schulz.coefficient_list("test", coefficients, steps)

    def iterate(x):
        return newton_schulz._iterate(x, triples=triples, blocked=blocked)

    found = traced(iterate, *shape, dtype=dtype)
    return [e for e in found if e.primitive.name == "dot_general"]


def multiplications(dot):
    (summed, _), _ = dot.params["dimension_numbers"]
    shape = dot.invars[0].aval.shape
    return math.prod(dot.outvars[0].aval.shape) * math.prod(shape[i] for i in summed)


def with_side(dots, side):
    """How often the long side takes part, in multiples of two: once in, once out."""
    return sum(any(side in v.aval.shape for v in d.invars) for d in dots)


def group_sizes(coefficients, steps, dtype):
    triples = newton_schulz.coefficient_list("test", coefficients, steps)
    groups = newton_schulz._groups(triples, float(jnp.finfo(dtype).eps) / 2)
    assert sum(groups, ()) == triples
    return list(map(len, groups))


def test_restarts():
    """As late as noise of 2e-3 allows, which 6e-8 reaches in five steps or four."""
    assert group_sizes(QUINTIC, 5, jnp.float32) == [5]
    assert group_sizes(QUINTIC, 12, jnp.float32) == [5, 5, 2]
    assert group_sizes(POLAR_EXPRESS, 8, jnp.float32) == [4, 4]
    # Half precision is too coarse to be squared twice: the limit is passed at once.
    assert group_sizes(QUINTIC, 5, jnp.bfloat16) == [1] * 5
    assert group_sizes(POLAR_EXPRESS, 5, jnp.bfloat16) == [1] * 5
    assert group_sizes(QUINTIC, 5, jnp.float64) == [5]


def test_the_form_follows_the_shape():
    """Oblong products, 2 for each step or for each group, tell the two apart."""
    side = 97
    for small, steps, oblong in [(24, 5, 2), (24, 12, 6), (90, 5, 10), (90, 12, 24)]:
        for shape in ((small, side), (side, small)):
            dots = products(shape, steps)
            assert with_side(dots, side) == oblong, (shape, steps)
    assert with_side(products((24, side), dtype=jnp.bfloat16), side) == 10
    # Squares have one form: three products in each step.
    assert len(products((24, 24))) == 15


@pytest.mark.parametrize(
    ("shape", "coefficients"),
    [((24, 24), QUINTIC), ((20, 96), QUINTIC), ((20, 96), POLAR_EXPRESS)],
)
def test_the_chosen_form_multiplies_less(shape, coefficients):
    m, n = shape
    count = sum(map(multiplications, products(shape, 8, coefficients, blocked=False)))
    by_hand = 8 * (2 * m * m * n + m**3)
    assert count <= by_hand
    if m < n:
        groups = group_sizes(coefficients, 8, jnp.float32)
        # The products of m x m matrices: 4 in each step, less 3 in each group.
        small = sum(4 * size - 3 for size in groups)
        assert count == len(groups) * 2 * m * m * n + small * m**3 < by_hand


@pytest.mark.parametrize(
    ("side", "parts"), [(8, 1), (16, 2), (24, 3), (32, 4), (48, 4)]
)
def test_the_mirrored_half_is_left_out(blocks, side, parts):
    """Of p x p blocks those above the diagonal and on it: (p + 1) / 2p of the whole."""
    half = (parts + 1) / (2 * parts)
    m, n = side, 10 * side
    square = sum(map(multiplications, products((m, m))))
    # Thirds are not exact in binary.
    assert square == pytest.approx(5 * (1 + half + half) * m**3, rel=1e-12)
    for shape in ((m, n), (n, m)):
        oblong = sum(map(multiplications, products(shape)))
        by_hand = (1 + half) * m * m * n + 17 * half * m**3
        assert oblong == pytest.approx(by_hand, rel=1e-12)
    # Elsewhere a whole product is one operation.
    whole = sum(map(multiplications, products((m, m), blocked=False)))
    assert whole == 15 * m**3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "shape", [(24, 24), (20, 96), (96, 20), (40, 60), (2, 540, 400)]
)
def test_products_are_at_full_precision_and_nothing_is_transposed(shape, dtype):
    """In what is traced for CPU and for other devices alike."""
    found = traced(newton_schulz.polar, *shape, dtype=dtype)
    dots = [e for e in found if e.primitive.name == "dot_general"]
    assert len(dots) > 10
    highest = jax.lax.Precision.HIGHEST
    for dot in dots:
        assert dot.params["precision"] == (highest, highest)
    sides = max(shape)
    for equation in found:
        if equation.primitive.name == "transpose":
            # Blocks of a square are mirrored; the matrix itself never is.
            assert sides not in equation.invars[0].aval.shape


def test_a_transposed_matrix_has_the_transposed_factor():
    for shape in ((12, 12), (20, 96), (400, 540)):
        x = given(shape, "random")
        # The same products with operands in another order: roundings, 6e-8.
        np.testing.assert_allclose(POLAR(x.T), POLAR(x).T, rtol=0, atol=1e-5)


# --- kinds of input -------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 7), (7, 20), (20, 7)])
def test_complex_matrices(shape):
    triples = [QUINTIC] * 5
    x = given(shape, "random", 0, True)
    with jax.numpy_dtype_promotion("standard"):
        ours = POLAR(x)
    assert ours.dtype == jnp.complex64
    truth = exact(triples, shape, "random", 0, True)
    # As for real ones: some dozen roundings, 6e-8, amplified.
    np.testing.assert_allclose(ours, truth, rtol=0, atol=2e-5)
    with jax.numpy_dtype_promotion("standard"):
        halved = POLAR(x, dtype=jnp.bfloat16)  # There is no complex half: no change.
    np.testing.assert_array_equal(halved, ours)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_computed_in_single_on_cpu(dtype):
    x = jnp.asarray(given((20, 96), "random"), dtype)
    ours = POLAR(x)
    assert ours.dtype == dtype
    wide = POLAR(x.astype(jnp.float32))
    np.testing.assert_array_equal(ours, wide.astype(dtype))
    np.testing.assert_array_equal(POLAR(x.astype(jnp.float32), dtype=dtype), wide)
    # The other way round: more digits than the matrix has.
    np.testing.assert_array_equal(POLAR(x, dtype=jnp.float32), ours)


@pytest.mark.parametrize("shape", [(4, 4), (4, 12), (12, 4)])
@pytest.mark.parametrize("scale", [0, 1e-45, 1e-38, 1e-30, 1e-20, 1e20, 1e30, 3.4e38])
def test_the_scale_of_a_matrix_does_not_matter(shape, scale):
    x = given(shape, "random")
    x = (x / np.max(np.abs(x))).astype(np.float32)
    scaled = jnp.asarray(np.float64(scale) * x, jnp.float32)
    ours = POLAR(scaled)
    assert np.isfinite(ours).all()
    if scale >= 1e-37:
        # The scale is no power of two: one rounding each, 6e-8, amplified.
        np.testing.assert_allclose(ours, POLAR(x), rtol=0, atol=2e-5)
    if scale == 0:
        np.testing.assert_array_equal(ours, 0)


def test_zeros_among_others_stay_zeros():
    x = jnp.stack([jnp.asarray(given((4, 12), "random")), jnp.zeros((4, 12))])
    ours = POLAR(x)
    np.testing.assert_array_equal(ours[1], 0)
    np.testing.assert_array_equal(ours[0], POLAR(x[0]))
    np.testing.assert_array_equal(POLAR(jnp.zeros((4, 4)), eps=1e-7), 0)


def test_nan_stays_visible_and_with_its_matrix():
    x = jnp.asarray(np.stack([given((4, 12), "random", seed) for seed in range(2)]))
    ours = POLAR(x.at[0, 1, 2].set(jnp.nan))
    assert np.isnan(ours[0]).all()
    np.testing.assert_array_equal(ours[1], POLAR(x[1]))


@pytest.mark.parametrize("shape", [(6, 6), (20, 6)])
def test_batches_and_maps_are_matrices_one_by_one(shape):
    x = jnp.asarray(np.stack([given(shape, "random", seed) for seed in range(6)]))
    batch = POLAR(x.reshape(2, 3, *shape)).reshape(x.shape)
    mapped = jax.jit(jax.vmap(newton_schulz.polar))(x)
    whole = jax.jit(jax.vmap(jax.vmap(newton_schulz.polar)))(x.reshape(2, 3, *shape))
    at_once = _iterated(
        newton_schulz._normalized(x, 0.0), triples=(QUINTIC,) * 5, blocked=False
    )
    plainly = newton_schulz.polar(x)
    for i, one in enumerate(x):
        expected = POLAR(one)
        for found in (batch, mapped, whole.reshape(x.shape), at_once, plainly):
            # Sums in another order: some roundings, 6e-8, amplified.
            np.testing.assert_allclose(found[i], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 3, 4), (0, 0)])
def test_nothing_has_nothing(shape):
    assert newton_schulz.polar(jnp.zeros(shape)).shape == shape


def test_eps_is_added_to_the_norm():
    x = given((4, 12), "random")
    left, values, right = np.linalg.svd(x.astype(float), full_matrices=False)
    norm = np.linalg.norm(values)
    for scale in (1.0, 1e-30, 1e30):
        for eps in (0.5 * norm, 3 * norm, 1e4 * norm):
            truth = (left * composed(values / (norm + eps), [QUINTIC] * 5)) @ right
            scaled = jnp.asarray(np.float64(scale) * x, jnp.float32)
            for number in (scale * eps, jnp.float32(scale * eps)):
                ours = POLAR(scaled, eps=number)
                # Some dozen roundings, 6e-8, amplified.
                np.testing.assert_allclose(ours, truth, rtol=0, atol=1e-5)
    # Far above any matrix nothing is left of it, and still no NaN.
    np.testing.assert_allclose(POLAR(jnp.asarray(1e-20 * x), eps=1e20), 0, atol=1e-30)


# --- arguments ------------------------------------------------------------------


def test_a_triple_or_one_for_each_step():
    listed = newton_schulz.coefficient_list
    one, two, three = (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), (7.0, 8.0, 9.0)
    assert listed("f", one, 3) == (one, one, one)
    assert listed("f", [1, 2, 3], 1) == (one,)
    assert listed("f", [one], 2) == (one, one)
    assert listed("f", (one, two), 4) == (one, two, two, two)
    assert listed("f", [one, list(two), three], 2) == (one, two)
    assert listed("f", POLAR_EXPRESS, 8) == POLAR_EXPRESS
    assert listed("f", POLAR_EXPRESS, 3) == POLAR_EXPRESS[:3]
    assert listed("f", POLAR_EXPRESS, 10)[8:] == ((1.875, -1.25, 0.375),) * 2
    x = given((4, 4), "random")
    other = (QUINTIC, (1.875, -1.25, 0.375))
    expected = exact([other[0], other[1], other[1]], (4, 4), "random")
    # Some dozen roundings, 6e-8.
    np.testing.assert_allclose(POLAR(x, steps=3, coefficients=other), expected, 0, 1e-5)


@pytest.mark.parametrize(
    "coefficients",
    [
        (1.0, 2.0),
        (1.0, 2.0, 3.0, 4.0),
        (1.0, 2.0, math.nan),
        ((1.0, 2.0, 3.0), (1.0, 2.0, math.inf)),
        ((1.0, 2.0, 3.0), (1.0, 2.0)),
        ((1.0, 2.0, 3.0), 4.0),
        (1.0, 2.0, "3"),
        "quintic",
        ("abc",),
        3.0,
        None,
        (None,),
        ((),),
    ],
)
def test_coefficients_that_are_no_triples_are_refused(coefficients):
    with pytest.raises(ValueError, match=r"polar: coefficients must be a triple .*got"):
        newton_schulz.polar(jnp.eye(2), coefficients=coefficients)


def test_no_coefficients_are_refused():
    with pytest.raises(ValueError, match="polar: coefficients must hold a triple"):
        newton_schulz.polar(jnp.eye(2), coefficients=())


@pytest.mark.parametrize("steps", [0, -1, 1.5, True, None])
def test_steps_are_counted(steps):
    with pytest.raises(ValueError, match="polar: steps must be"):
        newton_schulz.polar(jnp.eye(2), steps=steps)


@pytest.mark.parametrize("shape", [(), (3,)])
def test_a_vector_is_no_matrix(shape):
    with pytest.raises(ValueError, match=r"polar: x must have at least two axes, got"):
        newton_schulz.polar(jnp.ones(shape))
