"""Optimizers of matrices on the kernels of Flax modules, as Flax keeps them."""

import functools
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import optimx

STEPS = 4

# SOAP's first basis of the longer side of a matrix is not unique, and two programs
# may round to different ones: an aspect of 1.2 turns both sides of square matrices
# and the shorter one of the others.
BUILDERS = {
    "muon": lambda **more: optimx.muon(0.1, weight_decay=0.1, **more),
    "soap": lambda **more: optimx.soap(
        0.1, weight_decay=0.1, update_every=2, max_aspect=1.2, **more
    ),
}

each = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)


def gradients_of(model, loss, batches):
    """The parameters as plain dicts, and the loss's gradients for each batch."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def of_batch(params, batch):
        return loss(nnx.merge(graph, params, rest), batch)

    # Flax's own arithmetic promotes as NumPy does.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        grads = jax.jit(jax.vmap(jax.grad(of_batch), (None, 0)))(params, batches)
    return jax.device_get((nnx.to_pure_dict(params), nnx.to_pure_dict(grads)))


def cubes(model, x):
    return jnp.mean(model(x) ** 3)


def normal(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def outputs(tx, params, gradients):
    """The updates of all steps, leaves (steps, ...); the parameters stay put."""

    @jax.jit
    def run(params, gradients):
        def step(state, gradient):
            updates, state = tx.update(gradient, state, params)
            return state, updates

        return jax.lax.scan(step, tx.init(params), gradients)[1]

    return jax.tree.map(np.asarray, run(params, gradients))


def same(ours, theirs):
    """The same arithmetic on the same matrices, but compiled in another program."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)

    def of_leaf(path, a, b):
        assert np.any(b), path
        # Bases amplify rounding, 6e-8, by the condition of gradients, hundreds.
        np.testing.assert_allclose(a, b, atol=1e-4 * np.max(np.abs(b)))

    jax.tree_util.tree_map_with_path(of_leaf, ours, theirs)


# Attention and convolution


@functools.cache
def modules():
    """Attention, and a convolution twice, to be seen in two ways."""
    attention = nnx.MultiHeadAttention(
        num_heads=2, in_features=6, decode=False, rngs=nnx.Rngs(0)
    )
    convolution = nnx.Conv(3, 5, (2, 2), rngs=nnx.Rngs(0))
    attention = gradients_of(attention, cubes, normal(STEPS, 3, 5, 6))
    convolution = gradients_of(convolution, cubes, normal(STEPS, 2, 6, 6, 3))
    return [
        {"attention": x, "whole": y, "taps": y}
        for x, y in zip(attention, convolution, strict=True)
    ]


# A patch and its channels to channels as one matrix, or one from channels for each
# tap; from width to heads, and from heads to width.
AXES = {
    "whole/kernel": ((0, 1, 2), (3,)),
    "taps/kernel": ((2,), (3,)),
    "attention/out/kernel": ((0, 1), (2,)),
    "attention/*/kernel": ((0,), (1, 2)),
}


# How many axes a kernel has, and the shape of what it is.
MERGED = {"whole": (4, (12, 5)), "taps": (4, (4, 3, 5)), "attention": (3, (6, 6))}


def flat(tree):
    """The kernels as the matrices that they are; steps may lead."""

    def merged(path, x):
        if path[-1].key != "kernel":
            return x
        rank, shape = MERGED[path[0].key]
        return x.reshape(*x.shape[: x.ndim - rank], *shape)

    return jax.tree_util.tree_map_with_path(merged, tree)


@each
def test_kernels_of_attention_and_convolution_are_matrices(build):
    params, gradients = modules()
    assert params["attention"]["query"]["kernel"].shape == (6, 2, 3)
    assert params["attention"]["out"]["kernel"].shape == (2, 3, 6)
    assert params["whole"]["kernel"].shape == (2, 2, 3, 5)
    ours = outputs(optimx.as_matrices(build(), AXES), params, gradients)
    theirs = outputs(build(), flat(params), flat(gradients))
    same(flat(ours), theirs)


# Stacks of scanned layers

LAYERS = 3


class Block(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.up = nnx.Linear(4, 6, rngs=rngs)
        self.down = nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, x):
        return x + self.down(nnx.gelu(self.up(self.norm(x))))


@nnx.split_rngs(splits=LAYERS)
@nnx.vmap(in_axes=(0,), out_axes=0)
def stack_of_blocks(rngs):
    return Block(rngs)


class Scanned(nnx.Module):
    """An embedding, blocks whose kernels are (layers, in, out), and a head."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(7, 4, rngs=rngs)
        self.blocks = stack_of_blocks(rngs)
        self.head = nnx.Linear(4, 7, rngs=rngs)

    def __call__(self, tokens):
        graph, layers = nnx.split(self.blocks)

        def layer(x, weights):
            return nnx.merge(graph, weights)(x), None

        x, _ = jax.lax.scan(layer, self.embed(tokens), layers)
        return self.head(x)


def cross_entropy(model, tokens):
    logits = jax.nn.log_softmax(model(tokens[:, :-1]))
    return -jnp.mean(jnp.take_along_axis(logits, tokens[:, 1:, None], axis=-1))


@functools.cache
def scanned():
    tokens = np.random.default_rng(0).integers(7, size=(STEPS, 4, 9))
    return gradients_of(Scanned(nnx.Rngs(0)), cross_entropy, jnp.asarray(tokens))


def apart(tree, axis):
    """The layers of a stack as blocks 0, 1, 2."""
    return tree | {
        "blocks": {
            i: jax.tree.map(lambda x, i=i: np.take(x, i, axis=axis), tree["blocks"])
            for i in range(LAYERS)
        }
    }


def test_biases_of_heads_are_no_matrices():
    labels = optimx.hidden_matrices(modules()[0])["attention"]
    assert labels["query"] == labels["out"] == {"bias": "other", "kernel": "matrix"}


def test_matrices_of_a_scanned_model_are_its_hidden_kernels():
    params, _ = scanned()
    assert optimx.describe_labels(params, optimx.hidden_matrices) == textwrap.dedent(
        """\
        other   (3, 4)     blocks/down/bias
        matrix  (3, 6, 4)  blocks/down/kernel
        other   (3, 4)     blocks/norm/bias
        other   (3, 4)     blocks/norm/scale
        other   (3, 6)     blocks/up/bias
        matrix  (3, 4, 6)  blocks/up/kernel
        other   (7, 4)     embed/embedding
        other   (7,)       head/bias
        other   (4, 7)     head/kernel"""
    )


@each
def test_a_scanned_stack_is_its_layers(build):
    params, gradients = scanned()
    ours = outputs(build(), params, gradients)
    theirs = outputs(build(), apart(params, 0), apart(gradients, 1))
    same(apart(ours, 1), theirs)


@pytest.mark.parametrize("name", BUILDERS)
def test_layers_one_by_one(name):
    """Inside `per_layer` a stack is seen a layer at a time: the same again.

    Turns are dealt out within what is seen, so SOAP's must be all at once.
    """
    build = BUILDERS[name]
    tx = build(spread=False) if name == "soap" else build()
    params, gradients = scanned()
    ours = outputs(optimx.per_layer(tx, "blocks*"), params, gradients)
    same(ours, outputs(tx, params, gradients))
