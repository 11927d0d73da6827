import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimx
from optimx.linalg import roots
from tests import runs
from tests.oracles import shampoo
from tests.transforms import _matrices
from tests.transforms._matrices import changed, draw, follow

# One transformation for all tests that ask for the same, compiled once.
scale_by_kronecker = functools.cache(optimx.scale_by_kronecker)


@pytest.fixture
def double():
    with runs.double_precision():
        yield


def close(ours, theirs, bound):
    theirs = np.asarray(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=bound * np.abs(theirs).max())


# Rounding of 2e-16 beside ridges of 1e-6, to the fourth root and twice.
DOUBLE = 1e-9


@pytest.mark.parametrize("spread", [True, False])
def test_blocks_are_matrices_of_their_own(double, spread):
    """Blocks of 3 x 3, in the last row and column what is left over."""
    gradients = draw(0, 7, 5, 7, dtype=jnp.float64)
    tx = scale_by_kronecker(0.9, update_every=3, block_size=3, spread=spread)
    updates, states = follow(tx, gradients)
    turn = states[0].turn[0]
    assert set(map(int, turn)) == ({0, 1, 2} if spread else {0})
    places = [(i, j) for i in (0, 3) for j in (0, 3, 6)]
    for (i, j), phase in zip(places, turn, strict=True):
        block = np.asarray(gradients[:, i : i + 3, j : j + 3])
        expected = shampoo.of_matrix(
            block, block, decay=0.9, root_eps=1e-6, update_every=3, phase=int(phase)
        )
        close(np.stack(updates)[:, i : i + 3, j : j + 3], expected, DOUBLE)


def shapes(params, **hyper):
    return jax.eval_shape(scale_by_kronecker(0.9, **hyper).init, params)


def test_the_state_has_a_pair_of_factors_for_each_block():
    params = {"w": jnp.ones((2, 5, 7)), "v": jnp.ones((3, 2))}
    state = shapes(params, block_size=3)
    for tree in (state.left, state.right, state.left_root, state.right_root):
        # Blocks are as long as one another: 5 is 3 and 2, padded, and 7 is 3, 3, 1.
        assert tree["w"].shape == (2, 6, 3, 3)
    assert state.left["v"].shape == (1, 1, 3, 3)
    assert state.right["v"].shape == (1, 1, 2, 2)
    for tree in (state.turn, state.skipped, state.kept):
        assert tree["w"].shape == (2, 6)
    # Cut into as many pieces as needed, and those evenly: 10 is 4 and 4 and 2 in
    # pieces of 4, and three times 4 with the padding.
    state = shapes(jnp.ones((9, 10)), block_size=4)
    assert state.left.shape == (1, 9, 3, 3)
    assert state.right.shape == (1, 9, 4, 4)
    whole = shapes(jnp.ones((9, 10)), block_size=None)
    assert whole.left.shape == (1, 1, 9, 9)


def inverse_root(factor, p, eps=1e-6):
    values, vectors = np.linalg.eigh(factor)
    values = np.maximum(values, 0) + eps * values[-1]
    return (vectors * values ** (-1 / p)) @ vectors.T


def average(squares, decay):
    """Moving averages of each step, corrected for bias."""
    mean, out = 0.0, []
    for t, square in enumerate(squares, start=1):
        mean = decay * mean + (1 - decay) * square
        out.append(mean / (1 - decay**t))
    return out


def test_a_longer_side_has_a_diagonal_factor(double):
    gradients = draw(1, 4, 4, 6, dtype=jnp.float64)
    tx = scale_by_kronecker(0.9, update_every=1, block_size=None, max_dim=5, eps=1e-6)
    updates, states = follow(tx, gradients)
    assert states[0].left.shape == (1, 1, 4, 4)
    assert states[0].right.shape == states[0].right_root.shape == (1, 1, 6)
    g = np.asarray(gradients)
    left = average(g @ np.swapaxes(g, 1, 2), 0.9)
    right = average(np.sum(g**2, axis=1), 0.9)
    for t, update in enumerate(updates):
        columns = (right[t] + 1e-6 * right[t].max()) ** (-1 / 4)
        close(update, inverse_root(left[t], 4) @ g[t] * columns, DOUBLE)


@pytest.mark.parametrize("exponent", [1, 2, 3])
def test_exponents(double, exponent):
    gradients = draw(2, 4, 5, 4, dtype=jnp.float64)
    tx = scale_by_kronecker(0.9, update_every=1, exponent=exponent)
    updates, _ = follow(tx, gradients)
    g = np.asarray(gradients)
    left = average(g @ np.swapaxes(g, 1, 2), 0.9)
    right = average(np.swapaxes(g, 1, 2) @ g, 0.9)
    # At the first step the ridge is all that inverse roots of exponent 1 have in one
    # direction, where rounding of 2e-16 is 2e-10 of it.
    for t, update in enumerate(updates):
        expected = inverse_root(left[t], exponent) @ g[t]
        close(update, expected @ inverse_root(right[t], exponent), DOUBLE)


