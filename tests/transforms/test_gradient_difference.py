import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimx
from optimx.transforms import gradient_difference


def test_adds_the_change_since_the_last_update():
    tx = optimx.add_gradient_difference(0.5)
    state = tx.init(jnp.zeros(1))
    assert isinstance(state, gradient_difference.GradientDifferenceState)
    for gradient, expected in ((2.0, 3.0), (3.0, 3.5), (1.0, 0.0)):
        corrected, state = tx.update(jnp.array([gradient]), state)
        np.testing.assert_allclose(corrected, [expected])
        np.testing.assert_array_equal(state.previous, [gradient])
    assert int(state.count) == 3


def test_a_scheduled_scale_counts_from_1():
    tx = optimx.add_gradient_difference(optimx.linear_warmup(40.0, 4))
    state = tx.init(jnp.zeros(1))
    for gradient, expected in ((1.0, 11.0), (2.0, 22.0)):
        corrected, state = tx.update(jnp.array([gradient]), state)
        np.testing.assert_allclose(corrected, [expected])


def test_previous_of_bfloat16_is_float32_unless_asked():
    params = jnp.ones(2, jnp.bfloat16)
    assert optimx.add_gradient_difference(0.5).init(params).previous.dtype == (
        jnp.float32
    )
    narrow = optimx.add_gradient_difference(0.5, accumulator_dtype=jnp.float16)
    assert narrow.init(params).previous.dtype == jnp.float16


def test_stands_before_any_transformation_of_optax():
    """Clipped to a norm of 1, LAMB's trust ratio sees the corrected gradient."""
    params = {"w": jnp.ones((2, 3))}
    grads = [jax.tree.map(lambda p, s=s: s * p, params) for s in (0.1, 0.2)]
    corrected = [jax.tree.map(lambda p, s=s: s * p, params) for s in (0.15, 0.25)]
    tx = optax.chain(
        optimx.add_gradient_difference(0.5),
        optimx.clip_by_block_norm(1.0),
        optax.lamb(1e-3),
    )
    lamb = optax.lamb(1e-3)
    state, reference = tx.init(params), lamb.init(params)
    with jax.numpy_dtype_promotion("standard"):
        for g, c in zip(grads, corrected, strict=True):
            updates, state = tx.update(g, state, params)
            expected, reference = lamb.update(c, reference, params)
            np.testing.assert_allclose(updates["w"], expected["w"], rtol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, "half"])
@pytest.mark.parametrize(
    "factory",
    [optimx.add_gradient_difference, optimx.add_stale_gradient_difference],
)
def test_scales_that_are_not_finite_are_refused(factory, value):
    message = rf"{factory.__name__}: scale must be a finite number or a schedule, got"
    with pytest.raises(ValueError, match=message):
        factory(value)


def test_integer_leaves_are_named():
    for factory in (
        optimx.add_gradient_difference,
        optimx.add_stale_gradient_difference,
    ):
        with pytest.raises(ValueError, match=rf"{factory.__name__}: parameter 'n' has"):
            factory(0.5).init({"n": jnp.arange(2)})


def test_stale_gradients_are_subtracted():
    tx = optimx.add_stale_gradient_difference(0.5)
    state = tx.init(jnp.zeros(1))
    assert jax.tree.map(jnp.shape, state) == (
        gradient_difference.StaleGradientDifferenceState(())
    )
    out, state = tx.update(jnp.array([2.0]), state, stale_grads=jnp.array([1.0]))
    np.testing.assert_allclose(out, [2.5])
    assert int(state.count) == 1


@pytest.mark.parametrize(
    "tx",
    [optimx.add_stale_gradient_difference(0.5), optimx.mars_adamw_exact(0.1)],
    ids=["stage", "optimizer"],
)
class TestStaleGradientsThatAreWrong:
    @property
    def params(self):
        return {"a": {"w": jnp.ones(2)}, "b": jnp.ones(3)}

    def test_missing(self, tx):
        message = r"update needs stale_grads.*stale_grads=stale.*value_and_stale_grad"
        with pytest.raises(ValueError, match=message):
            tx.update(self.params, tx.init(self.params), self.params)

    @pytest.mark.parametrize(
        ("stale", "message"),
        [
            ({"a": {"w": jnp.ones(2)}}, "it lacks 'b'"),
            ({"a": {"v": jnp.ones(2)}, "b": jnp.ones(3)}, "lacks 'a/w'.*foreign 'a/v'"),
            (jnp.ones(2), "it lacks 'a/w'"),
        ],
        ids=["lacking", "renamed", "array"],
    )
    def test_of_another_structure(self, tx, stale, message):
        with pytest.raises(ValueError, match=f"stale_grads must have.*{message}"):
            tx.update(self.params, tx.init(self.params), self.params, stale_grads=stale)

    def test_of_another_shape(self, tx):
        stale = self.params | {"b": jnp.ones((2, 3))}
        with pytest.raises(ValueError, match=r"stale_grads.*'b'.*\(2, 3\).*\(3,\)"):
            tx.update(self.params, tx.init(self.params), self.params, stale_grads=stale)


@pytest.mark.parametrize("tree", [{}, None, {"a": None}], ids=str)
def test_nothing_has_no_stale_gradient(tree):
    tx = optimx.add_stale_gradient_difference(0.5)
    updates, state = tx.update(tree, tx.init(tree))
    assert updates == tree
    assert int(state.count) == 1


def quadratic(params, batch):
    return jnp.mean((batch @ params) ** 2)


def test_value_and_stale_grad_is_two_gradients():
    batches = jnp.arange(24.0).reshape(2, 4, 3) / 10
    params = jnp.array([1.0, -1.0, 2.0])
    value, grads, stale = optimx.value_and_stale_grad(quadratic)(params, *batches)
    np.testing.assert_allclose(value, quadratic(params, batches[0]))
    np.testing.assert_allclose(grads, jax.grad(quadratic)(params, batches[0]))
    np.testing.assert_allclose(stale, jax.grad(quadratic)(params, batches[1]))


def test_value_and_stale_grad_hands_on_what_a_loss_reports():
    def reporting(params, batch):
        return quadratic(params, batch), jnp.sum(batch)

    step = optimx.value_and_stale_grad(reporting, has_aux=True)
    batches = jnp.stack([jnp.ones((4, 3)), 2 * jnp.ones((4, 3))])
    (value, report), grads, stale = jax.jit(step)(jnp.ones(3), *batches)
    np.testing.assert_allclose(value, 9.0)
    np.testing.assert_allclose(report, 12.0)
    np.testing.assert_allclose(stale, 4 * grads)
