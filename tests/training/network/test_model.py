import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.gpt2 import gpt2

from optimx.training.network import model
from optimx.training.resolve import resolve_model
from optimx.training.sections import PRESETS, Model

SMALL = resolve_model(Model(layers=3, heads=2, width=16, context=12, vocab=300))


forward = jax.jit(model.apply, static_argnums=0, static_argnames="dtype")
extend = jax.jit(model.extend, static_argnums=0)


def jittered(config):
    """Parameters that are all different, biases and scales too: mix-ups show."""
    leaves, tree = jax.tree.flatten(model.init(config, 0))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    jittered = [
        leaf + 0.1 * jax.random.normal(key, leaf.shape)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return tree.unflatten(jittered)


@pytest.mark.parametrize("bias", [True, False])
def test_forward_pass_equals_the_oracle(bias):
    config = dataclasses.replace(SMALL, bias=bias)
    params = jittered(config)
    tokens = np.random.default_rng(0).integers(0, config.vocab, (2, config.context))
    logits = forward(config, params, jnp.asarray(tokens))
    double = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    expected = [gpt2(double, row, heads=config.heads) for row in tokens]
    # float32 against float64, logits of size one.
    np.testing.assert_allclose(logits, np.stack(expected), atol=1e-5)


def test_a_token_sees_only_those_before_it():
    params = jittered(SMALL)
    tokens = np.random.default_rng(0).integers(0, SMALL.vocab, (1, SMALL.context))
    changed = tokens.copy()
    changed[0, 7] = (changed[0, 7] + 1) % SMALL.vocab
    before, after = (
        np.asarray(forward(SMALL, params, jnp.asarray(t))[0]) for t in (tokens, changed)
    )
    np.testing.assert_array_equal(before[:7], after[:7])
    assert all(np.abs(before[i] - after[i]).max() > 1e-4 for i in range(7, 12))


@pytest.mark.parametrize("parts", [[12], [1] * 12, [5, 1, 1, 3, 2]])
def test_logits_with_a_cache_are_those_of_the_whole(parts):
    params = jittered(SMALL)
    tokens = np.random.default_rng(0).integers(0, SMALL.vocab, (2, SMALL.context))
    expected = forward(SMALL, params, jnp.asarray(tokens))
    cache, found = model.empty_cache(SMALL, 2), []
    for part in np.split(tokens, np.cumsum(parts)[:-1], axis=1):
        logits, cache = extend(SMALL, params, jnp.asarray(part), cache)
        found.append(logits)
    assert int(cache.filled) == 12
    # float32 sums in another order, logits of size one.
    np.testing.assert_allclose(np.concatenate(found, 1), expected, atol=1e-5)


def test_a_cache_forgets_what_is_not_counted():
    """Padding of a prompt is written over and never seen."""
    params = jittered(SMALL)
    tokens = np.random.default_rng(0).integers(0, SMALL.vocab, (1, SMALL.context))
    expected = forward(SMALL, params, jnp.asarray(tokens))
    padded = np.where(np.arange(12) < 7, tokens, 0)
    _, cache = extend(SMALL, params, jnp.asarray(padded), model.empty_cache(SMALL, 1))
    cache = cache._replace(filled=jnp.int32(7))
    for i in range(7, 12):
        new = jnp.asarray(tokens[:, i : i + 1])
        logits, cache = extend(SMALL, params, new, cache)
        np.testing.assert_allclose(logits[0, 0], expected[0, i], atol=1e-5)


def test_parameters_are_a_plain_tree_of_float32():
    params = model.init(SMALL, 0)
    kinds = {type(node) for node in (params, params["h_0"], params["h_0"]["mlp"])}
    assert kinds == {dict}
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    shapes = jax.tree.map(lambda p: (p.shape, p.dtype), params)
    assert shapes == jax.tree.map(
        lambda p: (p.shape, p.dtype), model.parameter_shapes(SMALL)
    )


def test_initial_parameters_are_those_of_gpt2():
    config = resolve_model(Model(preset="tiny"))
    params = model.init(config, 0)
    block = params["h_1"]
    small = 0.02 / np.sqrt(2 * config.layers)
    for leaf, stddev in (
        (params["wte"]["embedding"], 0.02),
        (params["wpe"]["embedding"], 0.02),
        (block["attention"]["qkv"]["kernel"], 0.02),
        (block["mlp"]["up"]["kernel"], 0.02),
        (block["attention"]["out"]["kernel"], small),
        (block["mlp"]["down"]["kernel"], small),
    ):
        # At least 16384 draws: the sample's deviation is within 2 % of the truth.
        np.testing.assert_allclose(jnp.std(leaf), stddev, rtol=0.03)
    np.testing.assert_array_equal(block["mlp"]["up"]["bias"], 0)
    np.testing.assert_array_equal(block["ln_1"]["scale"], 1)


def test_the_seed_decides_the_initial_parameters():
    one, same, other = (
        model.init(SMALL, seed)["wte"]["embedding"] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert jnp.abs(one - other).max() > 0.01


def test_presets_have_the_published_sizes():
    counts = {
        name: model.parameter_count(resolve_model(Model(preset=name)))
        for name in PRESETS
    }
    assert counts == {
        "tiny": 937_472,
        "small": 124_439_808,
        "medium": 354_823_168,
        "large": 774_030_080,
        "xl": 1_557_611_200,
    }


def test_half_precision_keeps_float32_logits_near_the_full_ones():
    params = jittered(SMALL)
    tokens = jnp.arange(SMALL.context)[None]
    full = forward(SMALL, params, tokens)
    half = forward(SMALL, params, tokens, dtype=jnp.bfloat16)
    assert half.dtype == jnp.float32
    # bfloat16 keeps 8 bits: about 1 % after three layers, and not nothing.
    error = jnp.abs(half - full).max() / jnp.abs(full).max()
    assert 1e-5 < error < 0.05