def test_roots_by_newton_are_those_by_eigenvalues(double):
    gradients = draw(3, 6, 4, 4, dtype=jnp.float64)
    hyper = {"update_every": 1, "eps": 1e-6}
    eigen, _ = follow(scale_by_kronecker(0.9, **hyper), gradients)
    newton, states = follow(
        scale_by_kronecker(0.9, root=roots.inverse_root_newton, **hyper),
        gradients,
    )
    assert not np.any(states[-1].kept)
    # Newton stops at a residual of 1e-6, and its ridge, 1e-6 of an estimate of the
    # largest eigenvalue, is short by 2% at most: of eigenvalues a ten-thousandth as
    # large that is 1e-4 / 4 of the root.
    for ours, theirs in zip(newton, eigen, strict=True):
        close(ours, theirs, 3e-5)


def failing(size, above):
    """A root that does not pass its check for large matrices of a given side."""

    def root(matrix, p, *, eps):
        found, residual = roots.inverse_root(matrix, p, eps=eps)
        fails = (matrix.shape[-1] == size) & (jnp.trace(matrix) > above)
        return found, jnp.where(fails, jnp.nan, residual)

    return root


def test_a_root_that_fails_its_check_is_kept_and_counted():
    gradients = jnp.stack([draw(4, 4, 3), 100 * draw(5, 4, 3), 100 * draw(6, 4, 3)])
    tx = scale_by_kronecker(0.5, update_every=1, root=failing(size=4, above=100.0))
    updates, states = follow(tx, gradients)
    assert [int(state.kept[0, 0]) for state in states] == [0, 0, 1, 2]
    np.testing.assert_array_equal(states[3].left_root, states[1].left_root)
    assert changed(states[1].left_root, states[0].left_root)
    assert changed(states[2].right_root, states[1].right_root)
    assert changed(states[2].left, states[1].left)
    assert np.all(np.isfinite(np.stack(updates)))


def test_no_residual_is_small_enough():
    """A tolerance below rounding refuses both roots, and they stay the identity."""
    gradients = draw(7, 3, 4, 4)
    tx = scale_by_kronecker(0.9, update_every=1, tolerance=1e-30)
    updates, states = follow(tx, gradients)
    np.testing.assert_array_equal(np.stack(updates), gradients)
    assert int(states[-1].kept[0, 0]) == 6


@pytest.mark.parametrize("kind", ["nan", "infinity", "overflow"])
def test_a_signal_that_is_not_finite_changes_nothing(kind):
    tx = scale_by_kronecker(0.9, update_every=4)
    gradients = np.array(draw(8, 6, 3, 4, 3))
    gradients[2, 1] = _matrices.bad(kind, (4, 3))
    updates, states = follow(tx, jnp.asarray(gradients))
    before, after = states[2:4]
    np.testing.assert_array_equal(after.skipped[:, 0], [0, 1, 0])
    for factor in ("left", "right"):
        which = changed(getattr(before, factor), getattr(after, factor))
        np.testing.assert_array_equal(which, [True, False, True])
    for root in ("left_root", "right_root"):
        # The others take their turns as if nothing had been.
        which = changed(getattr(before, root), getattr(after, root))
        np.testing.assert_array_equal(which, after.turn[:, 0] == 2)
        assert not which[1]
    np.testing.assert_array_equal(after.kept, 0)
    # What came in is what goes out: the next step is another one.
    assert all(np.all(np.isfinite(updates[t])) for t in (0, 1, 3, 4, 5))
    np.testing.assert_array_equal(states[-1].skipped, after.skipped)
    assert np.all(changed(after.left, states[4].left))


def test_a_first_signal_that_is_not_finite():
    """At its turn a matrix without a factor has the identity for roots."""
    gradients = np.array(draw(9, 3, 4, 3))
    gradients[0] = np.nan
    tx = scale_by_kronecker(0.9, update_every=2, spread=False)
    updates, states = follow(tx, jnp.asarray(gradients))
    np.testing.assert_array_equal(states[1].left_root[0, 0], np.eye(4))
    np.testing.assert_array_equal(updates[1], gradients[1])
    assert changed(states[3].left_root, states[2].left_root)
    assert np.all(np.isfinite(updates[2]))
    np.testing.assert_array_equal(states[3].kept, 0)


@pytest.mark.parametrize("spread", [True, False])
def test_each_root_has_its_turn_once_a_cycle(spread):
    gradients = {"a": draw(10, 8, 7, 4, 3), "b": draw(11, 8, 2, 5, 5)}
    tx = scale_by_kronecker(0.9, update_every=4, spread=spread)
    _, states = follow(tx, gradients)
    refreshed = []
    for t in range(8):
        before, after = states[t : t + 2]
        for name in gradients:
            turn = np.asarray(after.turn[name][:, 0])
            expected = turn == t % 4
            for side in ("left_root", "right_root"):
                which = changed(getattr(before, side)[name], getattr(after, side)[name])
                np.testing.assert_array_equal(which, expected)
            refreshed.append(expected.sum())
    assert sum(refreshed) == 2 * (7 + 2)
    work = np.reshape(refreshed, (8, 2)).sum(axis=1)
    # Every step has its share, or the first of a cycle has all.
    assert work.min() > 0 if spread else list(work) == [9, 0, 0, 0] * 2


