import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimx
from optimx.linalg.newton_schulz import POLAR_EXPRESS, QUINTIC
from tests import runs
from tests.oracles import newton_schulz as oracle

SHAPES = {
    "square": (6, 6),
    "wide": (4, 12),
    "tall": (12, 4),
    "row": (1, 5),
    "column": (5, 1),
    "twin": (4, 12),
    "layers": (3, 4, 12),
    "heads": (2, 3, 5, 6),
}


def draw(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {key: rng.normal(size=shape) for key, shape in shapes.items()}


def once(tx, updates, **extra):
    tx = optax.with_extra_args_support(tx)
    return jax.jit(lambda u: tx.update(u, tx.init(u), **extra)[0])(updates)


RULES = {
    "default": ({}, {}),
    "two steps": ({"steps": 2}, {"steps": 2}),
    "express": (
        {"steps": 8, "coefficients": POLAR_EXPRESS},
        {"steps": 8, "coefficients": POLAR_EXPRESS},
    ),
    "own": ({"coefficients": (1.5, -0.5, 0.0)}, {"coefficients": ((1.5, -0.5, 0.0),)}),
    "eps": ({"eps": 0.7}, {"eps": 0.7}),
}


@pytest.mark.parametrize("rule", RULES)
def test_every_matrix_of_every_leaf_is_that_of_the_oracle(rule):
    ours, theirs = RULES[rule]
    tree = draw(SHAPES)
    expected = {key: oracle.polar(x, **theirs) for key, x in tree.items()}
    with runs.double_precision():
        found = once(optimx.orthogonalize(**ours), runs.as_tree(tree, "float64"))
        for key, x in found.items():
            assert x.dtype == jnp.float64
            # Rounding, 1e-16, in some products, amplified by 1e3 at most.
            np.testing.assert_allclose(x, expected[key], rtol=0, atol=1e-12)
    found = once(optimx.orthogonalize(**ours), runs.as_tree(tree, "float32"))
    for key, x in found.items():
        assert x.dtype == jnp.float32
        # The same with 6e-8; random matrices have few small singular values.
        np.testing.assert_allclose(x, expected[key], rtol=0, atol=1e-5, err_msg=key)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "complex64"])
def test_dtypes_are_kept(dtype):
    x = draw(SHAPES)["wide"].astype(np.float32)
    with jax.numpy_dtype_promotion("standard"):
        ours = once(optimx.orthogonalize(), jnp.asarray(x, dtype))
    assert ours.dtype == dtype
    theirs = oracle.polar(np.asarray(jnp.asarray(x, dtype).astype(complex).real))
    # Entries of up to 1, rounded once to half precision, 2^-9.
    np.testing.assert_allclose(ours.astype(complex), theirs, rtol=0, atol=0.005)


def test_the_dtype_of_products_leaves_the_dtype_of_updates():
    x = jnp.asarray(draw(SHAPES)["wide"], jnp.float32)
    ours = once(optimx.orthogonalize(dtype=jnp.bfloat16), x)
    assert ours.dtype == jnp.float32
    # On CPU half precision is computed in float32: nothing but roundings, 6e-8.
    np.testing.assert_allclose(ours, once(optimx.orthogonalize(), x), atol=1e-5)


def test_it_has_no_state_and_looks_at_nothing_else():
    updates = runs.as_tree(draw({"one": (4, 6), "two": (2, 4, 6)}), "float32")
    tx = optimx.orthogonalize()
    state = tx.init(updates)
    assert not jax.tree.leaves(state)
    plain, after = jax.jit(tx.update)(updates, state)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    other = jax.tree.map(lambda x: 1e3 + x, updates)
    for extra in (
        {"observed": other},
        {"observed": {"of": "another shape"}},
        {"value": jnp.ones(())},
    ):
        update = jax.jit(functools.partial(tx.update, **extra))
        found, _ = update(updates, state, other)
        jax.tree.map(np.testing.assert_array_equal, found, plain)


def test_as_a_preconditioner_it_sees_the_direction():
    updates = runs.as_tree(draw({"one": (4, 6), "two": (2, 4, 6)}), "float32")
    tx = optimx.precondition(optimx.ema(0.5), by=optimx.orthogonalize())
    found = once(tx, updates)
    # The scale of the average, 0.5, is gone; roundings, 6e-8, are left.
    for key, x in once(optimx.orthogonalize(), updates).items():
        np.testing.assert_allclose(found[key], x, rtol=0, atol=1e-5)


