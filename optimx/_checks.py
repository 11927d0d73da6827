"""Checks whose messages say what, where, the value and what is allowed.

Numbers are checked where a transformation is built and trees where it is
initialised, so that nothing is lost when something is wrong. Tracers carry no
number to look at and schedules none before they run: both are let through.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from optimx.typing import PyTree

Factory = TypeVar("Factory", bound=Callable)


def is_zero(value: Any) -> bool:
    """Whether ``value`` is a Python number equal to zero.

    Arrays are never zero here: what state a transformation keeps must not depend
    on a number that is meant to change.
    """
    return isinstance(value, (int, float)) and value == 0


def _number(
    where: str, argument: str, value: Any, allowed: str, test, schedule: bool
) -> None:
    if (callable(value) and schedule) or isinstance(value, Tracer):
        return
    try:
        numbers = np.asarray(value, dtype=np.float64)
        # NumPy would read a number out of a text or a truth, and find all of no
        # numbers in range.
        unread = isinstance(value, (bool, str, bytes)) or numbers.size == 0
        fits = not unread and bool(np.all(test(numbers)))
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            f"{where}: {argument} must be {allowed}{' or a schedule' * schedule}, "
            f"got {value!r}."
        )


def decay(where: str, argument: str, value: Any, schedule: bool = False) -> None:
    """Requires the decay rate of an average: a number in [0, 1)."""
    _number(where, argument, value, "in [0, 1)", lambda x: (x >= 0) & (x < 1), schedule)


def non_negative(where: str, argument: str, value: Any, schedule: bool = False) -> None:
    """Requires a finite number of at least zero."""
    _number(
        where,
        argument,
        value,
        "a finite number >= 0",
        lambda x: (x >= 0) & (x < math.inf),
        schedule,
    )


def positive(where: str, argument: str, value: Any, schedule: bool = False) -> None:
    """Requires a number above zero; infinity is one."""
    _number(where, argument, value, "> 0", lambda x: x > 0, schedule)


def finite_positive(
    where: str, argument: str, value: Any, schedule: bool = False
) -> None:
    """Requires a finite number above zero."""
    _number(
        where,
        argument,
        value,
        "a finite number > 0",
        lambda x: (x > 0) & (x < math.inf),
        schedule,
    )


def finite(where: str, argument: str, value: Any, schedule: bool = False) -> None:
    """Requires a finite number of either sign."""
    _number(where, argument, value, "a finite number", np.isfinite, schedule)


def steps(where: str, argument: str, value: Any, *, least: int = 1) -> None:
    """Requires a whole number of steps of at least ``least``."""
    _number(
        where,
        argument,
        value,
        f"a whole number >= {least}",
        lambda x: (x >= least) & (x == np.floor(x)) & (x < math.inf),
        False,
    )


def whole(where: str, argument: str, value: Any, *, least: int = 1) -> None:
    """Requires a Python integer: one that shapes the program, and is no data of it."""
    _python_int(where, argument, value, f"a Python int >= {least}")
    if value < least:
        raise ValueError(
            f"{where}: {argument} must be a whole number >= {least}, got {value!r}."
        )


def two_axes(where: str, **named: Any) -> None:
    """Requires the numbers of two axes, Python integers."""
    for argument, value in named.items():
        _python_int(where, argument, value, "a Python int")
    (first, axis), (second, other) = named.items()
    if axis == other:
        raise ValueError(
            f"{where}: {first} and {second} must be two axes, got {axis} twice."
        )


def _python_int(where: str, argument: str, value: Any, allowed: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        number = isinstance(value, (Tracer, jax.Array))
        raise ValueError(
            f"{where}: {argument} must be {allowed}, got {value!r}."
            + " Under optax.inject_hyperparams, name it in static_args." * number
        )


_RANGES: dict[str, tuple[Callable, bool]] = {
    "learning_rate": (non_negative, True),
    "b1": (decay, False),
    "b2": (decay, False),
    "b3": (decay, True),
    "confidence_decay": (decay, False),
    "factor_decay": (decay, False),
    "alpha": (non_negative, True),
    "gamma": (non_negative, True),
    "eps": (non_negative, False),
    "confidence_eps": (positive, False),
    "root_eps": (finite_positive, False),
    "max_norm": (positive, False),
    "clip_threshold": (positive, False),
    "weight_decay": (non_negative, False),
}


def hyperparameters(factory: Factory) -> Factory:
    """Checks an optimizer's numbers by their names before it is built.

    The names mean the same everywhere, so their ranges stand in one place, and an
    optimizer's body stays the sentence that defines it.
    """
    signature = inspect.signature(factory)

    @functools.wraps(factory)
    def checked(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            # None is the default of numbers that follow from others.
            follows = value is None and signature.parameters[name].default is None
            if name in _RANGES and not follows:
                check, schedule = _RANGES[name]
                check(factory.__name__, name, value, schedule)
        return factory(*args, **kwargs)

    return cast(Factory, checked)


def transformation(where: str, argument: str, value: Any) -> None:
    """Requires a gradient transformation: something with ``init`` and ``update``."""
    if not (hasattr(value, "init") and hasattr(value, "update")):
        hint = " (is it missing its call?)" if callable(value) else ""
        raise TypeError(
            f"{where}: {argument} must be an optax.GradientTransformation, "
            f"got {value!r}{hint}."
        )


def path_name(path: tuple) -> str:
    """The path of a leaf as people write it: ``blocks/0/kernel``."""
    return jax.tree_util.keystr(path, simple=True, separator="/") or "(root)"


def inexact_leaves(where: str, params: PyTree) -> None:
    """Requires real or complex floating-point leaves, and names the first other."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise ValueError(
                f"{where}: parameter {path_name(path)!r} has dtype {dtype}; only "
                "floating-point and complex parameters can be optimized. Leave it "
                "out with optax.masked or optax.partition."
            )


