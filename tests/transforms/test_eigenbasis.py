import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimx
from tests.transforms import _matrices
from tests.transforms._matrices import at, changed, draw, follow

RMS = optimx.scale_by_rms(0.9, eps=1e-8)

# A few products of float32 numbers, each rounded by 6e-8.
SINGLE = 1e-5


@functools.cache
def in_eigenbasis(inner=RMS, decay=0.9, **hyper):
    return optimx.in_eigenbasis(inner, decay=decay, **hyper)


def strays(basis):
    """How far the columns of bases are from orthonormal."""
    basis = np.asarray(basis)
    gram = np.swapaxes(basis, -1, -2) @ basis
    return np.max(np.abs(gram - np.eye(basis.shape[-1])))


@pytest.mark.parametrize(
    "inner",
    [
        RMS,
        optax.scale_by_rms(0.9),
        optax.scale_by_sign(),
        optax.chain(optax.scale_by_rms(0.9), optax.clip(0.5)),
    ],
    ids=["ours", "optax", "stateless", "chain"],
)
def test_any_diagonal_rule_runs_between_two_rotations(inner):
    gradients = draw(0, 4, 3, 5, 4)
    updates, states = follow(
        in_eigenbasis(inner, update_every=5, spread=False), gradients
    )
    for t in (2, 3):
        before, after = states[t : t + 2]
        for i in range(3):
            left, right = before.left_basis[i], before.right_basis[i]
            rotated = left.T @ np.asarray(gradients[t, i]) @ right
            out, own = jax.device_get(
                inner.update(jnp.asarray(rotated), at(before.inner, i))
            )
            np.testing.assert_allclose(
                updates[t][i], left @ out @ right.T, atol=SINGLE * np.max(np.abs(out))
            )
            jax.tree.map(
                lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=SINGLE),
                at(after.inner, i),
                own,
            )


def test_what_is_known_of_a_direction_follows_it():
    """The gradients are diagonal and the order of their sizes turns round.

    Every basis is then an order of the axes, and Adam in any of them is Adam; one
    that does not take its second moments along is off by the ratio of the sizes.
    """
    rng = np.random.default_rng(1)
    sizes = np.repeat([[30, 10, 3, 1], [1, 3, 10, 30], [3, 30, 1, 10]], 8, axis=0)
    entries = sizes * rng.uniform(0.5, 1.5, size=sizes.shape)
    gradients = jnp.asarray(entries[:, None, :] * np.eye(4), jnp.float32)
    tx = in_eigenbasis(decay=0.5, update_every=2, spread=False)
    updates, states = follow(tx, gradients)
    adam, _ = follow(RMS, gradients)
    np.testing.assert_array_equal(updates[0], 0)
    np.testing.assert_allclose(np.stack(updates), [0 * adam[0], *adam[1:]], atol=SINGLE)
    orders = {tuple(np.argmax(np.abs(s.left_basis[0]), axis=0)) for s in states[1:]}
    assert {(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)} <= orders


@pytest.mark.parametrize("shape", [(5, 5), (6, 3)])
@pytest.mark.parametrize("rank", [1, None])
def test_bases_stay_orthonormal(shape, rank):
    """Also where factors have no more than one direction."""
    gradients = draw(2, 12, 3, *shape)
    if rank:
        gradients = jnp.broadcast_to(gradients[:1, :, :1], gradients.shape)
    tx = in_eigenbasis(update_every=2, max_aspect=math.inf)
    updates, states = follow(tx, gradients)
    assert np.all(np.isfinite(np.stack(updates)))
    for state in states:
        assert strays(state.left_basis) < SINGLE
        assert strays(state.right_basis) < SINGLE


@pytest.mark.parametrize("spread", [True, False])
def test_each_basis_has_its_turn_once_a_cycle(spread):
    gradients = {"a": draw(3, 8, 7, 4, 3), "b": draw(4, 8, 2, 5, 5)}
    updates, states = follow(in_eigenbasis(update_every=4, spread=spread), gradients)
    refreshed = []
    for t in range(8):
        before, after = states[t : t + 2]
        for name in gradients:
            turn = np.asarray(after.turn[name])
            for side in ("left_basis", "right_basis"):
                which = changed(getattr(before, side)[name], getattr(after, side)[name])
                np.testing.assert_array_equal(which, turn == t % 4)
            refreshed.append(np.sum(turn == t % 4))
            # A matrix stands still until the step after its first turn, in which what
            # is inside sees something for the first time.
            began = t > turn
            np.testing.assert_array_equal(changed(updates[t][name], 0), began)
            seen = np.maximum(t - turn + 1, 0)
            np.testing.assert_array_equal(after.inner.count[name], seen)
    assert sum(refreshed) == 2 * (7 + 2)
    work = np.reshape(refreshed, (8, 2)).sum(axis=1)
    # Every step has its share, or the first of a cycle has all.
    assert work.min() > 0 if spread else list(work) == [9, 0, 0, 0] * 2


