"""The types that signatures of the library share."""

from collections.abc import Callable
from typing import Any

import jax
import optax

PyTree = Any
"""A tree of arrays, as :mod:`jax.tree` understands it."""

Scalar = float | jax.Array
"""A Python number, or a scalar array (a tracer among them)."""

Count = Any
"""The number of updates seen, an int32 scalar. Any, because a named tuple's field
``count`` hides the method of that name, which a type checker allows to Any alone."""

ScalarOrSchedule = optax.ScalarOrSchedule
"""A scalar, or a function from a step count to a scalar."""

Mask = PyTree | Callable[[optax.Params], PyTree]
"""A tree of booleans shaped as the parameters (or a prefix), or what makes one."""

Labels = PyTree | Callable[[optax.Params], PyTree]
"""A tree of strings shaped as the parameters (or a prefix), or what makes one."""

Observe = Callable[[optax.Updates, optax.Updates], optax.Updates]
"""Chooses a preconditioner's signal: ``observe(updates, direction)``."""
