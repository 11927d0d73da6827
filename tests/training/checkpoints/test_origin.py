import jax.numpy as jnp
import pytest

from optimx.training.checkpoints.origin import (
    changed_keys,
    leaves_of,
    require_data,
    require_leaves,
)
from optimx.training.errors import InputError

STATE = {"params": {"w": jnp.zeros([2, 3])}, "count": jnp.zeros([], jnp.int32)}


def test_a_leaf_is_its_path_dtype_and_shape():
    assert leaves_of(STATE) == {"params/w": "float32[2,3]", "count": "int32[]"}


def test_the_same_leaves_pass():
    require_leaves(leaves_of(STATE), STATE, "here")


def test_the_first_three_leaves_that_differ_are_shown():
    found = {"params/w": "float32[2,4]", "a": "int32[]", "b": "int32[1]"}
    with pytest.raises(InputError) as error:
        require_leaves(found, STATE, "run/7: the checkpoint")
    assert str(error.value) == (
        "run/7: the checkpoint is of another model or optimizer: "
        "4 of 4 leaves differ: "
        "count: expected int32[], found none; "
        "params/w: expected float32[2,3], found float32[2,4]; "
        "a: expected none, found int32[]; and 1 more"
    )


def test_other_data_are_refused():
    require_data("aa", "aa", "here")
    with pytest.raises(InputError, match="other data: its SHA-256 is aa"):
        require_data("aa", "bb", "here")


def test_keys_that_changed():
    before = "[train]\nsteps = 3\nseed = 0\n[optimizer]\nname = 'lion'\n"
    after = "[train]\nsteps = 4\nseed = 0\n[optimizer.others]\nname = 'adamw'\n"
    assert changed_keys(before, before) == []
    assert changed_keys(before, after) == [
        "optimizer.name",
        "optimizer.others.name",
        "train.steps",
    ]