@pytest.mark.parametrize(
    ("shape", "limits", "rows", "columns"),
    [
        ((8, 4), {"max_aspect": 2.5}, True, True),
        ((8, 4), {"max_aspect": 2}, False, True),
        ((4, 8), {"max_aspect": 2}, True, False),
        ((100, 1), {"max_aspect": math.inf}, True, True),
        ((8, 4), {"max_dim": 7}, False, True),
        ((4, 8), {"max_dim": 7}, True, False),
        ((8, 4), {"max_dim": 3}, False, False),
    ],
)
def test_sides_that_are_not_turned_keep_nothing(shape, limits, rows, columns):
    state = in_eigenbasis(**limits).init(jnp.ones((2, *shape)))
    for side, turned, size in (
        ("left", rows, shape[0]),
        ("right", columns, shape[1]),
    ):
        for part in (getattr(state, side), getattr(state, f"{side}_basis")):
            if turned:
                assert part.shape == (2, size, size)
            else:
                assert isinstance(part, optax.MaskedNode)


@pytest.mark.parametrize("kind", ["nan", "infinity", "overflow"])
def test_a_signal_that_is_not_finite_changes_nothing(kind):
    gradients = np.array(draw(6, 9, 3, 4, 3))
    gradients[5, 1] = _matrices.bad(kind, (4, 3))
    tx = in_eigenbasis(update_every=4)
    updates, states = follow(tx, jnp.asarray(gradients))
    before, after = states[5:7]
    np.testing.assert_array_equal(after.skipped, [0, 1, 0])
    for part in ("left", "right"):
        which = changed(getattr(before, part), getattr(after, part))
        np.testing.assert_array_equal(which, [True, False, True])
    np.testing.assert_array_equal(after.inner.count - before.inner.count, [1, 0, 1])
    # The matrix whose turn it is has a basis made of what its factor knew before.
    assert after.turn[1] == 5 % 4
    assert strays(after.left_basis) < SINGLE
    # What came in is what goes out: the next step is another one.
    assert all(np.all(np.isfinite(updates[t])) for t in range(9) if t != 5)
    assert np.all(np.any(updates[6], axis=(1, 2)))
    np.testing.assert_array_equal(states[-1].skipped, after.skipped)
    for leaf in jax.tree.leaves(states[-1]):
        assert np.all(np.isfinite(leaf))


def test_a_basis_is_kept_while_signals_are_not_finite():
    """Neither basis nor second moments move where it is nobody's turn."""
    gradients = np.array(draw(7, 6, 3, 4, 3))
    gradients[2:4] = np.nan
    tx = in_eigenbasis(update_every=5, spread=False)
    updates, states = follow(tx, jnp.asarray(gradients))
    for part in ("left", "right", "left_basis", "right_basis", "inner"):
        _matrices.same(getattr(states[4], part), getattr(states[2], part))
    np.testing.assert_array_equal(states[4].skipped, 2)
    assert np.all(np.isfinite(updates[4]))
    assert np.any(updates[4])


def test_a_first_signal_that_is_not_finite():
    gradients = np.array(draw(8, 6, 4, 3))
    gradients[0] = np.nan
    tx = in_eigenbasis(update_every=2, spread=False)
    updates, states = follow(tx, jnp.asarray(gradients))
    assert np.all(np.isfinite(np.stack(updates[1:])))
    assert np.any(updates[1])
    assert strays(states[-1].left_basis) < SINGLE
    np.testing.assert_array_equal(states[-1].skipped, 1)


@pytest.mark.parametrize("spread", [True, False])
def test_no_branch_in_the_program(spread):
    tree = {"w": jnp.ones((3, 4, 5)), "v": jnp.ones((2, 2))}
    assert _matrices.has_no_branch(in_eigenbasis(spread=spread), tree)


