"""Who counts as a matrix: labels for the leaves of a parameter tree."""

import fnmatch
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import optax

from optimx import _checks
from optimx.typing import Labels, PyTree

MATRIX = "matrix"
OTHER = "other"


def by_rank(params: optax.Params) -> PyTree:
    """Labels leaves of rank 2 and above ``"matrix"`` and the rest ``"other"``.

    Embeddings, heads and biases stacked over layers count as matrices here; name
    them with :func:`by_path` where they should not.

    Args:
      params: a tree of arrays.

    Returns:
      A tree of strings.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> optimx.by_rank({'kernel': jnp.ones((2, 3)), 'bias': jnp.ones(3)})
      {'bias': 'other', 'kernel': 'matrix'}
    """
    return jax.tree.map(lambda p: MATRIX if jnp.ndim(p) >= 2 else OTHER, params)


def by_path(
    others: str | Iterable[str] = (), *, matrices: str | Iterable[str] = ()
) -> Callable[[optax.Params], PyTree]:
    """Labels leaves by the pattern of their path, and by rank where none fits.

    A path is written ``blocks/0/attention/kernel``; patterns are those of
    :mod:`fnmatch`, in which ``*`` also matches ``/``.

    Args:
      others: patterns of leaves that are not matrices whatever their rank, such as
        ``("*embed*", "*head*")``. They win over ``matrices``.
      matrices: patterns of leaves that are matrices; they must have rank 2 or more.

    Returns:
      A function from a parameter tree to a tree of labels.

    Raises:
      TypeError: where a pattern is not a string.
      ValueError: when called, where a leaf below rank 2 is named a matrix.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> params = {'embed': jnp.ones((9, 4)), 'dense': jnp.ones((4, 4))}
      >>> optimx.by_path('*embed*')(params)
      {'dense': 'matrix', 'embed': 'other'}
    """
    patterns = {
        kind: [names] if isinstance(names, str) else list(names)
        for kind, names in ((OTHER, others), (MATRIX, matrices))
    }
    for kind, names in patterns.items():
        for name in names:
            if not isinstance(name, str):
                raise TypeError(
                    f"by_path: patterns of {kind!r} must be strings, got {name!r}."
                )

    def label(path, leaf):
        name = _checks.path_name(path)
        for kind, names in patterns.items():
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in names):
                if kind == MATRIX and jnp.ndim(leaf) < 2:
                    raise ValueError(
                        f"by_path: {name!r} is named a matrix and has shape "
                        f"{jnp.shape(leaf)}; a matrix has rank 2 or more."
                    )
                return kind
        return by_rank(leaf)

    return lambda params: jax.tree_util.tree_map_with_path(label, params)


NOT_HIDDEN = (
    "*embed*",
    "*wte*",
    "*wpe*",
    "*logits*",
    "*lm_head*",
    *("head", "head/*", "*/head", "*/head/*"),
    *("*bias*", "*scale*", "*norm*"),
)
"""Path patterns of embeddings, heads, and biases and norms stacked over layers."""


def hidden_matrices(params: optax.Params) -> PyTree:
    """Labels the matrices between embedding and head, and the rest ``"other"``.

    Leaves of rank 2 and above are matrices unless their path, in lower case, says that
    they are an embedding (``*embed*``, ``*wte*``, ``*wpe*``), a head (``*lm_head*``,
    ``*logits*``, or a part of the path called ``head``), or vectors stacked over
    layers (``*bias*``, ``*scale*``, ``*norm*``). Optimizers of matrices use these
    labels unless told otherwise: by :func:`by_rank`, :func:`by_path`, or your own.

    Args:
      params: a tree of arrays.

    Returns:
      A tree of strings.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> params = {
      ...     'wte': jnp.ones((9, 4)),
      ...     'block': {'kernel': jnp.ones((3, 4, 4)), 'bias': jnp.ones((3, 4))}}
      >>> print(optimx.describe_labels(params, optimx.hidden_matrices))
      other   (3, 4)     block/bias
      matrix  (3, 4, 4)  block/kernel
      other   (9, 4)     wte
    """

    def label(path, leaf):
        name = _checks.path_name(path).lower()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in NOT_HIDDEN):
            return OTHER
        return by_rank(leaf)

    return jax.tree_util.tree_map_with_path(label, params)


def describe_labels(params: optax.Params, labels: Labels = by_rank) -> str:
    """Says which leaf gets which label, a line each.

    Args:
      params: a tree of arrays.
      labels: a tree of strings shaped as ``params`` (or a prefix of it), or a
        function that makes one.

    Returns:
      A table as text, of label, shape and path, in the order of the tree.

    Examples:
      >>> import jax.numpy as jnp, optimx
      >>> params = {'kernel': jnp.ones((2, 3)), 'bias': jnp.ones(3)}
      >>> print(optimx.describe_labels(params))
      other   (3,)    bias
      matrix  (2, 3)  kernel
    """
    tree = resolve_labels("describe_labels", labels, params)
    rows = [
        (label, str(jnp.shape(leaf)), _checks.path_name(path))
        for (path, leaf), label in zip(
            jax.tree_util.tree_leaves_with_path(params),
            jax.tree.leaves(tree),
            strict=True,
        )
    ]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(2)]
    return "\n".join(
        f"{label:<{widths[0]}}  {shape:<{widths[1]}}  {path}"
        for label, shape, path in rows
    )


def resolve_labels(
    where: str,
    labels: Labels,
    params: optax.Params,
    allowed: tuple[str, ...] = (MATRIX, OTHER),
) -> PyTree:
    """The label of every leaf of ``params``, checked against what is ``allowed``.

    Raises:
      ValueError: where labels do not fit the parameters or a label is unknown.
    """
    tree = labels(params) if callable(labels) else labels
    _checks.prefix_tree(
        where,
        "labels",
        tree,
        params,
        lambda label: label in allowed,
        f"the labels {allowed}",
    )
    return jax.tree.map(
        lambda label, part: jax.tree.map(lambda _: label, part), tree, params
    )
