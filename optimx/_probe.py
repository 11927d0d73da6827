"""What a monitor hears from the stages of an update while it measures.

A measurement runs an update once more and keeps nothing of it but sums. While it runs,
parts of the algebra *tell* what they know: the chain, how each stage changed what came
in; the fork, how far its direction agrees with the signal; an average, its age. At any
other time telling is nothing, and the program of an update is the same with it and
without.

What is told is a pair of sums, a numerator and a denominator, so that it adds up over
leaves, layers and parts of a partition.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optimx import _tree
from optimx.typing import PyTree

try:
    from jax.extend.core import get_opaque_trace_state
except ImportError:  # JAX 0.7
    from jax.core import get_opaque_trace_state

Pair = tuple[jax.Array, jax.Array]
Told = dict[str, Pair]

# An unclipped leaf is the same number for number; only its sum may round otherwise.
_ROUNDING = 1e-5


@dataclasses.dataclass
class _Probe:
    """A measurement under way: in which trace it is, and what it has heard.

    Values of another trace, such as that of a loop or a branch of somebody else's,
    may not leave it: what is told there is not heard.
    """

    trace: Any = dataclasses.field(default_factory=get_opaque_trace_state)
    told: Told = dataclasses.field(default_factory=dict)
    scope: tuple[str, ...] = ()
    # Energies by the identity of their array, which is kept so that it stays one.
    energies: dict[int, tuple[jax.Array, jax.Array]] = dataclasses.field(
        default_factory=dict
    )


_current: contextvars.ContextVar[_Probe | None] = contextvars.ContextVar(
    "probe", default=None
)


def active() -> bool:
    """Whether a measurement is under way, and hears what is told here."""
    return _listener() is not None


def _listener() -> _Probe | None:
    probe = _current.get()
    return probe if probe and probe.trace == get_opaque_trace_state() else None


@contextlib.contextmanager
def scope(name: str) -> Iterator[None]:
    """What is told inside is told under this name."""
    probe = _current.get()
    if probe is None:
        yield
        return
    before, probe.scope = probe.scope, (*probe.scope, name)
    try:
        yield
    finally:
        probe.scope = before


def tell(measure: str, numerator: Any, denominator: Any) -> None:
    """Adds to the two sums of a measure, under the names of the scopes around."""
    probe = _listener()
    if probe is None:
        return
    pair = [jnp.asarray(x).astype(jnp.float32) for x in (numerator, denominator)]
    key = ".".join((*probe.scope, measure))
    old = probe.told.get(key, (jnp.float32(0), jnp.float32(0)))
    probe.told[key] = old[0] + pair[0], old[1] + pair[1]


def collected(function: Callable, *arguments: Any) -> tuple[Any, Told]:
    """The function's result, and what was told while it ran."""
    probe = _Probe()
    token = _current.set(probe)
    try:
        return function(*arguments), probe.told
    finally:
        _current.reset(token)


def lifted(function: Callable) -> Callable:
    """The function, with what it tells as a second result.

    For functions that are traced on their own, as by ``vmap``; :func:`retell` tells it
    outside. There is nothing in it unless a measurement is under way.
    """
    # Asked out here: the other trace hears nothing by itself.
    heard = active()

    def lift(*arguments: Any) -> tuple[Any, Told]:
        return collected(function, *arguments) if heard else (function(*arguments), {})

    return lift


def retell(told: Told) -> None:
    """Tells what :func:`lifted` brought, added up where it was mapped."""
    for key, (numerator, denominator) in told.items():
        *names, measure = key.split(".")
        with contextlib.ExitStack() as stack:
            for name in names:
                stack.enter_context(scope(name))
            tell(measure, jnp.sum(numerator), jnp.sum(denominator))


def within(
    name: str, tx: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """``tx``, what is told inside it told under this name."""
    tx = optax.with_extra_args_support(tx)

    def update(updates, state, params=None, **extra_args):
        with scope(name):
            return tx.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def after(
    tx: optax.GradientTransformation, report: Callable[[Any], None]
) -> optax.GradientTransformationExtraArgs:
    """``tx``, whose new state is shown to a function that tells about it."""
    tx = optax.with_extra_args_support(tx)

    def update(updates, state, params=None, **extra_args):
        moved, state = tx.update(updates, state, params, **extra_args)
        if active():
            report(state)
        return moved, state

    return optax.GradientTransformationExtraArgs(tx.init, update)


def tell_conditions(logarithms: jax.Array, counts: jax.Array) -> None:
    """The logarithms of the conditions of the factors that count."""
    counted = jnp.broadcast_to(counts, logarithms.shape)
    chosen = jnp.where(counted, logarithms, 0)
    tell("condition", jnp.sum(chosen), jnp.sum(counted, dtype=jnp.int32))


def tell_stage(name: str, before: PyTree, after: PyTree) -> None:
    """How a stage changed what came in.

    ``change``: the norm of the difference, relative to what came in. ``shrunk``: the
    share of leaves whose norm it made less.
    """
    if not active():
        return
    pairs = _alike(before, after)
    if pairs is None:
        return
    squares = [energy(b) for b, _ in pairs]
    differences = [energy(_minus(a, b)) for b, a in pairs]
    shrunk = [
        energy(a) < square * (1 - _ROUNDING)
        for (_, a), square in zip(pairs, squares, strict=True)
    ]
    with scope(name):
        tell("change", total(differences), total(squares))
        tell("shrunk", total(shrunk), len(pairs))


def tell_fork(updates: PyTree, direction: PyTree, scaled: PyTree) -> None:
    """How far a fork's direction agrees with the signal, and how it is scaled.

    ``confidence``: the direction's share of the squares of direction and residual.
    ``gain``: the norm of what comes out, relative to that of the direction.
    """
    if not active():
        return
    near, far = _alike(updates, direction), _alike(direction, scaled)
    if near is None or far is None:
        return
    kept = total(energy(d) for _, d in near)
    left = total(energy(_minus(u, d)) for u, d in near)
    tell("confidence", kept, kept + left)
    tell("gain", total(energy(s) for _, s in far), kept)


def energy(x: jax.Array) -> jax.Array:
    """The sum of squares, in float32 at least; of an array only once a measurement."""
    probe = _listener()
    found = probe and probe.energies.get(id(x))
    if found:
        return found[1]
    square = jnp.sum(_tree.square(x.astype(_tree.accumulator(x))))
    if probe:
        probe.energies[id(x)] = x, square
    return square


def total(numbers: Any) -> jax.Array:
    """The sum of scalars of any dtype, float32."""
    found = jnp.float32(0)
    for number in numbers:
        found = found + number.astype(jnp.float32)
    return found


def _minus(x: jax.Array, y: jax.Array) -> jax.Array:
    dtype = _tree.accumulator(x)
    return x.astype(dtype) - y.astype(dtype)


def _alike(one: PyTree, other: PyTree) -> list | None:
    """Leaves in pairs, the empty ones left out; None where the trees differ."""
    ours, theirs = jax.tree.flatten(one), jax.tree.flatten(other)
    if ours[1] != theirs[1]:
        return None
    pairs = zip(ours[0], theirs[0], strict=True)
    return [(x, y) for x, y in pairs if jnp.size(x)]
