"""Stacks: same-shape matrices of a tree as one array, split over a mesh."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from optimx import _checks, _layout, _tree
from optimx.typing import PyTree

_NO_MESH = AbstractMesh((), ())


def in_stacks(
    inner: optax.GradientTransformation,
    *,
    mesh_axis: str | Sequence[str] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Shows ``inner`` the matrices of one shape as one stack, split over devices.

    The last two axes of a leaf are its matrices; leading axes, and leaves of one
    shape, are stacked: twelve kernels of shape (768, 3072) become one array (12, 768,
    3072), and so does a scanned stack of twelve layers. The stack stands in the place
    of the first leaf of its shape, the others leave an :class:`optax.MaskedNode`, and
    the state of ``inner`` is that of such a tree.

    Where the leaves live on a mesh, the stack is padded to a multiple of its devices
    with zeros and split: each device works on whole matrices, with no communication
    until the results go back to the sharding of their leaves. This holds for
    replicated and for sharded leaves, under Auto and Explicit axes.

    Args:
      inner: a transformation that treats every matrix by itself. Each array of its
        state has the stack's axis in front, or is a scalar that does not depend on
        the matrices, such as a counter.
      mesh_axis: the name or names of the mesh axes to split stacks over; by default
        all axes of the mesh on which the leaves live.

    Returns:
      A transformation whose updates have the leaves' own shapes, dtypes and
      shardings. Extra arguments shaped as the updates are stacked likewise. Leaves
      without elements pass unchanged.

    Raises:
      TypeError: where ``inner`` is not a transformation.
      ValueError: at ``init``, where a leaf has fewer than two axes; where the mesh has
        no axis of that name.

    Examples:
      >>> import jax, jax.numpy as jnp, optimx
      >>> tx = optimx.in_stacks(optimx.ema(0.9))
      >>> params = {'up': jnp.ones((4, 8)), 'gate': jnp.ones((4, 8))}
      >>> state = tx.init(params)
      >>> print(jax.tree.map(jnp.shape, state.average['gate']))
      (2, 4, 8)
    """
    _checks.transformation("in_stacks", "inner", inner)
    inner = optax.with_extra_args_support(inner)

    def init(params):
        params = _tree.materialized(params)
        _require_matrices(params)
        plan = _Plan.of(params, mesh_axis)
        return plan.spread_state(inner.init(plan.zeros(params)))

    def update(updates, state, params=None, **extra_args):
        plan = _Plan.of(updates, mesh_axis)
        alike, others = _tree.matching(updates, extra_args)
        stacks = {name: plan.stacked(value) for name, value in alike.items()}
        weights = None if params is None else plan.stacked(params)

        def apply(updates, state, params, stacks):
            return inner.update(updates, state, params, **stacks, **others)

        moved, state = plan.run(apply, (plan.stacked(updates), state, weights, stacks))
        return plan.unstacked(moved, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def _require_matrices(params: PyTree) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if jnp.ndim(leaf) < 2:
            raise ValueError(
                f"parameter {_checks.path_name(path)!r} has shape {jnp.shape(leaf)}; a "
                "matrix has rank 2 or more. Give it another rule with "
                "optimx.matrices_only(..., otherwise=...)."
            )


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Which leaves make a stack, and the mesh axes that it is split over."""

    groups: tuple[tuple[int, ...], ...]
    mesh: Any
    axes: tuple[str, ...]

    @classmethod
    def of(cls, tree: PyTree, mesh_axis: str | Sequence[str] | None) -> "_Plan":
        leaves = jax.tree.leaves(tree)
        groups: dict[Any, list[int]] = {}
        for index, leaf in enumerate(leaves):
            if jnp.size(leaf):
                kind = _tree.wide_dtype(leaf.dtype)
                groups.setdefault((*leaf.shape[-2:], kind), []).append(index)
        mesh = _mesh_of(leaves)
        return cls(tuple(map(tuple, groups.values())), mesh, _axes(mesh, mesh_axis))

    @property
    def devices(self) -> int:
        return math.prod(self.mesh.shape[axis] for axis in self.axes)

    @property
    def explicit(self) -> bool:
        """Whether shardings are part of types, so that code must say each change."""
        return self.mesh is not None and AxisType.Explicit in self.mesh.axis_types

    def stacked(self, tree: PyTree) -> PyTree:
        leaves, structure = jax.tree.flatten(tree)
        out: list[Any] = [optax.MaskedNode() for _ in leaves]
        for group in self.groups:
            members = [self._matrices(leaves[index]) for index in group]
            dtypes = {member.dtype for member in members}
            if len(dtypes) > 1:
                members = [m.astype(_tree.wide_dtype(m.dtype)) for m in members]
            if self.explicit:
                spec = _spec(members[0])
                members = [self._placed(member, spec) for member in members]
            stack = members[0] if len(members) == 1 else self._joined(members)
            missing = -len(stack) % self.devices
            if missing:
                stack = jnp.pad(stack, ((0, missing), (0, 0), (0, 0)))
            out[group[0]] = self._spread(stack)
        return structure.unflatten(out)

    def zeros(self, tree: PyTree) -> PyTree:
        """Stacks neither split nor filled up: first states depend on shapes alone."""
        leaves, structure = jax.tree.flatten(tree)
        out: list[Any] = [optax.MaskedNode() for _ in leaves]
        for group in self.groups:
            count = sum(math.prod(leaves[index].shape[:-2]) for index in group)
            dtypes = {leaves[index].dtype for index in group}
            dtype = dtypes.pop() if len(dtypes) == 1 else None
            dtype = dtype or _tree.wide_dtype(leaves[group[0]].dtype)
            shape = (count, *leaves[group[0]].shape[-2:])
            out[group[0]] = jnp.zeros(shape, dtype)
        return structure.unflatten(out)

    def spread_state(self, state: PyTree) -> PyTree:
        """The state of whole stacks, filled up and split as they are."""
        if not self.axes:
            return state

        def place(x):
            missing = x.ndim and -len(x) % self.devices
            if missing:
                x = jnp.pad(x, ((0, missing), *[(0, 0)] * (x.ndim - 1)), mode="edge")
            return self._moved(x, self._part(x))

        return jax.tree.map(place, state)

    def unstacked(self, stacks: PyTree, like: PyTree) -> PyTree:
        leaves, structure = jax.tree.flatten(like)
        out = list(leaves)
        results = jax.tree.leaves(stacks)
        # The stacks come in the order of the leaves that lead their groups.
        for group, stack in zip(sorted(self.groups), results, strict=True):
            stack = self._gathered(stack, leaves[group[0]])
            start = 0
            for index in group:
                leaf = leaves[index]
                count = math.prod(leaf.shape[:-2])
                matrices = jax.lax.slice_in_dim(stack, start, start + count)
                moved = matrices.reshape(leaf.shape).astype(leaf.dtype)
                out[index] = (
                    self._placed(moved, _spec(leaf)) if self.explicit else moved
                )
                start += count
        return structure.unflatten(out)

    def run(self, function: Any, arguments: tuple) -> Any:
        """``function`` of the whole stacks, or on each device of its own part."""
        if not self.axes:
            return function(*arguments)
        if self.explicit:
            arguments = jax.tree.map(
                lambda x: self._placed(x, self._part(x)), arguments
            )
        # As inside of shard_map: with the caller's explicit mesh around, constants
        # would be of another type than these.
        with jax.sharding.use_abstract_mesh(_NO_MESH):
            shapes = jax.eval_shape(function, *jax.tree.map(self._local, arguments))
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=jax.tree.map(self._part, arguments),
            out_specs=jax.tree.map(self._part, shapes),
            check_vma=False,
        )(*arguments)

    def _joined(self, members: list[jax.Array]) -> jax.Array:
        if self.axes or self.explicit:
            return jnp.concatenate(members)
        # Written one after the other, each is computed where it belongs; on CPU a
        # concatenation computes it elsewhere and copies.
        total = sum(map(len, members))
        stack = jnp.zeros((total, *members[0].shape[1:]), members[0].dtype)
        start = 0
        for member in members:
            stack = jax.lax.dynamic_update_slice_in_dim(stack, member, start, 0)
            start += len(member)
        return stack

    def _part(self, x: Any) -> PartitionSpec:
        return PartitionSpec(self.axes) if x.ndim else PartitionSpec()

    def _local(self, x: Any) -> jax.ShapeDtypeStruct:
        shape = (x.shape[0] // self.devices, *x.shape[1:]) if x.ndim else ()
        weak = getattr(x, "weak_type", False)
        return jax.ShapeDtypeStruct(shape, x.dtype, weak_type=weak)

    def _matrices(self, leaf: jax.Array) -> jax.Array:
        """The leaf as (matrices, rows, columns)."""
        if self.explicit:
            rest = (*_spec(leaf), *[None] * leaf.ndim)[: leaf.ndim]
            spec = PartitionSpec(*[None] * (leaf.ndim - 2), *rest[-2:])
            leaf = self._placed(leaf, spec)
        return leaf.reshape(-1, *leaf.shape[-2:])

    def _placed(self, x: jax.Array, spec: PartitionSpec) -> jax.Array:
        return jax.sharding.reshard(x, NamedSharding(self.mesh, spec))

    def _spread(self, stack: jax.Array) -> jax.Array:
        """Splits the stack itself over one mesh axis after the other.

        One at a time is one all-to-all each; all at once, the compiler knows no
        better than to copy the whole stack to every device.
        """
        if self.explicit and not self.axes:
            # The types of leaves may name axes of one device: products refuse those.
            return self._placed(stack, PartitionSpec())
        for spec in self._stages(stack):
            stack = self._moved(stack, spec)
        return stack

    def _gathered(self, stack: jax.Array, leaf: jax.Array) -> jax.Array:
        """Takes the split of the stack back, to that of the leaf's matrices."""
        if not self.axes:
            return stack
        if self.explicit:
            target = self._matrices(leaf)
            last = _spec(target)
        else:
            target = stack
            free = PartitionSpec.UNCONSTRAINED
            last = PartitionSpec(None, free, free)
        for spec in (*self._stages(target)[-2::-1], last):
            stack = self._moved(stack, spec)
        return stack

    def _stages(self, stack: jax.Array) -> list[PartitionSpec]:
        specs = []
        for count in range(1, len(self.axes) + 1):
            done = self.axes[:count]
            if self.explicit:
                rest = [
                    _layout.without(entry, done)
                    for entry in (*_spec(stack), None, None)
                ]
                specs.append(PartitionSpec(done, rest[1], rest[2]))
            elif count < len(self.axes):
                free = PartitionSpec.UNCONSTRAINED
                specs.append(PartitionSpec(done, free, free))
            else:
                specs.append(PartitionSpec(done, None, None))
        return specs

    def _moved(self, stack: jax.Array, spec: PartitionSpec) -> jax.Array:
        if self.explicit:
            return self._placed(stack, spec)
        return jax.lax.with_sharding_constraint(stack, NamedSharding(self.mesh, spec))


def _spec(x: jax.Array) -> PartitionSpec:
    return jax.typeof(x).sharding.spec


def _mesh_of(leaves: Sequence[Any]) -> Any:
    """The mesh on which leaves live, or the ambient one; None where there is none."""
    for leaf in leaves:
        mesh = jax.typeof(leaf).sharding.mesh
        if not mesh.empty:
            return mesh
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty else mesh


def _axes(mesh: Any, mesh_axis: str | Sequence[str] | None) -> tuple[str, ...]:
    """The axes to split over, or none where there is one device."""
    free = {}
    if mesh is not None:
        kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
        # Inside a shard_map of the caller's, its axes are the caller's business.
        free = {n: mesh.shape[n] for n, kind in kinds if kind != AxisType.Manual}
    if mesh_axis is None:
        names = tuple(free)
    else:
        names = (mesh_axis,) if isinstance(mesh_axis, str) else tuple(mesh_axis)
        for name in names:
            if name not in free:
                there = f"the mesh has {tuple(free)}" if free else "there is no mesh"
                raise ValueError(f"in_stacks: no mesh axis is named {name!r}; {there}.")
    return tuple(name for name in names if free[name] > 1)
