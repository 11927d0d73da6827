"""Codes of one array: what they hold, how they round, and what they refuse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimx import codecs
from optimx.linalg.dither import bits_like, stream, unit

EACH = pytest.mark.parametrize("name", codecs.NAMED)
SCALED = pytest.mark.parametrize("name", ["int8", "float8"])
KINDS = pytest.mark.parametrize("kind", [codecs.SIGNED, codecs.POSITIVE])

# Half the gap between codes, in parts of the number, for numbers of at least a tenth
# of their block's largest (of its root, for positive ones).
HALF_GAP = {"int8": 1 / 38, "float8": 1 / 15, "bfloat16": 1 / 256}


def numbers(kind, shape=(8, 1024), seed=0):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return jnp.asarray(x * x if kind == codecs.POSITIVE else x)


def draws(x, step, seed=0):
    return _draws(x, step, seed)


@functools.partial(jax.jit, static_argnums=2)
def _draws(x, step, seed):
    return bits_like(x, stream(seed, jnp.asarray(step, jnp.int32), 0))


def through(codec, x, kind, bits=None):
    """There and back."""
    return jax.jit(lambda x, b: codec.decode(codec.encode(x, kind, b), kind))(x, bits)


@EACH
@KINDS
def test_nearest_is_within_half_a_gap(name, kind):
    codec = codecs.NAMED[name](rounding="nearest")
    x = numbers(kind)
    back = through(codec, x, kind)
    peak = jnp.max(jnp.abs(x.reshape(8, 4, 256)), -1).repeat(256, -1)
    large = np.abs(x) >= (0.01 if kind == codecs.POSITIVE else 0.1) * peak
    off = np.abs(back - x)[large] / np.abs(x)[large]
    # A second moment's root is half as far off as the moment itself.
    assert off.max() <= HALF_GAP[name] * (2.6 if kind == codecs.POSITIVE else 1.05)
    assert np.all(np.sign(back) * np.sign(x) >= 0)


@SCALED
@KINDS
def test_codes_are_fixed_points(name, kind):
    """What was decoded is coded as it was, also with dice: nothing wanders."""
    codec = codecs.NAMED[name]()
    x = numbers(kind)
    once = codec.encode(x, kind, draws(x, 0))
    back = codec.decode(once, kind)
    again = codec.encode(back, kind, draws(x, 1))
    np.testing.assert_array_equal(again.scales, once.scales)
    # The last bit of a root moves a code now and then.
    before, after = (np.asarray(c.codes, np.float32) for c in (once, again))
    assert np.mean(before != after) < 1e-3


@EACH
@KINDS
def test_dice_are_right_on_average(name, kind):
    codec = codecs.NAMED[name]()
    x = numbers(kind, (1, 256)) + (0.01 if kind == codecs.POSITIVE else 0.0)
    rounds = 1000

    def once(step):
        return codec.decode(codec.encode(x, kind, draws(x, step)), kind)

    back = jax.jit(jax.vmap(once))(jnp.arange(rounds))
    spread = np.asarray(jnp.std(back, 0))
    error = np.abs(np.asarray(jnp.mean(back, 0)) - x)
    # Five standard errors, and what a thousand draws may never draw: a hundredth of
    # the gap between codes, which is a hundredth of the number.
    assert np.all(error <= 5 * spread / np.sqrt(rounds) + 1e-4 * np.abs(x))
    assert np.mean(spread > 0) > 0.9


@EACH
def test_positive_numbers_never_become_zero(name):
    codec = codecs.NAMED[name]()
    v = jnp.array([[1.0, 1e-12, 1e-20, 0.0]])
    for step in range(8):
        back = through(codec, v, "positive", draws(v, step))
        assert np.all(np.asarray(back)[0, :3] > 0)
        assert back[0, 3] == 0
        assert back[0, 0] == 1


@SCALED
def test_blocks_have_scales_of_their_own(name):
    codec = codecs.NAMED[name](block=4, rounding="nearest")
    x = jnp.array([[1.0, 1, 1, 1, 1e-6, -1e-6, 1e-6, 0, 3e4, 0]])
    coded = codec.encode(x, "signed", None)
    assert coded.codes.shape == (1, 10)
    np.testing.assert_allclose(coded.scales, [[1, 1e-6, 3e4]], rtol=1e-6)
    np.testing.assert_allclose(codec.decode(coded, "signed"), x, rtol=1e-6)


@SCALED
@pytest.mark.parametrize("shape", [(3,), (300,), (2, 257), (2, 3, 512), (1, 1)])
def test_codes_keep_the_shape_and_scales_its_leading_axes(name, shape):
    coded = codecs.NAMED[name]().encode(jnp.ones(shape), "signed", None)
    assert coded.codes.shape == shape
    assert coded.codes.dtype.itemsize == 1
    assert coded.scales.shape == (*shape[:-1], -(-shape[-1] // 256))
    assert coded.scales.dtype == jnp.float32


@EACH
@KINDS
def test_extremes_stay_finite_and_nan_shows(name, kind):
    codec = codecs.NAMED[name]()
    x = jnp.array([[3e38, 1.0, 0.0, 1e-38]])
    back = through(codec, x, kind, draws(x, 0))
    assert np.all(np.isfinite(back))
    zero = jnp.zeros((1, 4))
    assert not np.any(through(codec, zero, kind, draws(x, 0)))
    bad = through(codec, x.at[0, 1].set(jnp.nan), kind, draws(x, 0))
    assert np.isnan(bad[0, 1])


@SCALED
def test_infinity_becomes_a_large_number(name):
    codec = codecs.NAMED[name]()
    x = jnp.array([[jnp.inf, -jnp.inf, 1.0]])
    back = codec.decode(codec.encode(x, "signed", None), "signed")
    assert np.all(np.isfinite(back))
    assert back[0, 0] > 1e37
    assert back[0, 1] < -1e37


@pytest.mark.parametrize("make", [codecs.int8_blockwise, codecs.float8_e4m3])
@pytest.mark.parametrize("block", [0, -1, 2.5, None])
def test_a_block_has_at_least_one_number(make, block):
    with pytest.raises(ValueError, match=rf"{make.__name__}: block must be .*>= 1"):
        make(block)


@EACH
def test_rounding_is_one_of_two(name):
    with pytest.raises(ValueError, match="rounding must be 'stochastic' or 'nearest'"):
        codecs.NAMED[name](rounding="up")


# The dice


def correlation(a, b):
    return abs(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


def test_draws_are_even_and_independent():
    x = jnp.zeros((512, 512))
    u = np.asarray(unit(draws(x, 3)))
    n, limit = u.size, 5 / np.sqrt(u.size)
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < limit
    counts = np.bincount((u * 256).astype(int).ravel(), minlength=256)
    # Chi squared of 255 degrees: 255 plus or minus 23; five of those.
    assert abs(np.sum((counts - n / 256) ** 2) / (n / 256) - 255) < 5 * 23
    # Every bit is set half the time.
    bits = np.asarray(draws(x, 3))
    for bit in range(32):
        assert abs(np.mean((bits >> bit) & 1) - 0.5) < limit
    assert correlation(u[:, 1:], u[:, :-1]) < limit
    assert correlation(u[1:], u[:-1]) < limit
    assert correlation(u, np.asarray(unit(draws(x, 4)))) < limit
    assert correlation(u, np.asarray(unit(draws(x, 3, seed=1)))) < limit
    other = unit(bits_like(x, stream(0, jnp.int32(3), 1)))
    assert correlation(u, np.asarray(other)) < limit


def test_draws_of_one_number_over_steps_are_independent():
    x = jnp.zeros((4, 4))
    u = jax.jit(jax.vmap(lambda step: unit(draws(x, step))))(jnp.arange(10_000))
    limit = 5 / np.sqrt(len(u))
    assert np.all(np.abs(np.mean(u, 0) - 0.5) < limit)
    for lag in (1, 2, 7):
        assert correlation(u[lag:, 0, 0], u[:-lag, 0, 0]) < limit
