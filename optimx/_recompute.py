"""Sums that compute for themselves what they add up.

XLA's CPU backend stores an expression that a sum shares with anything else: a
temporary of the leaf's size, which costs more to allocate, write and read than the
expression costs to compute again. Here every sum has its own copy of the elementwise
operations before it, behind a barrier that keeps XLA from seeing that they are the
same. They are the same, and so are the numbers.
"""

import collections
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer, eval_jaxpr
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from optimx import _probe
from optimx.typing import PyTree

SUMS = {"reduce_max", "reduce_sum"}

ELEMENTWISE = {
    *("abs", "add", "convert_element_type", "div", "imag", "integer_pow", "mul"),
    *("neg", "real", "rsqrt", "sqrt", "square", "sub"),
    # What a factor of one axis becomes before it meets a leaf.
    *("broadcast_in_dim", "reshape"),
}


def recomputing(
    tx: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """``tx``, whose sums share no expression with anything when it runs on a CPU.

    Other backends compute several sums in one loop, and get ``tx`` as it is.
    """

    def plain(updates, state, params, extra_args):
        return tx.update(updates, state, params, **extra_args)

    apart = functools.partial(_apart, plain)

    def update(updates, state, params=None, **extra_args):
        arguments = updates, state, params, extra_args
        leaves = jax.tree.leaves(arguments)
        # Outside of a trace nothing is fused; what is no array stays outside. Of a
        # measurement all sums are recomputed together, at its end.
        if (
            not _probe.active()
            and _traced(leaves)
            and all(isinstance(x, jax.Array | np.ndarray) for x in leaves)
        ):
            return jax.lax.platform_dependent(*arguments, cpu=apart, default=plain)
        return plain(*arguments)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def _apart(plain: Callable, updates, state, params, extra_args) -> tuple:
    # In this order: what is written in place comes first.
    leaves, treedef = jax.tree.flatten((state, params, updates, extra_args))

    def flat(*leaves):
        state, params, updates, extra_args = treedef.unflatten(leaves)
        return plain(updates, state, params, extra_args)

    program, shapes = jax.make_jaxpr(flat, return_shape=True)(*leaves)
    written = len(jax.tree.leaves((state, params)))
    results = _Run(program.jaxpr, program.consts, leaves, written).results()
    return jax.tree.unflatten(jax.tree.structure(shapes), results)


def recomputed(function: Callable, *arguments: PyTree) -> Any:
    """``function(*arguments)``, of which nothing but sums is used, on a CPU as above.

    Nothing is written in place, so that the old state may be read again and again.
    """
    return jax.lax.platform_dependent(
        *arguments, cpu=functools.partial(_alone, function), default=function
    )


def _alone(function: Callable, *arguments: PyTree) -> Any:
    leaves, treedef = jax.tree.flatten(arguments)

    def flat(*leaves):
        return function(*treedef.unflatten(leaves))

    program, shapes = jax.make_jaxpr(flat, return_shape=True)(*leaves)
    results = _Run(program.jaxpr, program.consts, leaves, 0).results()
    return jax.tree.unflatten(jax.tree.structure(shapes), results)


class _Run:
    """One evaluation of a program, its sums computed apart.

    An expression of the old state is not computed again: until its last reader has
    run, the new state could not be written in place. Where such an expression has
    several readers XLA stores it, and it counts as given from there on.
    """

    def __init__(self, jaxpr: Jaxpr, consts: Sequence, leaves: Sequence, written: int):
        self.jaxpr = jaxpr
        self.values = dict(zip(jaxpr.constvars, consts, strict=True))
        self.values |= dict(zip(jaxpr.invars, leaves, strict=True))
        self.of_old_state = set(jaxpr.invars[:written])
        self.stays = {v for v in jaxpr.outvars if isinstance(v, Var)}
        self.readers = collections.Counter(
            v for equation in jaxpr.eqns for v in _variables(equation)
        )
        self.recipes: dict[Var, JaxprEqn] = {}
        # By identity: a literal has no hash.
        self.behind_barriers: dict[int, Any] = {}

    def results(self) -> list:
        for equation in self.jaxpr.eqns:
            self._execute(equation)
        return [self._value(v) for v in self.jaxpr.outvars]

    def _execute(self, equation: JaxprEqn) -> None:
        name, outputs = equation.primitive.name, equation.outvars
        operands = [self._value(v) for v in equation.invars]
        if name in SUMS and operands[0].ndim >= 2:
            self.values[outputs[0]] = _bind(equation, [self._again(equation.invars[0])])
        elif name in ELEMENTWISE:
            self.values[outputs[0]] = _bind(equation, operands)
            self._note(equation)
        else:
            # Whatever else there is, calls and loops among it, runs as it would.
            names = _variables(equation)
            alone = self.jaxpr.replace(
                constvars=[], invars=names, outvars=outputs, eqns=[equation]
            )
            given = [self.values[v] for v in names]
            results = eval_jaxpr(alone, [], *given)
            self.values |= dict(zip(outputs, results, strict=True))

    def _note(self, equation: JaxprEqn) -> None:
        """Remembers how a value was made, if it may be made again."""
        (output,) = equation.outvars
        if output in self.stays:
            return
        whole = {v for v in _variables(equation) if _size(v) == _size(output)}
        if not whole & self.of_old_state:
            self.recipes[output] = equation
        elif self.readers[output] == 1:
            self.of_old_state.add(output)

    def _again(self, target: Any) -> Any:
        """A value, computed from what is stored and shared with nothing."""
        seen, recipes, stored = set(), [], []

        def visit(v: Any) -> None:
            if id(v) in seen:
                return
            seen.add(id(v))
            recipe = None if isinstance(v, Literal) else self.recipes.get(v)
            if recipe is None or _size(v) != _size(target):
                stored.append(v)
                return
            for operand in recipe.invars:
                visit(operand)
            recipes.append(recipe)

        visit(target)
        if not recipes:
            return self.values[target]
        # Behind one barrier more than the last time: equal barriers are merged.
        last = [self.behind_barriers.get(id(v), self._value(v)) for v in stored]
        fresh = jax.lax.optimization_barrier([jnp.asarray(x) for x in last])
        made = dict(zip(map(id, stored), fresh, strict=True))
        self.behind_barriers |= made
        for recipe in recipes:
            operands = [made[id(v)] for v in recipe.invars]
            made[id(recipe.outvars[0])] = _bind(recipe, operands)
        return made[id(target)]

    def _value(self, v: Any) -> Any:
        if isinstance(v, Literal):
            aval: Any = v.aval
            return np.asarray(v.val, aval.dtype)
        return self.values[v]


def _bind(equation: JaxprEqn, operands: Sequence) -> Any:
    return equation.primitive.bind(*operands, **equation.params)


def _variables(equation: JaxprEqn) -> list[Var]:
    return list(dict.fromkeys(v for v in equation.invars if isinstance(v, Var)))


def _size(v: Any) -> int:
    return v.aval.size


def _traced(leaves: Sequence) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in leaves)