def test_empty_leaves_and_no_leaves_pass():
    tree = {"empty": jnp.zeros((0, 4)), "none": None, "masked": optax.MaskedNode()}
    tx = optimx.orthogonalize()
    found, _ = tx.update(tree, tx.init(tree))
    assert jax.tree.structure(found) == jax.tree.structure(tree)
    assert found["empty"].shape == (0, 4)
    assert tx.update({}, tx.init({}))[0] == {}


@pytest.mark.parametrize("shape", [(), (4,)])
def test_a_vector_is_named_and_its_remedy_too(shape):
    params = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(shape)}}
    with pytest.raises(ValueError, match=r"'dense/bias' .*rank 2.*matrices_only"):
        optimx.orthogonalize().init(params)


def test_integers_are_named():
    with pytest.raises(ValueError, match=r"orthogonalize: parameter 'table' .* int32"):
        optimx.orthogonalize().init({"table": jnp.ones((2, 2), jnp.int32)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "orthogonalize: steps must be"),
        ({"steps": 1.5}, "orthogonalize: steps must be"),
        ({"coefficients": (1.0, 2.0)}, "orthogonalize: coefficients must be a triple"),
        ({"coefficients": None}, "orthogonalize: coefficients must be a triple"),
        ({"coefficients": ()}, "orthogonalize: coefficients must hold a triple"),
        ({"eps": -1e-7}, "orthogonalize: eps must be a finite number >= 0"),
        ({"eps": math.nan}, "orthogonalize: eps must be a finite number >= 0"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        optimx.orthogonalize(**arguments)


# --- factors --------------------------------------------------------------------

FACTORS = {
    "aspect": (optimx.scale_by_aspect_ratio, lambda i, o: max(1, o / i) ** 0.5),
    "longest": (optimx.scale_by_longest_axis, lambda i, o: 0.2 * max(i, o) ** 0.5),
}

factors = pytest.mark.parametrize("name", FACTORS)


@factors
@pytest.mark.parametrize("shape", [(3, 12), (12, 3), (5, 5), (2, 3, 12), (2, 12, 3)])
def test_factors_follow_inputs_and_outputs(name, shape):
    make, factor = FACTORS[name]
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    flax = once(make(), kernel)
    # A factor rounded once and a product rounded once.
    expected = np.float32(factor(*shape[-2:])) * kernel
    np.testing.assert_allclose(flax, expected, rtol=2e-7)
    # PyTorch's weight is the transposed kernel and takes the transposed step.
    torch = once(make(in_axis=-1, out_axis=-2), jnp.swapaxes(kernel, -1, -2))
    np.testing.assert_array_equal(torch, jnp.swapaxes(flax, -1, -2))


@factors
def test_axes_may_lie_apart_and_count_from_either_end(name):
    make, factor = FACTORS[name]
    kernel = jnp.ones((3, 2, 12))
    found = once(make(in_axis=0, out_axis=-1), kernel)
    np.testing.assert_allclose(found, factor(3, 12), rtol=2e-7)
    found = once(make(in_axis=2, out_axis=0), kernel)
    np.testing.assert_allclose(found, factor(12, 3), rtol=2e-7)


def test_a_step_has_the_root_mean_square_asked_for():
    """Which is what the factor of the longer side is for, whatever the shape."""
    rng = np.random.default_rng(0)
    for shape in ((8, 8), (4, 16), (16, 4)):
        orthogonal = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
        update = jnp.asarray(orthogonal[0] @ orthogonal[2], jnp.float32)
        for scale in (0.2, jnp.float32(0.5)):
            step = once(optimx.scale_by_longest_axis(scale), update)
            # Some roundings, 6e-8.
            rms = np.sqrt(np.mean(np.square(step)))
            np.testing.assert_allclose(rms, scale, rtol=1e-6)


def test_a_layer_keeps_the_root_mean_square_of_what_it_is_fed():
    """Which is what the aspect ratio is for: outputs as large as inputs, or less."""
    rng = np.random.default_rng(1)
    for fan_in, fan_out in ((8, 8), (4, 16)):
        left, _, right = np.linalg.svd(rng.normal(size=(fan_in, fan_out)), False)
        step = once(
            optimx.scale_by_aspect_ratio(), jnp.asarray(left @ right, "float32")
        )
        x = rng.normal(size=fan_in)
        before, after = np.mean(x**2), np.mean((x @ np.asarray(step)) ** 2)
        # Some roundings, 6e-8.
        np.testing.assert_allclose(after, before, rtol=1e-5)


@factors
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_other_leaves_pass_and_dtypes_are_kept(name, dtype):
    tree = {
        "scalar": jnp.ones((), dtype),
        "vector": jnp.arange(4, dtype=dtype),
        "empty": jnp.zeros((0, 4), dtype),
        "kernel": jnp.ones((2, 8), dtype),
        "none": None,
    }
    make, factor = FACTORS[name]
    tx = make()
    assert tx.init(tree) == optax.EmptyState()
    found, state = tx.update(tree, tx.init(tree), None, observed=tree)
    assert state == optax.EmptyState()
    assert jax.tree.map(lambda x: (x.shape, x.dtype), found) == jax.tree.map(
        lambda x: (x.shape, x.dtype), tree
    )
    for key in ("scalar", "vector", "empty"):
        np.testing.assert_array_equal(found[key], tree[key])
    # Rounded to the leaf's dtype, factor and product.
    expected = np.full((2, 8), factor(2, 8))
    rtol = 2 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(found["kernel"].astype("float32"), expected, rtol=rtol)


@factors
def test_a_leaf_without_one_of_the_axes_passes(name):
    make, _ = FACTORS[name]
    kernel = jnp.ones((2, 8))
    np.testing.assert_array_equal(once(make(in_axis=-3, out_axis=-1), kernel), kernel)
    np.testing.assert_array_equal(once(make(in_axis=0, out_axis=2), kernel), kernel)


@factors
def test_one_axis_is_not_two(name):
    make, _ = FACTORS[name]
    with pytest.raises(ValueError, match=rf"{make.__name__}: .*two axes, got -1 twice"):
        make(in_axis=-1)
    with pytest.raises(ValueError, match=rf"{make.__name__}: .*two axes, got 0 twice"):
        make(in_axis=0, out_axis=0)


@factors
@pytest.mark.parametrize("axis", ["in_axis", "out_axis"])
@pytest.mark.parametrize("value", [-3.0, None, True, "0"])
def test_an_axis_is_a_number_of_one(name, axis, value):
    make, _ = FACTORS[name]
    with pytest.raises(ValueError, match=rf"{make.__name__}: {axis} must be a Python"):
        make(**{axis: value})


@pytest.mark.parametrize("optimizer", [optimx.muon, optimx.mars_m])
def test_an_axis_is_not_injected(optimizer):
    params = {"wide": jnp.ones((4, 12))}
    injected = optax.inject_hyperparams(optimizer, static_args=("steps",))
    message = r"in_axis must be a Python int, got .* name it in static_args\.$"
    with pytest.raises(ValueError, match=message):
        injected(0.1).init(params)
    fixed = "steps", "in_axis", "out_axis"
    injected = optax.inject_hyperparams(optimizer, static_args=fixed)
    injected(0.1).init(params)


@pytest.mark.parametrize("scale", [-0.1, math.inf, math.nan, "0.2", None])
def test_a_scale_is_a_number(scale):
    with pytest.raises(ValueError, match=r"scale_by_longest_axis: scale must be"):
        optimx.scale_by_longest_axis(scale)


def test_the_defaults_are_the_published_ones():
    x = draw({"wide": (4, 12)})["wide"]
    expected = oracle.polar(x, steps=5, coefficients=(QUINTIC,))
    ours = once(optimx.orthogonalize(), jnp.asarray(x, jnp.float32))
    # Some dozen roundings, 6e-8, amplified.
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)
    assert QUINTIC == (3.4445, -4.7750, 2.0315)


def test_products_are_of_floating_point():
    with pytest.raises(ValueError, match=r"dtype must be floating-point, got 'int8'"):
        optimx.orthogonalize(dtype="int8")
