import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimx
from tests.contract import _trees

LAYERS = 3

SHAPES = {
    "blocks": {
        "kernel": (LAYERS, 4, 3),
        "heads": (LAYERS, 4, 2, 3),
        "bias": (LAYERS, 4),
        "gain": (LAYERS,),
    },
    "embed": (5, 4),
}


def layer(tree, i):
    return jax.tree.map(lambda x: x[i], tree["blocks"])


@pytest.mark.parametrize("name", ["mars_adamw_exact", "mars_came"])
def test_a_stack_is_trained_as_its_layers_would_be(name):
    """What a scanned model's layers get is what a list of layers would get."""
    tx = optimx.per_layer(_trees.build(name), "blocks/*")
    own = _trees.build(name)
    params = _trees.draw(0, SHAPES)
    state = tx.init(params)
    singles = [own.init(layer(params, i)) for i in range(LAYERS)]
    rest = own.init({"embed": params["embed"]})
    for seed in (1, 2):
        grads = _trees.draw(seed, SHAPES)
        updates, state = tx.update(grads, state, params, **_trees.extra(name, grads))
        for i in range(LAYERS):
            one = layer(grads, i)
            expected, singles[i] = own.update(
                one, singles[i], layer(params, i), **_trees.extra(name, one)
            )
            _trees.assert_same(layer(updates, i), expected, **_trees.SINGLE)
        embed = {"embed": grads["embed"]}
        expected, rest = own.update(
            embed, rest, {"embed": params["embed"]}, **_trees.extra(name, embed)
        )
        _trees.assert_same({"embed": updates["embed"]}, expected, **_trees.SINGLE)


def test_norms_do_not_mix_layers():
    stack = jnp.stack([jnp.full((2, 2), 1.0), jnp.full((2, 2), 100.0)])
    tx = optimx.per_layer(optimx.clip_by_block_norm(2.0), "blocks")
    updates, _ = tx.update({"blocks": stack}, tx.init({"blocks": stack}))
    np.testing.assert_allclose(updates["blocks"], 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    "stacked",
    [
        "blocks/*",
        ["nothing", "*/kernel", "*/heads", "*/bias", "*/gain"],
        lambda params: {
            "blocks": jax.tree.map(lambda _: True, params["blocks"]),
            "embed": False,
        },
    ],
    ids=["pattern", "patterns", "function"],
)
def test_who_is_stacked(stacked):
    params = _trees.draw(0, SHAPES)
    state = optimx.per_layer(optimx.ema(0.9), stacked).init(params)
    parts = state.inner_states
    counts = {key: parts[key].inner_state.count.shape for key in parts}
    assert counts == {"stacked": (LAYERS,), "single": ()}


def test_two_stacks_need_two_wrappers():
    params = {"enc": jnp.ones((2, 3)), "dec": {"w": jnp.ones((4, 3))}, "b": jnp.ones(3)}
    clip = optimx.clip_by_block_norm(1.0)
    with pytest.raises(
        ValueError, match=r"per_layer: .* same number of layers"
    ) as info:
        optimx.per_layer(clip, ["enc", "dec/*"]).init(params)
    assert "'dec/w' has 4" in str(info.value)
    assert "'enc' has 2" in str(info.value)
    tx = optimx.per_layer(optimx.per_layer(clip, "enc"), "dec/*")
    updates, _ = tx.update(params, tx.init(params))
    for stack in (updates["enc"], updates["dec"]["w"]):
        np.testing.assert_allclose(jnp.linalg.norm(stack, axis=-1), 1.0, rtol=1e-6)


def test_a_scalar_stacks_no_layers():
    with pytest.raises(ValueError, match=r"per_layer: 'gain' is a scalar"):
        optimx.per_layer(optimx.ema(0.9), "gain").init({"gain": jnp.ones(())})


def test_nothing_stacked_is_the_inner_transformation():
    params = _trees.draw(0, SHAPES)
    tx, inner = optimx.per_layer(optimx.came(0.1), "absent"), optimx.came(0.1)
    updates, _ = tx.update(params, tx.init(params), params)
    expected, _ = inner.update(params, inner.init(params), params)
    _trees.assert_same(updates, expected)


def test_shapes_are_enough_for_init():
    params = _trees.draw(0, SHAPES)
    tx = optimx.per_layer(optimx.came(0.1), "blocks/*")
    _trees.assert_same(tx.init(jax.eval_shape(lambda: params)), tx.init(params))


def test_layers_of_a_scanned_module():
    """Flax stacks what it vmaps: kernels (layers, in, out) and biases (layers, out)."""
    from flax import nnx

    @nnx.vmap(in_axes=0, out_axes=0)
    def stack(key):
        return nnx.Linear(4, 4, rngs=nnx.Rngs(key))

    params = nnx.to_pure_dict(
        nnx.state(stack(jax.random.split(jax.random.key(0), LAYERS)), nnx.Param)
    )
    tx = optimx.per_layer(optimx.mars_came(0.1), "*")
    state = tx.init(params)
    updates, after = tx.update(params, state, params)
    assert _trees.avals(updates) == _trees.avals(params)
    assert _trees.avals(after) == _trees.avals(state)
    row = state.inner_states["stacked"].inner_state["scale"].row
    assert row["kernel"].shape == (LAYERS, 4)


def test_something_else_than_a_transformation_is_refused():
    with pytest.raises(TypeError, match=r"per_layer: inner must be .*missing its"):
        optimx.per_layer(optax.adam, "blocks/*")
