"""State in fewer bits between steps."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimx import _checks, _tree
from optimx.codecs import STOCHASTIC, Codec, Coded
from optimx.linalg.dither import bits_like, stream
from optimx.typing import Count, PyTree
from optimx.wrappers.kinds import Parts, kind_of, map_state, moments


class QuantizedState(NamedTuple):
    """State of :func:`quantized`.

    Attributes:
      count: the number of updates seen, int32; it numbers the draws of rounding.
      inner: the state of the wrapped transformation, with a :class:`Coded` in the
        place of each array that is coded.
    """

    count: Count
    inner: optax.OptState


_record: contextvars.ContextVar[list["Quantized"] | None] = contextvars.ContextVar(
    "record", default=None
)


@contextlib.contextmanager
def recorded() -> Iterator[list["Quantized"]]:
    """The quantized transformations whose ``init`` is traced inside, in order.

    They may stand anywhere in what is traced: the counter of a state then has the
    shape (..., number, 0), by which it is told whose it is.
    """
    found: list[Quantized] = []
    token = _record.set(found)
    try:
        yield found
    finally:
        _record.reset(token)


class Quantized(optax.GradientTransformationExtraArgs):
    """A transformation that knows how its state is coded."""

    codec: Codec
    parts: Parts
    least: int


def quantized(
    inner: optax.GradientTransformation,
    codec: Codec,
    *,
    parts: Parts = moments,
    least: int = 4096,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Keeps the state of a transformation in fewer bits between steps.

    .. math:: u_t,\, s_t = \text{inner}\bigl(g_t, \operatorname{decode}(q_{t-1})\bigr),
        \qquad q_t = \operatorname{encode}(s_t)

    Each step decodes, updates and codes again within one program: XLA does it array by
    array, and no float32 copy of the state is ever in memory. A very slow average
    moves by less than half a code in a step, so that rounding to the nearest code
    would hold it still for ever: stochastic rounding, the default of the codecs, moves
    it by a whole code now and then, right on average. Draws follow from the seed, the
    step, the array and the place in it: they are the same however arrays are sharded.

    Args:
      inner: any transformation.
      codec: :func:`int8_blockwise`, :func:`float8_e4m3` or :func:`bfloat16`.
      parts: says of a path in the state of ``inner`` what is coded, and as what:
        ``"signed"``, ``"positive"`` or None. By default :func:`moments`, which leaves
        states of types that it does not know as they are.
      least: arrays of fewer numbers stay as they are; as do arrays that are narrower
        or wider than float32, which somebody has asked for.
      seed: of the rounding.

    Returns:
      A transformation whose state is a :class:`QuantizedState`.

    Raises:
      TypeError: where ``inner`` is not a transformation or ``codec`` not a codec.
      ValueError: where ``least`` is negative; at ``init``, where ``parts`` chooses an
        array of integers or complex numbers.

    Examples:
      >>> import jax, jax.numpy as jnp, optimx
      >>> tx = optimx.quantized(optimx.adamw(1e-3), optimx.int8_blockwise())
      >>> params = {'w': jnp.ones((256, 512))}
      >>> state = jax.jit(tx.init)(params)
      >>> size = sum(x.nbytes for x in jax.tree.leaves(state))
      >>> print(round(size / params['w'].size, 2))
      2.03
    """
    where = "quantized"
    _checks.transformation(where, "inner", inner)
    if not isinstance(codec, Codec):
        raise TypeError(
            f"{where}: codec must be a codec such as int8_blockwise(), got {codec!r}."
        )
    _checks.whole(where, "least", least, least=0)
    inner = optax.with_extra_args_support(inner)

    def init(params):
        state = _encoded(inner.init(params), codec, parts, least)
        shape = ()
        if (record := _record.get()) is not None:
            shape = len(record), 0
            record.append(tx)
        return QuantizedState(jnp.zeros(shape, jnp.int32), state)

    def update(updates, state, params=None, **extra_args):
        before = _decoded(state.inner, codec, parts)
        updates, after = inner.update(updates, before, params, **extra_args)
        coded = _recoded(after, state, codec, parts, seed)
        return updates, QuantizedState(_tree.increment(state.count), coded)

    tx = Quantized(init, update)
    tx.codec, tx.parts, tx.least = codec, parts, least
    return tx


def encode_state(tx: optax.GradientTransformation, state: PyTree) -> QuantizedState:
    """The coded form of a state of what :func:`quantized` wraps.

    Args:
      tx: what :func:`quantized` returned.
      state: of the transformation inside it.

    Returns:
      The state of ``tx``, rounded to the nearest codes.

    Raises:
      TypeError: where ``tx`` is not a quantized transformation.
    """
    tx = _require_quantized("encode_state", tx)
    coded = _encoded(state, tx.codec, tx.parts, tx.least)
    return QuantizedState(jnp.zeros([], jnp.int32), coded)


def decode_state(tx: optax.GradientTransformation, state: QuantizedState) -> PyTree:
    """The state of what :func:`quantized` wraps, as the wrapped one keeps it.

    Args:
      tx: what :func:`quantized` returned.
      state: its state.

    Returns:
      The state of the transformation inside; what is not coded, bit for bit.

    Raises:
      TypeError: where ``tx`` is not a quantized transformation.
    """
    tx = _require_quantized("decode_state", tx)
    return _decoded(state.inner, tx.codec, tx.parts)


def _require_quantized(where: str, tx: Any) -> Quantized:
    if not isinstance(tx, Quantized):
        raise TypeError(f"{where}: tx must be made by quantized(...), got {tx!r}.")
    return tx


def _stays(node: Any) -> bool:
    """What traversals do not enter: codes, and states that are coded already."""
    return isinstance(node, (Coded, QuantizedState))


def _encoded(state: PyTree, codec: Codec, parts: Parts, least: int) -> PyTree:
    """The first codes; zeros, as a rule, so that nothing needs to be drawn."""

    def encode(path, x):
        kind = None if _stays(x) else parts(path)
        if kind is None:
            return x
        _require_real(path, x)
        if x.dtype != jnp.float32 or x.ndim == 0 or x.size < max(least, 1):
            return x
        # Behind a barrier: XLA would run its slow interpreter over constant zeros.
        return codec.encode(jax.lax.optimization_barrier(x), kind, None)

    return map_state(encode, state, is_leaf=_stays)


def _require_real(path: tuple, x: Any) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"quantized: {_checks.path_name(path)!r} of the state has dtype {x.dtype}; "
            "only real floating-point numbers can be coded. Leave it out with parts=."
        )


def _decoded(state: PyTree, codec: Codec, parts: Parts) -> PyTree:
    def decode(path, x):
        if not isinstance(x, Coded):
            return x
        return codec.decode(x, kind_of(path, parts))

    return map_state(decode, state, is_leaf=_stays)


def _recoded(
    state: PyTree, old: QuantizedState, codec: Codec, parts: Parts, seed: int
) -> PyTree:
    """Coded where it was coded before."""
    coded = iter(range(len(jax.tree.leaves(old.inner))))

    def encode(path, before, x):
        if not isinstance(before, Coded):
            return x
        kind, bits = kind_of(path, parts), None
        if codec.rounding == STOCHASTIC:
            bits = bits_like(x, stream(seed, old.count, next(coded)))
        return codec.encode(x, kind, bits)

    return map_state(encode, old.inner, state, is_leaf=_stays)
