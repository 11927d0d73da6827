import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from optimx.training import sections
from optimx.training.network import loss
from optimx.training.parallel.mesh import make_mesh

B, L, D, V = 8, 12, 6, 40


def draw(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return (
        jnp.asarray(rng.normal(size=(B, L, D)), dtype),
        jnp.asarray(rng.normal(size=(V, D)), jnp.float32),
        jnp.asarray(rng.integers(0, V, (B, L)), jnp.int32),
    )


def by_hand(x, wte, targets):
    """With all logits at once."""
    logits = jnp.einsum("bld,vd->blv", x.astype(jnp.float32), wte)
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def both(function):
    return jax.jit(jax.value_and_grad(function, argnums=(0, 1)))


@pytest.mark.parametrize("pieces", [1, 3, 12])
def test_pieces_change_nothing(monkeypatch, pieces):
    monkeypatch.setattr(loss, "_LOGITS_BYTES", 4 * B * L * V // pieces)
    expected, gradients = both(by_hand)(*draw())
    found, ours = both(loss.mean_cross_entropy)(*draw())
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(
        jax.jit(loss.mean_cross_entropy)(*draw()), expected, rtol=1e-6
    )
    for mine, theirs in zip(ours, gradients, strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_allclose(mine, theirs, atol=1e-7)


def test_the_whole_of_the_logits_is_never_there(monkeypatch):
    temporary = {}
    for pieces in (1, 12):
        monkeypatch.setattr(loss, "_LOGITS_BYTES", 4 * 64 * 96 * 4096 // pieces)
        shapes = (
            jax.ShapeDtypeStruct((64, 96, 16), jnp.float32),
            jax.ShapeDtypeStruct((4096, 16), jnp.float32),
            jax.ShapeDtypeStruct((64, 96), jnp.int32),
        )
        compiled = both(loss.mean_cross_entropy).lower(*shapes).compile()
        temporary[pieces] = compiled.memory_analysis().temp_size_in_bytes
        jax.clear_caches()
    whole = 4 * 64 * 96 * 4096
    assert temporary[1] > whole
    # The logits of a piece, what becomes of them, and the gradients.
    assert temporary[12] < 0.4 * whole


@pytest.mark.parametrize("pieces", [1, 4])
@pytest.mark.parametrize(
    "axes",
    [{"data": 8}, {"data": 2, "tensor": 4}, {"data": 2, "fsdp": 2, "tensor": 2}],
    ids=str,
)
def test_a_mesh_changes_nothing(monkeypatch, axes, pieces):
    mesh = make_mesh(sections.Mesh(**({"data": 1} | axes)), jax.local_devices())
    expected, gradients = both(by_hand)(*draw())
    share = B // (mesh.shape["data"] * mesh.shape["fsdp"])
    size = 4 * share * L * V // mesh.shape["tensor"]
    monkeypatch.setattr(loss, "_LOGITS_BYTES", size // pieces)
    specs = P(("data", "fsdp")), P("tensor", "fsdp"), P(("data", "fsdp"))
    with jax.set_mesh(mesh):
        placed = (
            jax.device_put(x, NamedSharding(mesh, spec))
            for x, spec in zip(draw(), specs, strict=True)
        )
        found, ours = both(loss.mean_cross_entropy)(*placed)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for mine, theirs in zip(ours, gradients, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-7)


def test_half_precision_sums_in_float32(monkeypatch):
    monkeypatch.setattr(loss, "_LOGITS_BYTES", 4 * B * L * V // 3)
    x, wte, targets = draw(jnp.bfloat16)
    with jax.numpy_dtype_promotion("standard"):
        expected, gradients = both(by_hand)(x, wte, targets)
    found, ours = both(loss.mean_cross_entropy)(x, wte, targets)
    assert (found.dtype, ours[0].dtype) == (jnp.float32, jnp.bfloat16)
    # Eight bits of the embedding and of the gradient of the logits.
    np.testing.assert_allclose(found, expected, rtol=1e-2)
    for mine, theirs in zip(ours, gradients, strict=True):
        scale = np.max(np.abs(np.asarray(theirs, np.float32)))
        off = np.asarray(mine, np.float32) - np.asarray(theirs, np.float32)
        assert np.max(np.abs(off)) < 2e-2 * scale