def test_a_stack_is_its_matrices():
    gradients = draw(9, 6, 3, 4, 4, 3)
    tx = in_eigenbasis(update_every=4)
    stacked, _ = follow(tx, gradients)
    layers = gradients.reshape(6, 12, 4, 3)
    apart, states = follow(tx, {f"layer{i:02}": layers[:, i] for i in range(12)})
    for ours, theirs in zip(stacked, apart, strict=True):
        np.testing.assert_array_equal(
            ours.reshape(12, 4, 3), np.stack(list(theirs.values()))
        )
    assert np.any(stacked[-1])
    assert states[0].left_basis["layer00"].shape == (12, 4, 4)


def test_statistics_are_those_of_the_observed_signal():
    updates, observed = draw(10, 4, 4, 3), np.asarray(draw(11, 4, 4, 3))
    tx = in_eigenbasis(update_every=4, spread=False)
    moved, states = follow(tx, updates, observed=observed)
    factor = sum(0.1 * 0.9 ** (3 - t) * g @ g.T for t, g in enumerate(observed))
    np.testing.assert_allclose(states[-1].left[0], factor, atol=SINGLE)
    left, right = states[-1].left_basis[0], states[-1].right_basis[0]
    squares = (left.T @ observed @ right) ** 2
    # In place of the first, Adam saw Adafactor's estimate where that is larger.
    rows, columns = squares[0].sum(axis=1), squares[0].sum(axis=0)
    squares[0] = np.maximum(squares[0], np.outer(rows, columns) / rows.sum())
    second = sum(0.1 * 0.9 ** (3 - t) * squares[t] for t in range(4))
    rotated = left.T @ updates[3] @ right / np.sqrt(second / (1 - 0.9**4))
    np.testing.assert_allclose(moved[3], left @ rotated @ right.T, rtol=1e-3)


@pytest.mark.parametrize(
    ("shape", "limits"),
    [((48, 48), {}), ((32, 64), {}), ((64, 16), {"max_aspect": 4})],
    ids=["square", "oblong", "one side"],
)
@pytest.mark.parametrize("spread", [True, False])
def test_a_memory_does_not_meet_a_second_moment_of_one_gradient(shape, limits, spread):
    """First steps are as long as later ones, and no number is far off.

    By one gradient's square alone they would be ten to a hundred times as long: the
    quotient of two normal numbers has no variance.
    """
    soap = optimx.precondition(
        optimx.ema(0.95),
        by=in_eigenbasis(optimx.scale_by_rms(0.95), 0.95, spread=spread, **limits),
    )
    updates, _ = follow(soap, 0.1 + draw(13, 14, 12, *shape))
    moved = np.stack(updates)
    began = np.any(moved, axis=(2, 3))
    assert np.all(began[-1])
    assert np.max(np.abs(moved)) < 4
    first = moved[np.argmax(began, axis=0), np.arange(12)]
    assert np.sqrt(np.mean(first**2)) < 1


def test_half_precision_outside_and_single_inside():
    gradients = draw(12, 4, 4, 3).astype(jnp.bfloat16)
    tx = in_eigenbasis(update_every=2)
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
    updates, states = follow(in_eigenbasis(update_every=1), jnp.zeros((3, 4, 3)))
    np.testing.assert_array_equal(np.stack(updates), 0)
    assert strays(states[-1].left_basis) == 0


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("decay", 1.0),
        ("decay", -0.1),
        ("update_every", 0),
        ("update_every", 2.5),
        ("max_dim", 0),
        ("max_aspect", 1),
        ("max_aspect", math.nan),
    ],
)
def test_numbers_out_of_range_are_refused(argument, value):
    with pytest.raises(ValueError, match=rf"in_eigenbasis: {argument} must be"):
        in_eigenbasis(**{argument: value})


@pytest.mark.parametrize("inner", [optimx.scale_by_rms, None, 0.9])
def test_something_else_than_a_transformation_is_refused(inner):
    with pytest.raises(TypeError, match="in_eigenbasis: inner must be"):
        in_eigenbasis(inner)


@pytest.mark.parametrize("shape", [(3,), ()])
def test_a_leaf_that_is_no_matrix_is_named(shape):
    params = {"block": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(shape)}}
    with pytest.raises(ValueError, match="'block/bias' has shape"):
        in_eigenbasis().init(params)


def test_whole_numbers_are_no_parameters():
    with pytest.raises(ValueError, match=r"in_eigenbasis: .*'steps' has dtype"):
        in_eigenbasis().init({"steps": jnp.ones((2, 2), jnp.int32)})
