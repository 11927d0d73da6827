"""Where optimizer state lives: shardings derived from the parameters'."""

from typing import Any

import jax
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from optimx import _checks
from optimx.typing import PyTree


def state_shardings(tx: optax.GradientTransformation, params: PyTree) -> PyTree:
    """The sharding of every leaf of the optimizer state, from the parameters' own.

    Moments are sharded as their parameter, factored rows and columns as the axes
    that they keep, counters replicated: nothing is written by hand, because every
    transformation computes its first state *from* the parameter and JAX's explicit
    sharding rules propagate. ``tx.init`` is traced and not run.

    Pass the result as ``out_shardings`` of the jitted ``init`` and of the training
    step. Without it, ``jax.jit(tx.init)(params)`` over a mesh with Auto axes may
    silently replicate the state.

    Args:
      tx: any transformation.
      params: a tree of arrays, or of :class:`jax.ShapeDtypeStruct`, each with a
        :class:`jax.sharding.NamedSharding`, all on one mesh.

    Returns:
      A tree of :class:`jax.sharding.NamedSharding` with the structure of the state,
      on the parameters' mesh.

    Raises:
      ValueError: where a parameter has no NamedSharding, or the meshes differ.

    Examples:
      >>> import jax, jax.numpy as jnp, optimx
      >>> from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
      >>> mesh = jax.make_mesh((1,), ('fsdp',), axis_types=(AxisType.Auto,))
      >>> kernel = jax.device_put(
      ...     jnp.ones((8, 4)), NamedSharding(mesh, P('fsdp', None)))
      >>> tx = optimx.came(1e-3)
      >>> shardings = optimx.state_shardings(tx, {'kernel': kernel})
      >>> print(tuple(shardings['scale'].row['kernel'].spec))
      ('fsdp',)
      >>> init = jax.jit(tx.init, out_shardings=shardings)
    """
    mesh = _mesh_of(params)
    abstract = mesh.abstract_mesh.update_axis_types(
        dict.fromkeys(mesh.axis_names, AxisType.Explicit)
    )

    def explicit(leaf):
        return jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=NamedSharding(abstract, leaf.sharding.spec)
        )

    with jax.sharding.use_abstract_mesh(abstract):
        state = jax.eval_shape(tx.init, jax.tree.map(explicit, params))
    return jax.tree.map(lambda leaf: NamedSharding(mesh, _spec(leaf)), state)


def _spec(leaf: Any) -> PartitionSpec:
    sharding = leaf.sharding
    return PartitionSpec() if sharding is None else sharding.spec


def _mesh_of(params: PyTree) -> Any:
    meshes: dict[Any, str] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = _checks.path_name(path)
        sharding = getattr(leaf, "sharding", None)
        if not isinstance(sharding, NamedSharding):
            raise ValueError(
                f"state_shardings: parameter {name!r} must have a NamedSharding, got "
                f"{sharding!r}."
            )
        meshes.setdefault(sharding.mesh, name)
    if len(meshes) != 1:
        raise ValueError(
            "state_shardings: parameters must live on one mesh, got "
            f"{len(meshes)}: {', '.join(f'{n!r} on {m}' for m, n in meshes.items())}."
        )
    return next(iter(meshes))
