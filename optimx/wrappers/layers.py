"""Layer by layer, for parameters that stack layers along a leading axis."""

import collections
import fnmatch
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from optimx import _checks, _layout, _probe, _tree
from optimx.typing import PyTree


def per_layer(
    inner: optax.GradientTransformation,
    stacked: str | Iterable[str] | Callable[[optax.Params], PyTree],
) -> optax.GradientTransformationExtraArgs:
    """Treats each layer of a stack as a leaf of its own.

    Scanned models keep the kernels of all layers in one array (layers, in, out). A
    rule that takes the norm of a leaf, factors it or orthogonalizes it would mix the
    layers; inside this wrapper it is mapped over the leading axis of the stacked
    leaves and sees one layer at a time. The other leaves go to a second copy of
    ``inner`` as they are, so that no transformation sees both kinds at once.

    Over Explicit mesh axes all layers are split alike, as most numbers of the stacked
    leaves are; a device works on the layers that it holds, and updates come back as
    their leaves are split.

    Args:
      inner: any transformation; it is mapped with :func:`jax.vmap`, and its state
        for the stacked leaves (counters included) has a leading axis of layers.
      stacked: path patterns (as in :func:`by_path`) of the stacked leaves, or a
        function from a parameter tree to a tree of booleans. All stacked leaves have
        the same number of layers; nest two wrappers for two stacks.

    Returns:
      A transformation whose state is an :class:`optax.PartitionState` with the parts
      ``"stacked"`` and ``"single"``.

    Raises:
      TypeError: where ``inner`` is not a transformation.
      ValueError: at ``init``, where a stacked leaf is a scalar or two stacks differ
        in length.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> params = {'blocks': jnp.ones((12, 8, 8)), 'embed': jnp.ones((64, 8))}
      >>> tx = optimx.per_layer(optimx.clip_by_block_norm(1.0), 'blocks*')
      >>> updates, _ = tx.update(params, tx.init(params))
      >>> print(jnp.linalg.norm(updates['blocks'][3]).round(4))
      1.0
    """
    _checks.transformation("per_layer", "inner", inner)
    is_stacked = stacked if callable(stacked) else _by_pattern(stacked)

    def labels(params):
        return jax.tree.map(
            lambda yes: "stacked" if yes else "single", is_stacked(params)
        )

    return optax.partition(
        {"stacked": _mapped(inner), "single": inner},
        labels,
        mask_compatible_extra_args=True,
    )


def _by_pattern(patterns: str | Iterable[str]) -> Callable[[optax.Params], PyTree]:
    names = [patterns] if isinstance(patterns, str) else list(patterns)

    def fits(path, _):
        name = _checks.path_name(path)
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in names)

    return lambda params: jax.tree_util.tree_map_with_path(fits, params)


def _mapped(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """``inner``, mapped over the leading axis of every leaf."""
    inner = optax.with_extra_args_support(inner)

    def init(params):
        _same_length(params)
        if not jax.tree.leaves(params):
            return inner.init(params)
        params = _tree.materialized(params)
        return _over_layers(lambda params, _: inner.init(params), (params,), params)

    def update(updates, state, params=None, **extra_args):
        if not jax.tree.leaves(updates):
            return inner.update(updates, state, params, **extra_args)
        alike, others = _tree.matching(updates, extra_args)
        arrays, others = _tree.of_arrays(others)

        def layer(updates, state, params, alike, arrays):
            return inner.update(updates, state, params, **alike, **arrays, **others)

        arguments = updates, state, params, alike
        lifted = _probe.lifted(layer)
        result, told = _over_layers(lifted, arguments, updates, arrays)
        _probe.retell(told)
        moved, state = result
        return jax.tree.map(_as_it_was, moved, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def _over_layers(
    function: Callable, arguments: tuple, like: PyTree, shared: PyTree = ()
) -> Any:
    """``function`` of each layer and of what all layers share.

    Where types say how layers are split, a device works on those that it holds.
    """
    mesh, axes = _split(like)
    mapped = jax.vmap(function, in_axes=(*[0] * len(arguments), None))
    if mesh is None:
        return mapped(*arguments, shared)

    def place(x, *first):
        spec = (_layout.spec_of(x) or [None] * jnp.ndim(x))[len(first) :]
        rest = [_layout.without(entry, axes) for entry in spec]
        return _layout.placed(x, mesh, (*first, *rest))

    arguments = jax.tree.map(lambda x: place(x, axes or None), arguments)
    if not axes:
        return mapped(*arguments, shared)
    # Not by vmap alone: what is mapped would go on naming the mesh axes of the layers,
    # such as a rule that splits its matrices over all that there are.
    layers = PartitionSpec(axes)
    on_devices = jax.shard_map(
        mapped,
        mesh=mesh,
        in_specs=(*[layers] * len(arguments), PartitionSpec()),
        out_specs=layers,
        axis_names=set(axes),
        check_vma=False,
    )
    # Outside of a program JAX maps over all axes of a mesh or none.
    return jax.jit(on_devices)(*arguments, jax.tree.map(place, shared))


def _split(tree: PyTree) -> tuple[Any, tuple[str, ...]]:
    """The mesh, where types know it, and its axes over which the layers are split.

    One answer for all leaves, that of most numbers: counters, which belong to no leaf,
    have layers too.
    """
    mesh, numbers = None, collections.Counter()
    for leaf in jax.tree.leaves(tree):
        spec = _layout.spec_of(leaf)
        if spec is not None:
            mesh = _layout.mesh_of(leaf)
            numbers[_layout.names_of(spec[0])] += jnp.size(leaf)
    return mesh, max(numbers, key=lambda axes: (numbers[axes], axes), default=())


def _as_it_was(moved: jax.Array, update: jax.Array) -> jax.Array:
    mesh, spec = _layout.mesh_of(update), _layout.spec_of(update)
    return moved if spec is None else _layout.placed(moved, mesh, spec)


def _same_length(params: PyTree) -> None:
    lengths: dict[int, str] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = _checks.path_name(path)
        if jnp.ndim(leaf) == 0:
            raise ValueError(f"per_layer: {name!r} is a scalar and stacks no layers.")
        lengths.setdefault(jnp.shape(leaf)[0], name)
    if len(lengths) > 1:
        found = ", ".join(f"{name!r} has {n}" for n, name in lengths.items())
        raise ValueError(
            "per_layer: stacked leaves must have the same number of layers along "
            f"their leading axis; {found}. Nest one per_layer for each stack."
        )