def same_structure(where: str, argument: str, tree: PyTree, params: PyTree) -> None:
    """Requires ``tree`` to be shaped as ``params`` and names the first difference."""
    theirs = jax.tree_util.tree_structure(tree)
    ours = jax.tree_util.tree_structure(params)
    if theirs == ours:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        for (path, x), p in zip(leaves, jax.tree.leaves(params), strict=True):
            if jnp.shape(x) != jnp.shape(p):
                raise ValueError(
                    f"{where}: {argument} at {path_name(path)!r} has shape "
                    f"{jnp.shape(x)}, the parameter {jnp.shape(p)}."
                )
        return
    have = _paths(tree)
    want = _paths(params)
    missing = [path for path in want if path not in have]
    extra = [path for path in have if path not in want]
    difference = "; ".join(
        f"{text} {paths[0]!r}"
        for text, paths in (("it lacks", missing), ("it has a foreign", extra))
        if paths
    )
    raise ValueError(
        f"{where}: {argument} must have the tree structure of the parameters; "
        f"{difference or f'it is {theirs}, they are {ours}'}."
    )


def _paths(tree: PyTree) -> dict[str, None]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(path): None for path, _ in leaves}


def prefix_tree(
    where: str,
    argument: str,
    tree: PyTree,
    params: PyTree,
    allowed: Callable[[Any], bool],
    kinds: str,
) -> None:
    """Requires a tree of ``kinds`` that is a prefix of ``params``."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not allowed(leaf):
            raise ValueError(
                f"{where}: {argument} must hold {kinds}, got {leaf!r} at "
                f"{path_name(path)!r}."
            )
    try:
        jax.tree_util.tree_map(lambda *_: None, tree, params)
    except (ValueError, TypeError, KeyError) as error:
        have, want = _paths(tree), _paths(params)
        foreign = [path for path in have if path not in want]
        lacking = [path for path in want if path not in have]
        raise ValueError(
            f"{where}: {argument} does not fit the parameters: it has "
            f"{foreign[:3]!r} which they lack, and they have {lacking[:3]!r} "
            "which it lacks. It must have their tree structure, or a prefix of "
            "it."
        ) from error
