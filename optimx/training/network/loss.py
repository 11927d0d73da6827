"""Cross entropy over a large vocabulary, without the logits of a whole batch.

Array names carry their axes: B batch, L sequence, D width, V vocabulary, N rows of a
batch laid out one after the other.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

_LOGITS_BYTES = 2**29  # float32 logits that a device holds at one time
_ROWS, _TENSOR = ("data", "fsdp"), "tensor"


def logits(x_BxLxD: jax.Array, wte_VxD: jax.Array) -> jax.Array:
    """float32 scores of every entry of the vocabulary, (B, L, V)."""
    wte_VxD = wte_VxD.astype(x_BxLxD.dtype)
    return _product("bld,vd->blv", x_BxLxD, wte_VxD)


def mean_cross_entropy(
    x_BxLxD: jax.Array, wte_VxD: jax.Array, targets_BxL: jax.Array
) -> jax.Array:
    """Mean over all tokens of -log softmax(x wte^T)[target], in nats, float32.

    Where the logits of the batch are large, they are computed and left again a
    piece of the sequences at a time, and so is what their gradient needs: the
    probabilities are at hand when the loss is, so that differentiating costs no
    second product with the vocabulary. On a mesh each device does its own sequences
    and, over ``tensor``, its own part of the vocabulary.

    Args:
      x_BxLxD: the last hidden states.
      wte_VxD: the embedding.
      targets_BxL: integers below V.
    """
    mesh = jax.sharding.get_abstract_mesh()
    rows = _size(mesh, _ROWS)
    B, L, _ = x_BxLxD.shape
    pieces = _pieces(
        L, 4 * (B // rows) * L * (wte_VxD.shape[0] // _size(mesh, _TENSOR))
    )
    if pieces == 1 and _size(mesh, _TENSOR) == 1:
        return jnp.mean(
            optax.softmax_cross_entropy_with_integer_labels(
                logits(x_BxLxD, wte_VxD), targets_BxL
            )
        )
    return _in_pieces(x_BxLxD, wte_VxD.astype(x_BxLxD.dtype), targets_BxL, pieces)


def _size(mesh: Any, axes: str | tuple[str, ...]) -> int:
    axes = (axes,) if isinstance(axes, str) else axes
    return math.prod(mesh.shape[axis] for axis in axes if axis in mesh.shape)


def _pieces(length: int, size: int) -> int:
    """The fewest equal parts of a sequence whose logits are small enough."""
    need = -(-size // _LOGITS_BYTES)
    return next((n for n in range(need, length) if length % n == 0), length)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _in_pieces(x_BxLxD, wte_VxD, targets_BxL, pieces):
    return _spread(_local_loss, 1, pieces)(x_BxLxD, wte_VxD, targets_BxL)[0]


def _in_pieces_forward(x_BxLxD, wte_VxD, targets_BxL, pieces):
    loss, dx, dwte = _spread(_local_gradients, 3, pieces)(x_BxLxD, wte_VxD, targets_BxL)
    return loss, (dx, dwte)


def _in_pieces_backward(pieces, gradients, scale):
    dx, dwte = (g * scale.astype(g.dtype) for g in gradients)
    return dx, dwte, None


_in_pieces.defvjp(_in_pieces_forward, _in_pieces_backward)


def _spread(function: Any, results: int, pieces: int) -> Any:
    """``function`` on each device's own rows and part of the vocabulary."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return functools.partial(function, pieces, ())
    rows, words = P(_ROWS, None, None), P(_TENSOR, None)
    return jax.shard_map(
        functools.partial(function, pieces, mesh.axis_names),
        in_specs=(rows, words, P(_ROWS, None)),
        out_specs=(P(), rows, words)[:results],
        check_vma=False,
    )


def _local_loss(pieces, axes, x_BxLxD, wte_VxD, targets_BxL):
    def add(total, piece):
        x_NxD, targets_N = piece
        _, loss_N = _scores(axes, x_NxD, wte_VxD, targets_N)
        return total + jnp.sum(loss_N), None

    zero = jnp.zeros([], jnp.float32)
    total, _ = jax.lax.scan(add, zero, _cut(pieces, x_BxLxD, targets_BxL))
    return (_over(axes, _ROWS, total) / _tokens(axes, targets_BxL),)


