"""The algebra: three shapes of combination, and the graft of norms."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimx import _checks, _order, _probe, _tree
from optimx.typing import Count, Observe, ScalarOrSchedule


def stages(
    **named: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    r"""One transformation after the other, in keyword order.

    .. math:: u \leftarrow t_n(\dots t_2(t_1(u)))

    As :func:`optax.chain`, with names: the state is a dict by stage name, so that
    ``state['correct'].previous`` says what it reads. Extra arguments of ``update``
    reach every stage.

    Args:
      **named: the stages, each an :class:`optax.GradientTransformation`.

    Returns:
      A transformation whose state is a dict with one entry per stage.

    Raises:
      ValueError: where there is no stage, or at ``update`` where the state is of
        another chain.
      TypeError: where a stage is not a transformation.

    Examples:
      >>> import jax.numpy as jnp, optax, optimx
      >>> tx = optimx.stages(
      ...     clip=optimx.clip_by_block_norm(1.0),
      ...     average=optimx.ema(0.5),
      ...     rate=optax.scale_by_learning_rate(1.0))
      >>> state = tx.init(jnp.zeros(2))
      >>> sorted(state)
      ['average', 'clip', 'rate']
      >>> print(tx.update(jnp.array([3.0, 4.0]), state)[0])
      [-0.6 -0.8]
    """
    if not named:
        raise ValueError("stages: at least one stage is needed, got none.")
    for name, stage in named.items():
        _checks.transformation("stages", name, stage)
    chain = {name: optax.with_extra_args_support(tx) for name, tx in named.items()}

    def init(params):
        return {name: tx.init(params) for name, tx in chain.items()}

    def update(updates, state, params=None, **extra_args):
        if not isinstance(state, dict) or state.keys() != chain.keys():
            held = sorted(state) if isinstance(state, dict) else type(state).__name__
            raise ValueError(
                f"stages: the state must hold the stages {sorted(chain)}, got {held}."
            )
        new_state = {}
        for name, tx in chain.items():
            with _probe.scope(name):
                moved, new_state[name] = tx.update(
                    updates, state[name], params, **extra_args
                )
            _probe.tell_stage(name, updates, moved)
            updates = moved
        return updates, _order.settled(new_state)

    return optax.GradientTransformationExtraArgs(init, update)


class MixState(NamedTuple):
    """State of :func:`mix`.

    Attributes:
      count: the number of updates seen, int32.
      parts: the states of the mixed transformations, in order.
    """

    count: Count
    parts: tuple[optax.OptState, ...]


def mix(
    *weighted: tuple[ScalarOrSchedule, optax.GradientTransformation],
) -> optax.GradientTransformationExtraArgs:
    r"""Weighted sum of transformations of the same input.

    .. math:: u \leftarrow \sum_i w_i(t)\, t_i(u)

    AdEMAMix's two memories are a mix; Lion's interpolation, Nesterov momentum and
    unclipped MARS momentum are mixes of a moving average and the gradient
    (``optax.identity()``). The parts share the input and never their state.

    Args:
      *weighted: pairs of a weight and a transformation. A weight is a finite number
        or a schedule that is evaluated at t = 1, 2, ...

    Returns:
      A transformation whose state is a :class:`MixState`.

    Raises:
      ValueError: where there is no pair or a weight is not finite.
      TypeError: where a pair does not hold a transformation.

    Examples:
      >>> import jax.numpy as jnp, optax, optimx
      >>> memories = optimx.mix(
      ...     (1.0, optimx.ema(0.5)), (4.0, optimx.ema(0.75, debias=False)))
      >>> print(memories.update(jnp.ones(1), memories.init(jnp.ones(1)))[0])
      [2.]
    """
    if not weighted:
        raise ValueError("mix: at least one (weight, transformation) is needed.")
    weights, parts = [], []
    for index, pair in enumerate(weighted):
        # A transformation is a named tuple of two: here, one without its weight.
        bare = isinstance(pair, optax.GradientTransformation)
        if bare or not (isinstance(pair, tuple) and len(pair) == 2):
            raise TypeError(
                f"mix: part {index} must be a pair (weight, transformation), got "
                f"{pair!r}."
            )
        _checks.finite("mix", f"weight {index}", pair[0], schedule=True)
        _checks.transformation("mix", f"part {index}", pair[1])
        weights.append(pair[0])
        parts.append(optax.with_extra_args_support(pair[1]))

    def init(params):
        return MixState(
            jnp.zeros([], jnp.int32), tuple(part.init(params) for part in parts)
        )

    def update(updates, state, params=None, **extra_args):
        count = _tree.increment(state.count)
        outputs, states = [], []
        for index, (part, old) in enumerate(zip(parts, state.parts, strict=True)):
            with _probe.scope(str(index)):
                output, new = part.update(updates, old, params, **extra_args)
            outputs.append(output)
            states.append(new)
        factors = [_tree.at(weight, count) for weight in weights]

        def combine(u, *moved):
            total = jnp.zeros([], _tree.accumulator(u))
            for factor, m in zip(factors, moved, strict=True):
                wide = m.astype(total.dtype)
                total = total + _tree.like(factor, wide) * wide
            return total.astype(u.dtype)

        mixed = jax.tree.map(combine, updates, *outputs)
        return mixed, MixState(count, tuple(states))

    return optax.GradientTransformationExtraArgs(init, update)


def incoming(updates: optax.Updates, direction: optax.Updates) -> optax.Updates:
    """Observes what came in: the default of :func:`precondition`.

    Args:
      updates: what the fork was given.
      direction: what its direction made of it.

    Returns:
      ``updates``.

    Examples:
      >>> import optimx
      >>> optimx.incoming(5.0, 3.0)
      5.0
    """
    del direction
    return updates


def residual(updates: optax.Updates, direction: optax.Updates) -> optax.Updates:
    """Observes what the direction left out, as CAME does.

    Args:
      updates: what the fork was given.
      direction: what its direction made of it.

    Returns:
      ``updates - direction``, in float32 at least: a difference of near numbers.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> print(optimx.residual(jnp.array([5.0]), jnp.array([3.0])))
      [2.]
    """

    def difference(u, d):
        dtype = _tree.accumulator(u)
        return u.astype(dtype) - d.astype(dtype)

    return jax.tree.map(difference, updates, direction)


class PreconditionState(NamedTuple):
    """State of :func:`precondition`.

    Attributes:
      direction: the state of the direction.
      by: the state of the preconditioner.
    """

    direction: optax.OptState
    by: optax.OptState


def precondition(
    direction: optax.GradientTransformation,
    *,
    by: optax.GradientTransformation,
    observe: Observe = incoming,
) -> optax.GradientTransformationExtraArgs:
    r"""A fork: one branch says where to go, the other how to scale it.

    .. math:: d = \text{direction}(u), \qquad s = \text{observe}(u, d), \qquad
        u \leftarrow \text{by}(d \mid s)

    A chain cannot say this, because ``by`` folds statistics of a signal s into its
    state that is *not* what it scales. It receives s as the keyword ``observed`` of
    its ``update``; that keyword is the whole protocol of a preconditioner. A
    transformation without statistics, such as ``optax.scale_by_sign()``, may stand
    there too. Where the fork itself is given ``observed``, that is the u of
    ``observe``.

    Two traps. ``optax.chain(p, q)`` as ``by=`` hands both the same ``observed``: q
    does not see what p made of it. And a mask around a preconditioner must mask
    ``observed`` too: use :func:`matrices_only`, or ``optax.masked(...,
    mask_compatible_extra_args=True)``.

    Args:
      direction: from the incoming updates to a direction of the same shapes.
      by: scales the direction with statistics of the observed signal.
      observe: a function of ``(updates, direction)`` that gives the signal:
        :func:`incoming` (default), :func:`residual`, or your own.

    Returns:
      A transformation whose state is a :class:`PreconditionState`.

    Raises:
      TypeError: where a branch is not a transformation or ``observe`` not callable.

    Examples:
      Adam is an average, preconditioned by the root mean square of the gradient:

      >>> import jax.numpy as jnp, optax, optimx
      >>> adam = optimx.precondition(optimx.ema(0.9), by=optimx.scale_by_rms(0.999))
      >>> adabelief = optimx.precondition(
      ...     optimx.ema(0.9), by=optimx.scale_by_rms(0.999),
      ...     observe=optimx.residual)
      >>> gradient = jnp.array([0.3, -5.0])
      >>> print(adam.update(gradient, adam.init(gradient))[0].round(4))
      [ 1. -1.]
    """
    _checks.transformation("precondition", "direction", direction)
    _checks.transformation("precondition", "by", by)
    if not callable(observe):
        raise TypeError(
            "precondition: observe must be a function of (updates, direction), got "
            f"{observe!r}."
        )
    direction = optax.with_extra_args_support(direction)
    by = optax.with_extra_args_support(by)

    def init(params):
        return PreconditionState(direction.init(params), by.init(params))

    def update(updates, state, params=None, *, observed=None, **extra_args):
        with _probe.scope("direction"):
            moved, direction_state = direction.update(
                updates, state.direction, params, **extra_args
            )
        signal = observe(updates if observed is None else observed, moved)
        with _probe.scope("by"):
            scaled, by_state = by.update(
                moved, state.by, params, observed=signal, **extra_args
            )
        _probe.tell_fork(updates, moved, scaled)
        return scaled, PreconditionState(direction_state, by_state)

    return optax.GradientTransformationExtraArgs(init, update)


class GraftState(NamedTuple):
    """State of :func:`graft`.

    Attributes:
      direction: the state of the transformation that gives the direction.
      magnitude: the state of the transformation that gives the norm.
    """

    direction: optax.OptState
    magnitude: optax.OptState


def graft(
    direction: optax.GradientTransformation,
    *,
    magnitude: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    r"""The direction of one transformation with the norm of another, leaf by leaf.

    .. math:: u \leftarrow d \,\lVert m \rVert_2 / \lVert d \rVert_2, \qquad
        d = \text{direction}(u),\; m = \text{magnitude}(u)

    and 0 where d is 0. Both see the same updates and the same extra arguments.

    Args:
      direction: gives the direction of each leaf.
      magnitude: gives the Euclidean norm of each leaf.

    Returns:
      A transformation whose state is a :class:`GraftState`.

    Raises:
      TypeError: where an argument is not a transformation.

    Examples:
      >>> import jax.numpy as jnp, optax, optimx
      >>> tx = optimx.graft(optax.scale(0.5), magnitude=optax.scale(2.0))
      >>> print(tx.update(jnp.array([0.0, 4.0]), tx.init(jnp.zeros(2)))[0])
      [0. 8.]

    References:
      Agarwal et al., *Disentangling Adaptive Gradient Methods from Learning Rates*,
      2020, https://arxiv.org/abs/2002.11803.
    """
    _checks.transformation("graft", "direction", direction)
    _checks.transformation("graft", "magnitude", magnitude)
    direction = optax.with_extra_args_support(direction)
    magnitude = optax.with_extra_args_support(magnitude)

    def init(params):
        return GraftState(direction.init(params), magnitude.init(params))

    def swap(d, m):
        wide = d.astype(_tree.accumulator(d))
        norm = _tree.norm(wide)
        wanted = _tree.norm(m.astype(wide.dtype))
        ratio = wanted / jnp.where(norm > 0, norm, 1)
        return (wide * ratio).astype(d.dtype)

    def update(updates, state, params=None, **extra_args):
        moved, direction_state = direction.update(
            updates, state.direction, params, **extra_args
        )
        sized, magnitude_state = magnitude.update(
            updates, state.magnitude, params, **extra_args
        )
        grafted = jax.tree.map(swap, moved, sized)
        return grafted, GraftState(direction_state, magnitude_state)

    return optax.GradientTransformationExtraArgs(init, update)
