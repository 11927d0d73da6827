import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import optimx
from tests.contract import _trees

PARAMS = {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full(2, 3.0)}


class TestMatricesOnly:
    def test_each_leaf_has_its_rule(self):
        tx = optimx.matrices_only(optax.scale(10.0), otherwise=optax.scale(-1.0))
        updates, _ = tx.update(PARAMS, tx.init(PARAMS))
        np.testing.assert_array_equal(updates["kernel"], 20.0)
        np.testing.assert_array_equal(updates["bias"], -3.0)

    def test_the_others_pass_by_default(self):
        tx = optimx.matrices_only(optax.scale(10.0))
        updates, _ = tx.update(PARAMS, tx.init(PARAMS))
        np.testing.assert_array_equal(updates["bias"], 3.0)

    @pytest.mark.parametrize(
        "labels",
        [
            {"kernel": "other", "bias": "matrix"},
            lambda params: {"kernel": "other", "bias": "matrix"},
        ],
        ids=["tree", "function"],
    )
    def test_labels_decide(self, labels):
        tx = optimx.matrices_only(optax.scale(10.0), labels=labels)
        updates, _ = tx.update(PARAMS, tx.init(PARAMS))
        np.testing.assert_array_equal(updates["kernel"], 2.0)
        np.testing.assert_array_equal(updates["bias"], 30.0)

    def test_a_prefix_labels_what_is_below_it(self):
        params = {"embed": PARAMS, "block": PARAMS}
        tx = optimx.matrices_only(
            optax.scale(10.0), labels={"embed": "other", "block": "matrix"}
        )
        updates, _ = tx.update(params, tx.init(params))
        np.testing.assert_array_equal(updates["embed"]["kernel"], 2.0)
        np.testing.assert_array_equal(updates["block"]["bias"], 30.0)

    def test_what_is_observed_is_split_alike(self):
        tx = optimx.matrices_only(optimx.scale_by_rms(0.5, eps=0.0))
        observed = jax.tree.map(lambda p: p / 2, PARAMS)
        updates, _ = tx.update(PARAMS, tx.init(PARAMS), observed=observed)
        np.testing.assert_allclose(updates["kernel"], 2.0, rtol=1e-6)
        np.testing.assert_array_equal(updates["bias"], 3.0)

    def test_stale_gradients_are_split_alike(self):
        exact = optimx.mars_adamw_exact(0.1)
        tx = optimx.matrices_only(exact, otherwise=optax.sgd(0.1))
        extra = {"stale_grads": jax.tree.map(jnp.zeros_like, PARAMS)}
        updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS, **extra)
        np.testing.assert_allclose(updates["kernel"], -0.1, rtol=1e-5)
        np.testing.assert_allclose(updates["bias"], -0.3, rtol=1e-6)

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ({"kernel": "matrix"}, r"labels does not fit.*'bias'"),
            ({"kernel": "matrix", "bias": "vector"}, r"got 'vector' at 'bias'"),
            ({"kernel": "matrix", "bias": "other", "b": "other"}, r"not fit.*'b'"),
            ({"kernel": "matrix", "bias": 0}, r"got 0 at 'bias'"),
            (lambda params: "dense", r"got 'dense' at '\(root\)'"),
        ],
        ids=["lacking", "unknown", "foreign", "number", "root"],
    )
    def test_labels_that_do_not_fit_are_named_at_init(self, labels, message):
        tx = optimx.matrices_only(optax.scale(2.0), labels=labels)
        with pytest.raises(
            ValueError,
            match=f"matrices_only: labels.*{message}|matrices_only: {message}",
        ):
            tx.init(PARAMS)

    @pytest.mark.parametrize("arguments", [(optax.adam,), (None,)])
    def test_something_else_than_a_transformation_is_refused(self, arguments):
        with pytest.raises(TypeError, match="matrices_only: inner must be"):
            optimx.matrices_only(*arguments)
        with pytest.raises(TypeError, match="matrices_only: otherwise must be"):
            optimx.matrices_only(optax.scale(1.0), otherwise=arguments[0])