def _local_gradients(pieces, axes, x_BxLxD, wte_VxD, targets_BxL):
    tokens = _tokens(axes, targets_BxL)

    def add(carry, piece):
        total, dwte_VxD = carry
        x_NxD, targets_N = piece
        parts_NxV, loss_N = _scores(axes, x_NxD, wte_VxD, targets_N)
        own_NxV = jax.nn.one_hot(
            targets_N - _first(axes, wte_VxD), wte_VxD.shape[0], dtype=parts_NxV.dtype
        )
        dlogits_NxV = ((parts_NxV - own_NxV) / tokens).astype(x_NxD.dtype)
        dwte_VxD = dwte_VxD + _product("nv,nd->vd", dlogits_NxV, x_NxD)
        dx_NxD = _product("nv,vd->nd", dlogits_NxV, wte_VxD)
        dx_NxD = _over(axes, _TENSOR, dx_NxD).astype(x_NxD.dtype)
        return (total + jnp.sum(loss_N), dwte_VxD), dx_NxD

    first = jnp.zeros([], jnp.float32), jnp.zeros(wte_VxD.shape, jnp.float32)
    (total, dwte_VxD), dx = jax.lax.scan(add, first, _cut(pieces, x_BxLxD, targets_BxL))
    dwte_VxD = _over(axes, _ROWS, dwte_VxD).astype(wte_VxD.dtype)
    return _over(axes, _ROWS, total) / tokens, _joined(dx, x_BxLxD.shape), dwte_VxD


def _cut(pieces: int, x_BxLxD: jax.Array, targets_BxL: jax.Array) -> Any:
    """Both, cut along the sequences: (pieces, N, D) and (pieces, N)."""
    B, L, D = x_BxLxD.shape
    x = x_BxLxD.reshape(B, pieces, L // pieces, D)
    targets = targets_BxL.reshape(B, pieces, L // pieces)
    return (
        jnp.moveaxis(x, 1, 0).reshape(pieces, -1, D),
        jnp.moveaxis(targets, 1, 0).reshape(pieces, -1),
    )


def _joined(dx: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    B, L, D = shape
    return jnp.moveaxis(dx.reshape(len(dx), B, -1, D), 0, 1).reshape(B, L, D)


def _scores(axes, x_NxD, wte_VxD, targets_N):
    """Probabilities of a device's part of the vocabulary, and the loss of each row."""
    logits_NxV = _product("nd,vd->nv", x_NxD, wte_VxD)
    top_N = _over(axes, _TENSOR, jnp.max(logits_NxV, axis=1), jax.lax.pmax)
    powers_NxV = jnp.exp(logits_NxV - top_N[:, None])
    total_N = _over(axes, _TENSOR, jnp.sum(powers_NxV, axis=1))
    place_N = targets_N - _first(axes, wte_VxD)
    inside_N = (place_N >= 0) & (place_N < wte_VxD.shape[0])
    own_N = jnp.take_along_axis(
        logits_NxV, jnp.where(inside_N, place_N, 0)[:, None], axis=1
    )[:, 0]
    own_N = _over(axes, _TENSOR, jnp.where(inside_N, own_N, 0.0))
    return powers_NxV / total_N[:, None], top_N + jnp.log(total_N) - own_N


def _first(axes: tuple[str, ...], wte_VxD: jax.Array) -> jax.Array | int:
    """The first entry of the vocabulary that this device has."""
    return jax.lax.axis_index(_TENSOR) * wte_VxD.shape[0] if axes else 0


def _tokens(axes: tuple[str, ...], targets_BxL: jax.Array) -> float:
    parts = math.prod(jax.lax.axis_size(axis) for axis in _ROWS) if axes else 1
    return float(targets_BxL.size * parts)


def _over(axes, names, x, reduce=jax.lax.psum):
    return reduce(x, names) if axes else x


def _product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """A float32 product."""
    if jax.default_backend() == "cpu":
        # JAX 0.7 has no CPU kernel for bfloat16 products that are summed in
        # float32; converted, they are the same numbers.
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)
