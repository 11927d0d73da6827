import jax
import jax.numpy as jnp
import optax
import pytest

import optimx
from optimx.training.planning.traffic import bytes_moved

X = jax.ShapeDtypeStruct((64, 96), jnp.float32)
LAYERS = jax.ShapeDtypeStruct((5, 64, 64), jnp.float32)
SIZE = 4 * 64 * 64


def compiled(function, *shapes):
    return jax.jit(function).lower(*shapes).compile()


def mars(grads, params):
    tx = optimx.mars_adamw(1e-3)
    return tx.update(grads, tx.init(params), params)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: x + 2 * y,
        lambda x, y: jnp.sin(x @ y.T) + 1,
        lambda x, y: optax.tree.norm((x, y)),
        mars,
    ],
)
def test_without_loops_it_is_the_compilers_own_estimate(function):
    program = compiled(function, X, X)
    known = program.cost_analysis()["bytes accessed"]
    assert bytes_moved(program.as_text()) == pytest.approx(known, rel=0.01)


def test_a_loop_counts_as_often_as_it_goes_round():
    def scanned(x, layers):
        return jax.lax.scan(lambda h, k: (jnp.tanh(h @ k), None), x, layers)[0]

    def unrolled(x, layers):
        for k in layers:
            x = jnp.tanh(x @ k)
        return x

    x = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    looped, flat = (
        bytes_moved(compiled(function, x, LAYERS).as_text())
        for function in (scanned, unrolled)
    )
    # What the loop carries may be copied once a round.
    assert flat <= looped <= 1.4 * flat
    assert looped < compiled(scanned, x, LAYERS).cost_analysis()["bytes accessed"] * 5.5


def test_of_a_stack_only_the_slice_counts_that_is_replaced():
    def replace(layers, x):
        return jax.lax.dynamic_update_index_in_dim(layers, jnp.sin(x), 3, axis=0)

    x = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    program = jax.jit(replace, donate_argnums=0).lower(LAYERS, x).compile()
    assert bytes_moved(program.as_text()) == pytest.approx(2 * SIZE, rel=0.01)


def test_what_stays_on_the_chip_counts_nothing():
    text = """\
HloModule step

ENTRY %main (x: f32[64]) -> f32[64] {
  %x = f32[64]{0} parameter(0)
  %near = f32[64]{0:S(1)} negate(%x)
  ROOT %out = f32[64]{0} negate(%near)
}
"""
    assert bytes_moved(text) == 4 * 64 * 2