class TestAsMatrices:
    @pytest.mark.parametrize(
        ("shape", "rows", "columns", "view"),
        [
            ((4, 2, 3), (0,), (1, 2), (1, 4, 6)),
            ((2, 3, 4), (0, 1), (2,), (1, 6, 4)),
            ((2, 3, 4), (0, 1), (-1,), (1, 6, 4)),
            ((5, 7, 2, 3), (2,), (3,), (35, 2, 3)),
            ((5, 7, 2, 3), (0, 1, 2), (3,), (1, 70, 3)),
            ((5, 7, 2, 3), (3,), (1,), (10, 3, 7)),
            ((3, 2), (1,), (0,), (1, 2, 3)),
        ],
    )
    def test_the_view(self, shape, rows, columns, view):
        """The state has the view's shape, and updates come back in their own."""
        tx = optimx.as_matrices(optimx.ema(0.5), {"w": (rows, columns)})
        leaf = jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)
        state = tx.init({"w": leaf})
        assert state.average["w"].shape == view
        updates, after = tx.update({"w": leaf}, state)
        np.testing.assert_allclose(updates["w"], leaf, rtol=1e-6)
        assert _trees.avals(after) == _trees.avals(state)

    def test_the_view_is_the_matrix(self):
        leaf = jnp.arange(24.0).reshape(2, 3, 4)
        tx = optimx.as_matrices(optimx.ema(0.0001, debias=False), {"w": ((2,), (0, 1))})
        _, state = tx.update({"w": leaf}, tx.init({"w": leaf}))
        expected = leaf.transpose(2, 0, 1).reshape(1, 4, 6)
        np.testing.assert_allclose(state.average["w"], expected, rtol=1e-3)

    def test_factors_are_those_of_the_matrix(self):
        """Shown as a matrix, a kernel has the matrix's update exactly."""
        leaf = _trees.draw(0, (4, 2, 3))
        rms = optimx.scale_by_factored_rms(0.9)
        tx = optimx.as_matrices(rms, {"w": ((0,), (1, 2))})
        updates, _ = tx.update({"w": leaf}, tx.init({"w": leaf}))
        matrix = leaf.reshape(4, 6)
        expected, _ = rms.update(matrix, rms.init(matrix))
        np.testing.assert_allclose(updates["w"], expected.reshape(4, 2, 3), rtol=1e-6)

    def test_the_first_pattern_counts_and_others_stay(self):
        params = {"q": {"w": jnp.ones((4, 2, 3))}, "w": jnp.ones((4, 2, 3))}
        spec = {"q/*": ((0,), (1, 2)), "*w": ((0, 1), (2,))}
        shapes = jax.tree.map(
            jnp.shape, optimx.as_matrices(optimx.ema(0.9), spec).init(params).average
        )
        assert shapes == {"q": {"w": (1, 4, 6)}, "w": (1, 8, 3)}
        alone = optimx.as_matrices(optimx.ema(0.9), {"q/*": ((0,), (1, 2))})
        assert alone.init(params).average["w"].shape == (4, 2, 3)

    def test_extra_trees_are_shown_alike(self):
        params = {"w": _trees.draw(0, (4, 2, 3)), "b": jnp.ones(3)}
        tx = optimx.as_matrices(
            optimx.mars_adamw_exact(0.1, weight_decay=0.1), {"w": ((0,), (1, 2))}
        )
        extra = {"stale_grads": jax.tree.map(jnp.zeros_like, params), "value": 1.0}
        updates, _ = tx.update(params, tx.init(params), params, **extra)
        own = optimx.mars_adamw_exact(0.1, weight_decay=0.1)
        expected, _ = own.update(params, own.init(params), params, **extra)
        _trees.assert_same(updates, expected, **_trees.SINGLE)

    def test_shapes_are_enough_for_init(self):
        params = {"w": jnp.ones((4, 2, 3))}
        tx = optimx.as_matrices(optimx.came(0.1), {"w": ((0,), (1, 2))})
        _trees.assert_same(tx.init(jax.eval_shape(lambda: params)), tx.init(params))

    def test_attention_of_flax(self):
        attention = nnx.MultiHeadAttention(
            num_heads=2, in_features=8, qkv_features=6, rngs=nnx.Rngs(0)
        )
        params = nnx.to_pure_dict(nnx.state(attention, nnx.Param))
        assert params["query"]["kernel"].shape == (8, 2, 3)
        assert params["out"]["kernel"].shape == (2, 3, 8)
        spec = {
            "out/kernel": ((0, 1), (2,)),
            "*/kernel": ((0,), (1, 2)),
        }
        tx = optimx.as_matrices(optimx.came(0.1), spec)
        state = tx.init(params)
        row = state["scale"].row
        assert row["query"]["kernel"].shape == (1, 8)
        assert row["out"]["kernel"].shape == (1, 6)
        assert row["query"]["bias"].shape == (2,)  # (2, 3) as it is.
        updates, after = tx.update(params, state, params)
        assert _trees.avals(updates) == _trees.avals(params)
        assert _trees.avals(after) == _trees.avals(state)

    def test_convolution_of_flax(self):
        convolution = nnx.Conv(3, 5, (2, 2), rngs=nnx.Rngs(0))
        params = nnx.to_pure_dict(nnx.state(convolution, nnx.Param))
        whole = optimx.as_matrices(optimx.came(0.1), {"kernel": ((0, 1, 2), (3,))})
        taps = optimx.as_matrices(optimx.came(0.1), {"kernel": ((2,), (3,))})
        assert whole.init(params)["scale"].row["kernel"].shape == (1, 12)
        assert taps.init(params)["scale"].row["kernel"].shape == (4, 3)
        for tx in (whole, taps):
            updates, _ = tx.update(params, tx.init(params), params)
            assert _trees.avals(updates) == _trees.avals(params)

    @pytest.mark.parametrize(
        ("rows", "columns", "message"),
        [
            ((0,), (3,), r"'w' has shape \(4, 2, 3\); 'w\*' asks .*\(0,\) and \(3,\)"),
            ((-4,), (0,), r"'w' has shape \(4, 2, 3\)"),
            ((0, 1), (1,), r"'w\*' names an axis of 'w' twice: \(0, 1\) and \(1,\)"),
            ((0,), (-3,), r"'w\*' names an axis of 'w' twice"),
        ],
    )
    def test_axes_that_a_leaf_has_not_are_named_at_init(self, rows, columns, message):
        tx = optimx.as_matrices(optimx.ema(0.9), {"w*": (rows, columns)})
        with pytest.raises(ValueError, match=f"as_matrices: {message}"):
            tx.init({"w": jnp.ones((4, 2, 3))})

    @pytest.mark.parametrize(("rows", "columns"), [((), (1,)), ((0,), ())])
    def test_a_matrix_has_rows_and_columns(self, rows, columns):
        with pytest.raises(ValueError, match="'w' needs row and column axes, got"):
            optimx.as_matrices(optimx.ema(0.9), {"w": (rows, columns)})

    def test_something_else_than_a_transformation_is_refused(self):
        with pytest.raises(TypeError, match="as_matrices: inner must be"):
            optimx.as_matrices("adam", {})
