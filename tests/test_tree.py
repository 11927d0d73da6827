import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimx import _tree
from tests import runs


def test_map_to_gives_as_many_trees_as_results():
    tree = {"a": 6.0, "b": [2.0, None]}
    total, half = _tree.map_to(2, lambda x, y: (x + y, x / 2), tree, tree)
    assert total == {"a": 12.0, "b": [4.0, None]}
    assert half == {"a": 3.0, "b": [1.0, None]}


def test_map_to_of_nothing():
    assert _tree.map_to(3, lambda x: (x,) * 3, {"a": None}) == ({"a": None},) * 3


def test_map_to_takes_whole_subtrees_of_the_others():
    (sizes,) = _tree.map_to(1, lambda x, y: (len(y),), {"a": 1}, {"a": [1, 2, 3]})
    assert sizes == {"a": 3}


@pytest.mark.parametrize("promotion", ["standard", "strict"])
@pytest.mark.parametrize(
    ("dtype", "own", "asked"),
    [
        ("float16", "float32", "bfloat16"),
        ("bfloat16", "float32", "bfloat16"),
        ("float32", "float32", "bfloat16"),
        ("complex64", "complex64", "complex64"),
    ],
)
def test_accumulators(dtype, own, asked, promotion):
    x = jnp.ones(2, dtype)
    with jax.numpy_dtype_promotion(promotion):
        assert _tree.accumulator(x) == own
        assert _tree.accumulator(x, jnp.bfloat16) == asked


@pytest.mark.parametrize(
    ("dtype", "held", "wider"),
    [
        ("float32", "bfloat16", "float32"),
        ("bfloat16", "float16", "float32"),
        ("bfloat16", "float32", "float32"),
        ("float32", "float8_e4m3fn", "float32"),
        ("float32", "float64", "float64"),
        ("float64", "float32", "float64"),
        ("complex64", "float32", "complex64"),
        ("complex64", "float64", "complex128"),
    ],
)
def test_sums_are_taken_in_the_wider_dtype(dtype, held, wider):
    with runs.double_precision():
        x, held = jnp.ones(2, dtype), jnp.ones(2, held)
        assert _tree.arithmetic(x, held) == wider


def test_accumulators_of_doubles_are_double():
    with runs.double_precision():
        assert _tree.accumulator(jnp.ones(2, jnp.float64)) == "float64"
        assert _tree.accumulator(jnp.ones(2, jnp.complex128)) == "complex128"


def test_materialized_fills_in_shapes_only():
    x = jnp.ones(2)
    tree = _tree.materialized({"x": x, "s": jax.ShapeDtypeStruct((3,), jnp.bfloat16)})
    assert tree["x"] is x
    assert tree["s"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(tree["s"].astype(jnp.float32), np.zeros(3))


def test_squares_are_moduli():
    np.testing.assert_array_equal(_tree.square(jnp.array([-3.0])), [9.0])
    square = _tree.square(jnp.array([3.0 + 4.0j]))
    np.testing.assert_array_equal(square, [25.0])
    assert square.dtype == jnp.float32


def test_the_mean_along_an_empty_axis_is_zero():
    np.testing.assert_array_equal(_tree.mean(jnp.ones((2, 0)), -1), [0.0, 0.0])
    np.testing.assert_array_equal(_tree.mean(jnp.array([[1.0, 3.0]]), -1), [2.0])


def test_counts_stay_at_the_largest():
    largest = jnp.asarray(np.iinfo(np.int32).max, jnp.int32)
    assert int(_tree.increment(largest)) == int(largest)
    assert int(_tree.increment(jnp.zeros([], jnp.int32))) == 1


def test_like_has_the_precision_of_the_array():
    x = jnp.ones(2, jnp.bfloat16)
    assert _tree.like(0.3, x) == 0.3
    assert _tree.like(jnp.asarray(0.3), x).dtype == jnp.bfloat16
    assert _tree.like(jnp.asarray(0.3), jnp.ones(2, jnp.complex64)).dtype == jnp.float32


def test_scalars_and_schedules():
    count = jnp.asarray(3)
    assert _tree.at(0.5, count) == 0.5
    assert float(_tree.at(lambda count: 2 * count, count)) == 6
    assert _tree.scaled(3.0, lambda x: x + 1) == 4.0
    assert float(_tree.scaled(lambda count: count, lambda x: x + 1)(count)) == 4


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("as_array", [False, True])
def test_bias_corrections_keep_their_digits(decay, as_array):
    for count in (1, 2, 1000):
        # Exact for the float32 that an array holds; a Python number is exact.
        exact = float(np.float32(decay)) if as_array else decay
        given = jnp.asarray(decay) if as_array else decay
        ours = _tree.debias(given, jnp.asarray(count), jnp.float32)
        assert ours.dtype == jnp.float32
        # The logarithm of a float32 near 1 has 3 digits less than its argument's.
        rtol = 1e-3 if as_array else 1e-6
        np.testing.assert_allclose(
            ours, -np.expm1(count * np.log(exact)) if exact else 1.0, rtol=rtol
        )


def test_matching_splits_extra_arguments_by_shape():
    tree = {"a": jnp.ones(2), "b": jnp.ones(())}
    extra = {
        "same": {"a": jnp.zeros(2), "b": 0.0},
        "other shape": {"a": jnp.zeros(3), "b": 0.0},
        "other tree": [jnp.zeros(2), 0.0],
        "number": 1.0,
        "none": None,
        "function": len,
    }
    same, others = _tree.matching(tree, extra)
    assert list(same) == ["same"]
    assert same | others == extra


def test_a_scalar_beside_one_leaf_is_no_tree_like_it():
    same, _ = _tree.matching(jnp.ones(2), {"value": jnp.ones(()), "g": jnp.ones(2)})
    assert list(same) == ["g"]
