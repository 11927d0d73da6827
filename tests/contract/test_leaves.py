"""Trees that are not all matrices: scalars, empty arrays, None, masks, nothing."""

import jax.numpy as jnp
import optax
import pytest

from tests.contract import _trees
from tests.contract._trees import every

KERNEL = (4, 3)

ODD = {
    "scalar": (),
    "empty vector": (0,),
    "no rows": (0, 4),
    "no columns": (4, 0),
    "no layers": (0, 4, 3),
    "one number": (1, 1),
}

ABSENT = {"none": None, "masked": optax.MaskedNode()}


def both(name, params, grads):
    return _trees.one_update(name, _trees.build(name), params, grads)


@every
def test_odd_leaves_disturb_nothing(name):
    params, grads = (
        {"kernel": _trees.draw(seed, KERNEL)} | _trees.draw(seed, ODD) | ABSENT
        for seed in (0, 1)
    )
    before, updates, after = both(name, params, grads)
    assert _trees.avals(after) == _trees.avals(before)
    assert _trees.avals(updates) == _trees.avals(params)
    _trees.assert_finite((updates, after))
    assert updates["none"] is None
    assert updates["masked"] == optax.MaskedNode()
    _, alone, _ = both(name, {"kernel": params["kernel"]}, {"kernel": grads["kernel"]})
    _trees.assert_same(updates["kernel"], alone["kernel"], **_trees.single(name))


@every
def test_leaves_mind_their_own_business(name):
    """What a leaf gets does not depend on its neighbours."""
    params, grads = _trees.draw(0), _trees.draw(1)
    _, together, _ = both(name, params, grads)
    _, beside, _ = both(name, params, grads | {"stack": 100 * grads["stack"]})
    _trees.assert_same(beside["block"], together["block"])


@every
@pytest.mark.parametrize("tree", [{}, (), {"a": {}, "b": None}], ids=repr)
def test_an_empty_tree_is_a_tree(name, tree):
    tx = _trees.build(name)
    state = tx.init(tree)
    updates, after = tx.update(tree, state, tree, **_trees.extra(name, tree))
    assert updates == tree
    assert _trees.avals(after) == _trees.avals(state)


@every
def test_a_bare_array_is_a_tree(name):
    params, grads = _trees.draw(0, KERNEL), _trees.draw(1, KERNEL)
    _, updates, _ = both(name, params, grads)
    _, inside, _ = both(name, {"kernel": params}, {"kernel": grads})
    _trees.assert_same(updates, inside["kernel"], **_trees.single(name))


@every
def test_integer_parameters_are_named(name):
    params = {"table": {"rows": jnp.arange(3)}, "kernel": jnp.ones((2, 2))}
    with pytest.raises(ValueError, match=r"'table/rows' has dtype int32"):
        _trees.build(name).init(params)
