"""What the arrays of a state hold, by the type of the state and not by a name alone."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib
import pytest

import optimx
from optimx.wrappers import kinds
from optimx.wrappers.kinds import Field, map_state


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    """A model as Equinox and flax.struct have them: with fields called anything."""

    v: Any
    mu: Any


class KeptState(NamedTuple):
    """Of somebody's transformation."""

    kept: Any
    nu: Any
    inner: Any = ()


LAYER = Layer(jnp.ones(2), [jnp.ones(3)])


def entered(x):
    return False


def kinds_in(state):
    """What :func:`optimx.moments` says of each array."""
    found = []

    def ask(path, x):
        found.append(optimx.moments(path))

    map_state(ask, state, is_leaf=entered)
    return found


def test_one_name_means_many_things():
    adam = optax.ScaleByAdamState(jnp.ones([]), LAYER, LAYER)
    assert kinds_in(adam) == [None, *["signed"] * 2, *["positive"] * 2]
    assert kinds_in(optax.ScaleBySM3State(LAYER, LAYER)) == [None] * 2 + ["signed"] * 2
    sophia = optax.contrib.SophiaState(jnp.ones([]), LAYER, LAYER, ())
    assert kinds_in(sophia) == [None, *["signed"] * 2, *[None] * 2]
    adan = optax.ScaleByAdanState(*[jnp.ones(1)] * 5)
    assert kinds_in(adan) == ["signed", "signed", "positive", "signed", None]


def test_names_of_parameters_mean_nothing():
    assert kinds_in(KeptState(LAYER, LAYER)) == [None] * 4
    assert kinds_in(optimx.scale_by_factored_rms(0.9).init(LAYER)) == [None] * 4
    assert kinds_in(optimx.ema(0.9).init(LAYER)) == [None, "signed", "signed"]


def test_the_outermost_known_state_says_what_is_in_its_fields():
    """Parameters may even be of the type of a state."""
    tree = optax.ScaleByAdamState(jnp.ones(1), {"w": jnp.ones(8)}, jnp.ones(8))
    assert set(kinds_in(optimx.scale_by_factored_rms(0.9).init(tree))) == {None}
    assert set(kinds_in(optimx.ema(0.9).init(tree).average)) == {
        None,
        "signed",
        "positive",
    }
    assert kinds_in(optimx.ema(0.9).init(tree)) == [None, *["signed"] * 3]


def test_known_states_are_known_inside_others():
    inner = KeptState(jnp.ones(1), jnp.ones(1), [optax.TraceState(jnp.ones(1))])
    assert kinds_in({"of": (inner,)}) == [None, None, "signed"]


def test_fields_without_types_are_refused():
    state = optimx.ema(0.9).init(jnp.ones(2))
    (_, (path, _)) = jax.tree_util.tree_leaves_with_path(state)
    with pytest.raises(TypeError, match=r"moments: path must be .* got 'average' with"):
        optimx.moments(path)


def test_every_known_field_exists():
    for of, fields in kinds.KINDS.items():
        assert set(fields) <= set(of._fields), of
        assert set(fields.values()) <= {"signed", "positive"}


STATE = {
    "b": KeptState([jnp.ones(1), None], (LAYER, optax.MaskedNode()), {}),
    "a": (jnp.ones(2), KeptState(LAYER, None)),
}


@pytest.mark.parametrize("state", [STATE, (), None, jnp.ones(1), [None, ()]], ids=str)
@pytest.mark.parametrize("whole", [(), KeptState, Layer, tuple], ids=str)
def test_a_walk_is_that_of_jax_but_for_the_types(state, whole):
    def is_leaf(x):
        return isinstance(x, whole)

    def both(path, x, y):
        return [repr(key) for key in path], x, y

    ours = map_state(both, state, state, is_leaf=is_leaf)
    theirs = jax.tree_util.tree_map_with_path(both, state, state, is_leaf=is_leaf)
    assert str(ours) == str(theirs)


def test_fields_know_their_types_and_are_keys_all_the_same():
    paths = []
    map_state(lambda path, x: paths.append(path), STATE, is_leaf=entered)
    theirs = [path for path, _ in jax.tree_util.tree_leaves_with_path(STATE)]
    assert paths == theirs
    assert [*map(hash, paths)] == [*map(hash, theirs)]
    assert [*map(jax.tree_util.keystr, paths)] == [*map(jax.tree_util.keystr, theirs)]
    types = [[key.of for key in path if isinstance(key, Field)] for path in paths]
    both = [KeptState, Layer]
    assert types == [[], both, both, [KeptState], both, both]
