import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimx
from optimx.combine import GraftState, MixState, PreconditionState


def run(tx, gradients, **extra):
    """Updates of one number, step by step, and the last state."""
    state = tx.init(jnp.zeros(1))
    out = []
    for gradient in gradients:
        updates, state = tx.update(jnp.array([gradient]), state, **extra)
        out.append(float(updates[0]))
    return out, state


class Recorder:
    """A transformation that passes its input and notes what came with it."""

    def __init__(self):
        self.seen = []

    def init(self, params):
        return optax.EmptyState()

    def update(self, updates, state, params=None, **extra):
        self.seen.append((updates, extra))
        return updates, state


class TestStages:
    def test_in_order_with_a_state_by_name(self):
        tx = optimx.stages(
            clip=optimx.clip_by_block_norm(1.0),
            grow=optax.scale(3.0),
            m=optimx.ema(0.5),
        )
        out, state = run(tx, [5.0])
        np.testing.assert_allclose(out, [3.0])
        assert set(state) == {"clip", "grow", "m"}
        np.testing.assert_allclose(state["m"].average, [1.5])

    def test_equals_a_chain(self):
        parts = optimx.ema(0.9), optax.scale_by_adam(), optax.scale(0.1)
        with jax.numpy_dtype_promotion("standard"):
            ours, _ = run(
                optimx.stages(a=parts[0], b=parts[1], c=parts[2]), [3.0, -1.0]
            )
            theirs, _ = run(optax.chain(*parts), [3.0, -1.0])
        assert ours == theirs

    def test_extra_arguments_reach_every_stage(self):
        first, second = Recorder(), Recorder()
        tx = optimx.stages(
            first=optax.GradientTransformationExtraArgs(first.init, first.update),
            plain=optax.scale(2.0),
            second=optax.GradientTransformationExtraArgs(second.init, second.update),
        )
        run(tx, [1.0], value=7)
        assert first.seen[0][1] == second.seen[0][1] == {"value": 7}

    def test_the_state_of_another_chain_is_refused(self):
        tx = optimx.stages(average=optimx.ema(0.9))
        for state, held in (({"other": None}, r"\['other'\]"), ((), "tuple")):
            with pytest.raises(ValueError, match=rf"stages \['average'\], got {held}"):
                tx.update(jnp.ones(1), state)

    def test_no_stage_is_refused(self):
        with pytest.raises(ValueError, match="stages: at least one stage"):
            optimx.stages()

    def test_something_else_than_a_transformation_is_refused(self):
        with pytest.raises(TypeError, match=r"stages: rate must be .* its call"):
            optimx.stages(rate=optax.adam)
        with pytest.raises(TypeError, match=r"stages: rate must be .* got 0.1\."):
            optimx.stages(rate=0.1)


class TestMix:
    def test_a_weighted_sum(self):
        tx = optimx.mix((2.0, optax.identity()), (-0.5, optax.scale(2.0)))
        assert run(tx, [3.0])[0] == [3.0]

    def test_parts_keep_their_own_states(self):
        tx = optimx.mix(
            (1.0, optimx.ema(0.5, debias=False)), (4.0, optimx.ema(0.75, debias=False))
        )
        out, state = run(tx, [2.0, 2.0])
        np.testing.assert_allclose(out, [1.0 + 2.0, 1.5 + 3.5])
        assert isinstance(state, MixState)
        assert int(state.count) == 2
        averages = [float(part.average[0]) for part in state.parts]
        np.testing.assert_allclose(averages, [1.5, 0.875])

    def test_scheduled_weights_count_from_1(self):
        tx = optimx.mix((optimx.linear_warmup(4.0, 4), optax.identity()))
        assert run(tx, [1.0] * 5)[0] == [1.0, 2.0, 3.0, 4.0, 4.0]

    def test_sums_in_float32(self):
        """256 + 1 has no place in bfloat16; the sum is rounded once, at the end."""
        one = jnp.ones(1, jnp.bfloat16)
        tx = optimx.mix(
            (256.0, optax.identity()), (1.0, optax.identity()), (1.0, optax.identity())
        )
        updates, _ = tx.update(one, tx.init(one))
        assert updates.dtype == jnp.bfloat16
        assert float(updates[0]) == 258.0

    @pytest.mark.parametrize("weight", [np.nan, np.inf, "one"])
    def test_weights_that_are_not_finite_are_refused(self, weight):
        with pytest.raises(ValueError, match=r"mix: weight 1 must be a finite number"):
            optimx.mix((1.0, optax.identity()), (weight, optax.identity()))

    def test_what_is_no_pair_is_refused(self):
        with pytest.raises(ValueError, match="mix: at least one"):
            optimx.mix()
        with pytest.raises(TypeError, match="mix: part 0 must be a pair"):
            optimx.mix(optax.identity())
        with pytest.raises(TypeError, match="mix: part 0 must be a pair"):
            optimx.mix(1.0)
        with pytest.raises(TypeError, match=r"mix: part 1 must be an optax.Gradient"):
            optimx.mix((1.0, optax.identity()), (1.0, optax.identity))


