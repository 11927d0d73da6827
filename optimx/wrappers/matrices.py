"""Which leaves a matrix rule sees, and as which matrices."""

import fnmatch
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimx import _checks, _layout, _probe, _tree
from optimx.partition import MATRIX, OTHER, by_rank, resolve_labels
from optimx.typing import Labels


def matrices_only(
    inner: optax.GradientTransformation,
    *,
    otherwise: optax.GradientTransformation = optax.identity(),
    labels: Labels = by_rank,
) -> optax.GradientTransformationExtraArgs:
    """Applies ``inner`` to matrices and ``otherwise`` to every other leaf.

    The signals that travel beside the updates (``observed``, ``stale_grads``) are
    split in the same way, so that a preconditioner inside sees its own leaves only.

    Args:
      inner: the transformation of leaves labelled ``"matrix"``.
      otherwise: the transformation of leaves labelled ``"other"``; by default they
        pass unchanged. A whole optimizer may stand here, with its own learning
        rate.
      labels: a tree of labels shaped as the parameters (or a prefix of it), or a
        function that makes one: :func:`by_rank` (default), :func:`by_path`.

    Returns:
      A transformation whose state is an :class:`optax.PartitionState`.

    Raises:
      TypeError: where an argument is not a transformation.
      ValueError: at ``init``, where the labels do not fit the parameters.

    Examples:
      MARS as its authors run it, with AdamW for what is not a matrix:

      >>> import jax.numpy as jnp, optimx
      >>> tx = optimx.matrices_only(
      ...     optimx.mars_adamw(6e-3, weight_decay=1e-2),
      ...     otherwise=optimx.adamw(3e-3, b1=0.9, b2=0.95, weight_decay=0.1))
      >>> params = {'kernel': jnp.ones((4, 4)), 'bias': jnp.ones(4)}
      >>> updates, state = tx.update(params, tx.init(params), params)
    """
    _checks.transformation("matrices_only", "inner", inner)
    _checks.transformation("matrices_only", "otherwise", otherwise)

    def resolve(params):
        return resolve_labels("matrices_only", labels, params)

    return optax.partition(
        {
            MATRIX: _probe.within(MATRIX, inner),
            OTHER: _probe.within(OTHER, otherwise),
        },
        resolve,
        mask_compatible_extra_args=True,
    )


class MatrixAxes(NamedTuple):
    """Which axes of a leaf are the rows and the columns of its matrices.

    Attributes:
      rows: axes that are merged, in this order, into the rows.
      columns: axes that are merged, in this order, into the columns. Axes that are
        neither are batch axes.
    """

    rows: Sequence[int]
    columns: Sequence[int]


def as_matrices(
    inner: optax.GradientTransformation,
    spec: Mapping[str, tuple[Sequence[int], Sequence[int]]],
) -> optax.GradientTransformationExtraArgs:
    """Shows ``inner`` leaves of higher rank as batches of matrices.

    An attention kernel of shape (d, heads, head_dim) is one d x (heads head_dim)
    matrix; a convolution kernel (height, width, in, out) is one (height width in) x
    out matrix, or height times width matrices of in x out. Each leaf named in
    ``spec`` becomes a view of shape (batch, rows, cols), batch being 1 where all
    axes are used; other leaves stay as they are. The state has the shapes of the
    views; it is split over the mesh axes that split the leaf, each of its axes over
    those of the axes that it merges. Extra arguments shaped as the updates are shown
    likewise.

    Args:
      inner: any transformation.
      spec: path patterns (as in :func:`by_path`) with their row and column axes; the
        first pattern that fits a leaf counts.

    Returns:
      A transformation whose updates have the leaves' own shapes again.

    Raises:
      TypeError: where ``inner`` is not a transformation.
      ValueError: where an axis is named twice, or rows or columns are empty; at
        ``init``, where a leaf has no such axis.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> params = {'query': {'kernel': jnp.ones((8, 2, 4))}}
      >>> tx = optimx.as_matrices(
      ...     optimx.scale_by_factored_rms(0.99), {'query/*': ((0,), (1, 2))})
      >>> print(tx.init(params).row['query']['kernel'].shape)
      (1, 8)
    """
    _checks.transformation("as_matrices", "inner", inner)
    inner = optax.with_extra_args_support(inner)
    axes = {pattern: MatrixAxes(*pair) for pattern, pair in spec.items()}
    for pattern, (rows, columns) in axes.items():
        if not rows or not columns:
            raise ValueError(
                f"as_matrices: {pattern!r} needs row and column axes, got "
                f"{tuple(rows)} and {tuple(columns)}."
            )

    def grouped(path, leaf):
        """A named leaf's axes in three groups: batch, rows, columns."""
        name = _checks.path_name(path)
        for pattern, (rows, columns) in axes.items():
            if not fnmatch.fnmatchcase(name, pattern):
                continue
            used = [*rows, *columns]
            if not all(-leaf.ndim <= axis < leaf.ndim for axis in used):
                raise ValueError(
                    f"as_matrices: {name!r} has shape {leaf.shape}; {pattern!r} asks "
                    f"for the axes {tuple(rows)} and {tuple(columns)}."
                )
            used = [axis % leaf.ndim for axis in used]
            if len(set(used)) < len(used):
                raise ValueError(
                    f"as_matrices: {pattern!r} names an axis of {name!r} twice: "
                    f"{tuple(rows)} and {tuple(columns)}."
                )
            batch = [axis for axis in range(leaf.ndim) if axis not in used]
            return batch, used[: len(rows)], used[len(rows) :]
        return None

    def show(path, leaf):
        groups = grouped(path, leaf)
        if groups is None:
            return leaf
        shape = tuple(math.prod(leaf.shape[i] for i in group) for group in groups)
        moved = jnp.transpose(leaf, [*itertools.chain(*groups)])
        return _layout.reshaped(moved, shape, _merged(_layout.spec_of(leaf), groups))

    def hide(path, view, leaf):
        groups = grouped(path, leaf)
        if groups is None:
            return view
        order = [*itertools.chain(*groups)]
        spec = _layout.spec_of(leaf)
        moved = _layout.reshaped(
            view,
            tuple(leaf.shape[axis] for axis in order),
            spec and [spec[axis] for axis in order],
        )
        inverse = sorted(range(leaf.ndim), key=order.__getitem__)
        return jnp.transpose(moved, inverse)

    def shown(tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(show, tree)

    def init(params):
        return inner.init(shown(_tree.materialized(params)))

    def update(updates, state, params=None, **extra_args):
        alike, others = _tree.matching(updates, extra_args)
        alike = {name: shown(value) for name, value in alike.items()}
        views, state = inner.update(
            shown(updates), state, shown(params), **alike, **others
        )
        return jax.tree_util.tree_map_with_path(hide, views, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def _merged(spec: Any, groups: Sequence[Sequence[int]]) -> Any:
    """How the view is split: each of its axes over all that split what it merges.

    So it has as many parts as the leaf. Where the first axis of a group is split and
    no other, a device holds of the view what it holds of the leaf.
    """
    if spec is None:
        return None
    names = ([_layout.names_of(spec[axis]) for axis in group] for group in groups)
    return [tuple(itertools.chain(*entry)) or None for entry in names]
