"""From one optimizer to another in the middle of a run."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimx import _checks
from optimx.switching.codes import coders_of, decoded, encoded, forms
from optimx.switching.parts import Part
from optimx.switching.plan import Leaves, Plan
from optimx.typing import PyTree

_SHOWN = 3


class Carried(NamedTuple):
    """An array of a state that went over into another.

    Attributes:
      new: its path in the new state.
      old: its path in the old one; of a counter, that of the memory it counts for.
      cast: the dtypes where they differ, as in ``"int8 to float32"``, else "".
    """

    new: str
    old: str
    cast: str


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class SwitchReport:
    """What became of two states; as text, three lines.

    Attributes:
      carried: the arrays of the new state that hold what the old one held.
      reset: paths of the arrays of the new state that are as ``init`` makes them.
      dropped: paths of the arrays of the old state that nothing holds any more.
      lines: the same for people, part by part.
    """

    carried: tuple[Carried, ...]
    reset: tuple[str, ...]
    dropped: tuple[str, ...]
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines)


class Switched(NamedTuple):
    """What :func:`switch` returns.

    Attributes:
      state: of the new optimizer.
      report: of what was carried, reset and dropped; no arrays, so that both pass
        through :func:`jax.jit`.
    """

    state: optax.OptState
    report: SwitchReport


def switch(
    state: optax.OptState,
    from_tx: optax.GradientTransformation,
    to_tx: optax.GradientTransformation,
    params: optax.Params,
) -> Switched:
    r"""The state with which another optimizer goes on from here.

    The new state is that of ``to_tx.init(params)``, in which every part that the old
    state knows holds what it held there. Parts are found by what they mean, not by
    where they stand: the average of :func:`ema` is Optax's ``mu``, wherever in chains,
    forks, masks and partitions it is kept and under the path of the same parameter. So
    from AdamW to :func:`ademamix` the fast memory and the second moment go over, and
    the slow memory begins at zero, as in the paper.

    - A part goes over whole, every array of it in its own shape, or begins anew.
    - Its counter goes with it, so that a bias correction stays that of its memory.
      Where parts are put together the youngest counts.
    - Of several memories in a :func:`mix` the first is the one that an optimizer of
      one memory has. The mix counts with its youngest memory: AdEMAMix's ramps begin
      anew with a new slow memory, and go on with an old one.
    - A memory whose fork divides it by a second moment that begins anew does so too:
      the average of many gradients over the root of a single squared one is no step.
    - A memory of a scaled signal, as CAME's, is none of the gradient.
    - The learning rate's schedule goes on. Whose turn it is to be refreshed, and other
      hyperparameters that are kept in states, are the new optimizer's.
    - A dtype is that of the new state; what is cast is reported. States that are kept
      in fewer bits (:func:`quantized`) are decoded, and coded again to the nearest.

    What is not known from a state is taken to be the same: decays, and what a fork
    observes. MARS begins with a previous gradient of zero, so that its first
    correction is s g and not s (g - g'), as at the first step of a run.

    Args:
      state: of ``from_tx``: arrays, or their shapes under :func:`jax.eval_shape`.
      from_tx: the optimizer so far.
      to_tx: the optimizer from here on.
      params: the parameters, or :class:`jax.ShapeDtypeStruct` in their place.

    Returns:
      A :class:`Switched`: the state, and a report whose text says what was carried,
      reset and dropped. Arrays that are carried uncast outside of :func:`jax.jit` are
      those of the old state, not copies. Over a mesh, jit with the ``out_shardings``
      that :func:`state_shardings` gives for ``to_tx``.

    Raises:
      TypeError: where ``from_tx`` or ``to_tx`` is not a transformation.
      ValueError: where ``state`` is not of ``from_tx``; the first three arrays that
        differ are named.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> adamw, ademamix = optimx.adamw(1e-3), optimx.ademamix(1e-3)
      >>> params = {'w': jnp.ones(3)}
      >>> state = adamw.init(params)
      >>> updates, state = adamw.update(params, state, params)
      >>> state, report = optimx.switch(state, adamw, ademamix, params)
      >>> for line in report.lines:
      ...   print(line.replace('; ', ',\n  '))
      carried: precondition/direction/parts/0 (1 array, from precondition/direction),
        precondition/by (1 array)
      reset: precondition/direction (counter),
        precondition/direction/parts/1 (1 array)
      dropped: nothing
      >>> fast, slow = state['precondition'].direction.parts
      >>> print(fast.count, fast.average['w'], slow.count, slow.average['w'])
      1 [0.1 0.1 0.1] 0 [0. 0. 0.]
    """
    _checks.transformation("switch", "from_tx", from_tx)
    _checks.transformation("switch", "to_tx", to_tx)
    _require_state_of(from_tx, state, params)
    fresh = to_tx.init(params)
    theirs, ours = coders_of(from_tx, params), coders_of(to_tx, params)
    old = Leaves.of(decoded(state, theirs), forms(state))
    new = Leaves.of(decoded(fresh, ours), forms(fresh))
    plan = Plan(old, new)
    values = list(new.values)
    for number, source in plan.arrays.items():
        value, dtype = old.values[source], new.values[number].dtype
        values[number] = value if value.dtype == dtype else value.astype(dtype)
    for number, sources in plan.clocks.items():
        clocks = [old.values[source] for source in sources]
        values[number] = _youngest(clocks, new.values[number])
    whole = encoded(new.structure.unflatten(values), fresh, ours)
    return Switched(whole, _report(old, new, plan))


def _youngest(clocks: Sequence[jax.Array], like: jax.Array) -> jax.Array:
    """The least of the counts; a buffer of its own, for many may come from one."""
    fitted = [x if x.shape == like.shape else jnp.min(x) for x in clocks]
    least = fitted[0]
    for other in fitted[1:]:
        least = jnp.minimum(*jnp.broadcast_arrays(least, other))
    return jnp.array(jnp.broadcast_to(least, like.shape), like.dtype, copy=True)


def _require_state_of(
    tx: optax.GradientTransformation, state: PyTree, params: PyTree
) -> None:
    like = jax.eval_shape(tx.init, params)
    expected, found = _forms(like), _forms(state)
    names = [*expected, *(name for name in found if name not in expected)]
    other = [name for name in names if expected.get(name) != found.get(name)]
    if other:
        listed = "; ".join(
            f"{name}: expected {expected.get(name, 'none')}, got "
            f"{found.get(name, 'none')}"
            for name in other[:_SHOWN]
        )
        more = f"; and {len(other) - _SHOWN} more" if len(other) > _SHOWN else ""
        raise ValueError(f"switch: state must be of from_tx; {listed}{more}.")
    if jax.tree.structure(like) != jax.tree.structure(state):
        raise ValueError(
            "switch: state must be of from_tx; it has the arrays but another tree: "
            f"expected {jax.tree.structure(like)}, got {jax.tree.structure(state)}."
        )


def _forms(state: PyTree) -> dict[str, str]:
    return {
        _checks.path_name(path): f"{jnp.result_type(x)}{list(jnp.shape(x))}"
        for path, x in jax.tree_util.tree_leaves_with_path(state)
    }


def _report(old: Leaves, new: Leaves, plan: Plan) -> SwitchReport:
    sources = {n: [source] for n, source in plan.arrays.items()} | plan.clocks
    used = {source for many in sources.values() for source in many}

    def cast(number: int) -> str:
        if number not in plan.arrays:
            return ""
        before, after = old.forms[plan.arrays[number]], new.forms[number]
        return "" if before == after else f"{before} to {after}"

    def went_over(part: Part) -> Iterator[str]:
        if moved := [n for n in part.numbers if n in sources]:
            theirs = {source for n in moved for source in sources[n]}
            givers = [p.name for p in old.parts if theirs & set(p.numbers)]
            said = [_size(part, moved), *dict.fromkeys(filter(None, map(cast, moved)))]
            said += [f"from {' and '.join(givers)}"] * (givers != [part.name])
            yield f"{part.name} ({', '.join(said)})"

    def began_anew(part: Part) -> Iterator[str]:
        if left := [n for n in part.numbers if n not in sources]:
            why = ", as what divides it" if part in plan.undivided else ""
            why = ", which is planned anew" if set(left) <= set(part.given) else why
            yield f"{part.name} ({_size(part, left)}{why})"

    def went(part: Part) -> Iterator[str]:
        if left := [n for n in part.numbers if n not in used]:
            yield f"{part.name} ({_size(part, left)})"

    said = {
        "carried": [text for part in new.parts for text in went_over(part)],
        "reset": [text for part in new.parts for text in began_anew(part)],
        "dropped": [text for part in old.parts for text in went(part)],
    }
    return SwitchReport(
        tuple(
            Carried(new.names[n], old.names[sources[n][0]], cast(n))
            for n in sorted(sources)
        ),
        tuple(name for n, name in enumerate(new.names) if n not in sources),
        tuple(name for n, name in enumerate(old.names) if n not in used),
        tuple(f"{kind}: {'; '.join(rows) or 'nothing'}" for kind, rows in said.items()),
    )


def _size(part: Part, numbers: Sequence[int]) -> str:
    """How many arrays; a counter alone is called one."""
    arrays = [n for n in numbers if n != part.clock]
    if not arrays:
        return "counter"
    return f"{len(arrays)} array{'s' * (len(arrays) > 1)}"