class TestPrecondition:
    def fork(self, **arguments):
        by = Recorder()
        tx = optimx.precondition(
            optax.scale(2.0),
            by=optax.GradientTransformationExtraArgs(by.init, by.update),
            **arguments,
        )
        return tx, by

    def test_scales_the_direction_by_what_came_in(self):
        tx, by = self.fork()
        out, state = run(tx, [3.0], value=7)
        ((updates, extra),) = by.seen
        assert out == [6.0]
        assert float(updates[0]) == 6.0
        assert float(extra["observed"][0]) == 3.0
        assert extra["value"] == 7
        assert isinstance(state, PreconditionState)

    def test_observes_the_residual(self):
        tx, by = self.fork(observe=optimx.residual)
        run(tx, [3.0])
        assert float(by.seen[0][1]["observed"][0]) == -3.0

    def test_the_residual_of_half_precision_is_not_rounded(self):
        u, d = jnp.bfloat16(1.0), jnp.bfloat16(1 / 256)
        assert float(optimx.residual(u, d)) == 1 - 1 / 256  # bfloat16: 1 - 1/128 or 1

    def test_observes_what_one_likes(self):
        tx, by = self.fork(observe=lambda updates, direction: direction)
        run(tx, [3.0])
        assert float(by.seen[0][1]["observed"][0]) == 6.0

    def test_nests(self):
        """Inside another fork, what that one observes is what came in."""
        tx, by = self.fork(observe=optimx.residual)
        run(tx, [3.0], observed=jnp.array([10.0]))
        assert float(by.seen[0][1]["observed"][0]) == 4.0

    def test_the_direction_is_not_told_what_is_observed(self):
        direction = Recorder()
        tx = optimx.precondition(
            optax.GradientTransformationExtraArgs(direction.init, direction.update),
            by=optax.identity(),
        )
        run(tx, [3.0], observed=jnp.array([10.0]), value=7)
        assert direction.seen[0][1] == {"value": 7}

    def test_both_parts_of_a_chain_observe_the_same(self):
        """The first of the two documented traps: q does not see what p made of it."""
        rms = optimx.scale_by_rms(0.5, eps=0.0)
        tx = optimx.precondition(optax.identity(), by=optax.chain(rms, rms))
        _, state = run(tx, [3.0])
        np.testing.assert_allclose([s.second_moment for s in state.by], [[4.5], [4.5]])

    def test_what_has_no_statistics_may_stand_there(self):
        tx = optimx.precondition(optimx.ema(0.9), by=optax.scale_by_sign())
        assert run(tx, [-3.0])[0] == [-1.0]

    def test_what_is_wrong_is_refused(self):
        one = optax.identity()
        with pytest.raises(TypeError, match="precondition: direction must be"):
            optimx.precondition(optimx.ema, by=one)
        with pytest.raises(TypeError, match="precondition: by must be"):
            optimx.precondition(one, by=None)
        with pytest.raises(TypeError, match="precondition: observe must be a function"):
            optimx.precondition(one, by=one, observe="residual")


class TestGraft:
    def test_direction_and_norm(self):
        tx = optimx.graft(optax.scale(0.01), magnitude=optax.scale(2.0))
        tree = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([[1.0]])}
        updates, state = tx.update(tree, tx.init(tree))
        np.testing.assert_allclose(updates["a"], [6.0, 8.0], rtol=1e-6)
        np.testing.assert_allclose(updates["b"], [[2.0]], rtol=1e-6)
        assert isinstance(state, GraftState)

    def test_no_direction_is_no_update(self):
        tx = optimx.graft(optax.set_to_zero(), magnitude=optax.identity())
        assert run(tx, [3.0])[0] == [0.0]

    def test_norms_of_half_precision_are_float32(self):
        u = jnp.full(4, 300.0, jnp.float16)  # 300^2 overflows float16.
        tx = optimx.graft(optax.identity(), magnitude=optax.scale(2.0))
        updates, _ = tx.update(u, tx.init(u))
        np.testing.assert_array_equal(updates, jnp.float16(600.0))

    @pytest.mark.parametrize("size", [1e20, 1e-25])
    def test_norms_do_not_overflow_or_vanish(self, size):
        u = jnp.array([size, size])
        tx = optimx.graft(optax.identity(), magnitude=optax.scale(2.0))
        updates, _ = tx.update(u, tx.init(u))
        np.testing.assert_allclose(updates, 2 * u, rtol=1e-6)  # A few roundings.

    def test_both_see_the_extra_arguments(self):
        a, b = Recorder(), Recorder()
        tx = optimx.graft(
            optax.GradientTransformationExtraArgs(a.init, a.update),
            magnitude=optax.GradientTransformationExtraArgs(b.init, b.update),
        )
        run(tx, [1.0], value=7)
        assert a.seen[0][1] == b.seen[0][1] == {"value": 7}

    def test_what_is_wrong_is_refused(self):
        with pytest.raises(TypeError, match="graft: direction must be"):
            optimx.graft(None, magnitude=optax.identity())
        with pytest.raises(TypeError, match="graft: magnitude must be"):
            optimx.graft(optax.identity(), magnitude=1.0)