@pytest.mark.parametrize("spread", [True, False])
@pytest.mark.parametrize("root", [roots.inverse_root, roots.inverse_root_newton])
def test_no_branch_in_the_program(spread, root):
    tx = scale_by_kronecker(0.9, spread=spread, root=root)
    tree = {"w": jnp.ones((3, 4, 5)), "v": jnp.ones((2, 2))}
    assert _matrices.has_no_branch(tx, tree)


def test_a_stack_is_its_matrices():
    gradients = draw(12, 5, 3, 4, 4, 3)
    tx = scale_by_kronecker(0.9, update_every=4)
    stacked, _ = follow(tx, gradients)
    layers = gradients.reshape(5, 12, 4, 3)
    apart, states = follow(tx, {f"layer{i:02}": layers[:, i] for i in range(12)})
    for ours, theirs in zip(stacked, apart, strict=True):
        np.testing.assert_array_equal(
            ours.reshape(12, 4, 3), np.stack(list(theirs.values()))
        )
    assert states[0].left["layer00"].shape == (12, 1, 4, 4)


def test_statistics_are_those_of_the_observed_signal():
    updates, observed = np.asarray(draw(13, 4, 4, 3)), np.asarray(draw(14, 4, 4, 3))
    tx = scale_by_kronecker(0.9, update_every=2)
    moved, states = follow(tx, updates, observed=observed)
    factor = sum(0.1 * 0.9 ** (3 - t) * g @ g.T for t, g in enumerate(observed))
    left, right = states[-1].left_root[0, 0], states[-1].right_root[0, 0]
    # Sums and products of a few float32 numbers, of 6e-8 each.
    close(states[-1].left[0, 0], factor, 1e-6)
    close(moved[-1], left @ updates[-1] @ right, 1e-6)


def test_half_precision_outside_and_single_inside():
    gradients = draw(15, 4, 4, 3).astype(jnp.bfloat16)
    tx = scale_by_kronecker(0.9, update_every=2)
    half, states = follow(tx, gradients)
    single, expected = follow(tx, gradients.astype(jnp.float32))
    for state in states:
        kinds = {x.dtype for x in jax.tree.leaves(state)}
        assert kinds == {jnp.dtype("float32"), jnp.dtype("int32")}
    _matrices.same(states[-1], expected[-1])
    for ours, theirs in zip(half, single, strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_array_equal(ours, theirs.astype(jnp.bfloat16))


def test_zeros_stay_zeros():
    gradients = jnp.zeros((3, 4, 3))
    tx = scale_by_kronecker(0.9, update_every=1)
    updates, states = follow(tx, gradients)
    np.testing.assert_array_equal(np.stack(updates), 0)
    np.testing.assert_array_equal(states[-1].left_root[0, 0], np.eye(4))
    assert int(states[-1].kept[0, 0]) == 0


def test_it_is_grafted_as_any_other():
    gradients = draw(16, 3, 4, 3)
    tx = optimx.graft(scale_by_kronecker(0.9), magnitude=optax.identity())
    updates, _ = follow(tx, gradients)
    for update, gradient in zip(updates, gradients, strict=True):
        # Two norms in float32.
        np.testing.assert_allclose(
            np.linalg.norm(update), np.linalg.norm(gradient), rtol=1e-6
        )


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("update_every", 0),
        ("update_every", 2.5),
        ("block_size", 0),
        ("max_dim", 0),
        ("eps", 0.0),
        ("eps", -1.0),
        ("eps", jnp.inf),
        ("exponent", 0),
        ("exponent", 0.5),
        ("tolerance", 0.0),
        ("tolerance", jnp.inf),
        ("tolerance", jnp.nan),
        ("decay", 1.0),
        ("decay", -0.1),
    ],
)
def test_numbers_out_of_range_are_refused(argument, value):
    with pytest.raises(ValueError, match=rf"scale_by_kronecker: {argument} must be"):
        scale_by_kronecker(**{"decay": 0.9} | {argument: value})


@pytest.mark.parametrize("shape", [(3,), ()])
def test_a_leaf_that_is_no_matrix_is_named(shape):
    params = {"block": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(shape)}}
    with pytest.raises(ValueError, match="'block/bias' has shape"):
        scale_by_kronecker(0.9).init(params)


def test_whole_numbers_are_no_parameters():
    with pytest.raises(ValueError, match=r"scale_by_kronecker: .*'steps' has dtype"):
        scale_by_kronecker(0.9).init({"steps": jnp.ones((2, 2), jnp.int32)})
