"""What an optimizer does, measured now and then and read out of its state."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimx import _checks, _measure, _order, _probe, _tree
from optimx._recompute import recomputed
from optimx.typing import Count, PyTree

MEASURES = ("skipped", "kept", "total_notfinite")
"""Fields of states that count something worth knowing."""

# Early, and at no step at which a rule that refreshes all its factors every 5, 10, 20,
# ... steps does so: the measurement would do it again.
_PHASE = 3


class MonitorState(NamedTuple):
    """State of :func:`monitored`.

    Attributes:
      count: the number of updates seen, int32.
      measured: of which update the values are, int32; 0 before the first.
      values: scalars by name, float32; zero before the first measurement. Dots in
        names divide the names of stages.
      update_rms: the root mean square of the update of each leaf, float32.
      inner: the state of the wrapped transformation.
    """

    count: Count
    measured: jax.Array
    values: dict[str, jax.Array]
    update_rms: PyTree
    inner: optax.OptState


def monitored(
    tx: optax.GradientTransformation, *, every: int = 500, needs: tuple[str, ...] = ()
) -> optax.GradientTransformationExtraArgs:
    r"""Measures now and then what a transformation does, and leaves it as it is.

    Updates and the state inside are those of ``tx``, bit for bit. At the updates 3,
    3 + ``every``, 3 + 2 ``every``, ... the update is computed once more, for its sums
    alone: nothing of it is stored, and at all other updates nothing of it is done. So
    the parts of a chain stay one program. :func:`read` finds the values in the state,
    which keeps the last.

    ============================= ====================================================
    name                          value
    ============================= ====================================================
    ``update_rms``                root mean square of the update, of all leaves and
                                  of each (``update_rms/`` *leaf*)
    ``gradient_rms``              the same of the gradient that came in
    ``cosine``                    between the update and the gradient: -1 is gradient
                                  descent
    *stage* ``/change``           norm of what the stage of :func:`stages` changed,
                                  relative to what came in: MARS's correction beside
                                  the gradient
    *stage* ``/shrunk``           share of the leaves whose norm the stage made less:
                                  clipped leaves
    *fork* ``/confidence``        d^2 / (d^2 + (u - d)^2) with u what came into the
                                  fork of :func:`precondition` and d its direction: 1
                                  where they agree
    *fork* ``/gain``              norm of what comes out of the fork over that of its
                                  direction
    *average* ``/age``            mean age of the gradients in an :func:`ema`, in
                                  updates
    *factors* ``/condition``      geometric mean of the condition numbers of the
                                  factors of :func:`scale_by_kronecker` (with the
                                  ridge) or :func:`in_eigenbasis`
    ============================= ====================================================

    Put it around everything else, :class:`optax.MultiSteps` excepted. Stages inside
    transformations that branch, loop or compile by themselves are not heard.

    Args:
      tx: any transformation. One that is not made of parts of ours has the first three
        values only.
      every: updates between two measurements, at least 1.
      needs: extra arguments of ``update`` that ``tx`` requires and that are shaped as
        the parameters: ``("stale_grads",)`` for exact MARS.

    Returns:
      A transformation whose state is a :class:`MonitorState`.

    Raises:
      TypeError: where ``tx`` is not a transformation.
      ValueError: where ``every`` is not a whole number of at least 1.

    ``init`` raises ValueError where ``update`` requires what ``needs`` does not name.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> tx = optimx.monitor.monitored(optimx.mars_adamw(1e-2), every=1)
      >>> params = {'w': jnp.ones((2, 2))}
      >>> state = tx.init(params)
      >>> for size in (3.0, 1.0, 1.0):
      ...   _, state = tx.update({'w': jnp.full((2, 2), size)}, state, params)
      >>> found = optimx.monitor.read(state)
      >>> print(found['measured'], found['clip/shrunk'], found['correct/change'])
      3 1.0 0.0
    """
    _checks.transformation("monitored", "tx", tx)
    _checks.whole("monitored", "every", every)
    tx = optax.with_extra_args_support(tx)

    def run(updates, state, params, extra_args):
        return tx.update(updates, state, params, **extra_args)[0]

    def init(params):
        state = tx.init(params)
        extra_args = dict.fromkeys(needs, params)
        measure = functools.partial(_measure.measured, run)
        try:
            shapes = jax.eval_shape(measure, params, state, params, extra_args)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"monitored: tx cannot be measured with needs={needs!r}: {error}"
            ) from error
        values, update_rms = jax.tree.map(lambda x: jnp.zeros([], x.dtype), shapes)
        count = jnp.zeros([], jnp.int32)
        return MonitorState(count, count, values, update_rms, state)

    def update(updates, state, params=None, **extra_args):
        arrays, others = _tree.of_arrays(extra_args)
        count = _tree.increment(state.count)
        due = (count >= _PHASE) & ((count - _PHASE) % every == 0)

        def again(updates, state, params, arrays):
            return run(updates, state, params, arrays | others)

        def turn(carry):
            due, _, inner = carry
            measure = functools.partial(_measure.measured, again)
            found = recomputed(measure, updates, inner, params, arrays)
            return jnp.zeros_like(due), (count, *found), _order.since(found, inner)

        last = state.measured, state.values, state.update_rms
        # A loop of one turn or none: what it carries stays in place. What a branch
        # reads would all be copied before the update may write over it.
        _, last, inner = jax.lax.while_loop(
            lambda carry: carry[0], turn, (due, last, state.inner)
        )
        measured, values, update_rms = last
        updates, inner = tx.update(updates, inner, params, **extra_args)
        return updates, MonitorState(count, measured, values, update_rms, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def watch(
    name: str, tx: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """A stage of :func:`optax.chain` that :func:`monitored` hears by a name.

    The stages of :func:`stages` are heard without it.

    Args:
      name: in the names of the values; without dots.
      tx: any transformation; updates and state are its own.

    Raises:
      TypeError: where ``tx`` is not a transformation.
      ValueError: where the name is empty or has a dot.

    Examples:
      >>> import jax.numpy as jnp, optax, optimx
      >>> tx = optimx.monitor.monitored(optax.chain(
      ...     optimx.monitor.watch('clip', optax.clip_by_block_rms(1.0)),
      ...     optax.adam(1e-3)))
      >>> sorted(optimx.monitor.read(tx.init(jnp.ones(2))))[:2]
      ['clip/change', 'clip/shrunk']
    """
    _checks.transformation("watch", "tx", tx)
    if not name or "." in name:
        raise ValueError(f"watch: name must be a text without dots, got {name!r}.")
    inner = _probe.within(name, tx)

    def update(updates, state, params=None, **extra_args):
        moved, state = inner.update(updates, state, params, **extra_args)
        _probe.tell_stage(name, updates, moved)
        return moved, state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def read(state: optax.OptState) -> dict[str, jax.Array]:
    """Finds what :func:`monitored` measured and what stages have counted.

    Of :func:`monitored`: ``measured``, the update that the values are of (0: none
    yet), and the values themselves, means where they are kept for several layers.

    Counts, which are kept also without it, added up over matrices: ``skipped``,
    signals that a preconditioner of matrices left out of its factors because they, or
    their products, were not finite; the matrices of one step count one by one.
    ``kept``: roots that were not replaced because the new one failed its check.
    ``total_notfinite``: steps that :func:`optax.apply_if_finite` skipped.

    Args:
      state: the state of any transformation that has ours in it, however deep; it may
        be read inside ``jit``.

    Returns:
      A dict from the path of each value in the state to a scalar; counts and
      ``measured`` are int32, measured values float32. Empty where there are none.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> tx = optimx.scale_by_kronecker(0.9)
      >>> state = tx.init({'kernel': jnp.ones((4, 6))})
      >>> _, state = tx.update({'kernel': jnp.full((4, 6), jnp.nan)}, state)
      >>> {path: int(count) for path, count in optimx.monitor.read(state).items()}
      {'skipped/kernel': 1, 'kept/kernel': 0}
    """
    found: dict[str, Any] = {}
    nodes = jax.tree_util.tree_leaves_with_path(state, is_leaf=_is_monitor)
    for path, node in nodes:
        if _is_monitor(node):
            found |= _of_monitor(path, node)
            continue
        names = [getattr(entry, "name", None) for entry in path]
        if any(name in MEASURES for name in names):
            found[_checks.path_name(path)] = jnp.sum(node, dtype=jnp.int32)
    return found


def _of_monitor(path: tuple, state: MonitorState) -> dict[str, jax.Array]:
    start = f"{_checks.path_name(path)}/" if path else ""
    found = {f"{start}measured": jnp.max(state.measured)}
    for name, value in state.values.items():
        found[start + name.replace(".", "/")] = jnp.mean(value)
    for leaf, value in jax.tree_util.tree_leaves_with_path(state.update_rms):
        name = f"/{_checks.path_name(leaf)}" if leaf else ""
        found[f"{start}update_rms{name}"] = jnp.mean(value)
    for name, value in read(state.inner).items():
        found[start + name] = value
    return found


def _is_monitor(node: Any) -> bool:
    return isinstance(node, MonitorState)
