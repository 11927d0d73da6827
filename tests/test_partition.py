import jax
import jax.numpy as jnp
import optax
import pytest

import optimx
from optimx.partition import resolve_labels

PARAMS = {
    "embed": {"table": jnp.ones((9, 4))},
    "blocks": [
        {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)},
        {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)},
    ],
    "gain": jnp.ones(()),
}


def test_by_rank():
    assert optimx.by_rank(PARAMS) == {
        "embed": {"table": "matrix"},
        "blocks": [{"kernel": "matrix", "bias": "other"}] * 2,
        "gain": "other",
    }


def test_by_rank_of_shapes_and_of_higher_rank():
    shapes = {"conv": jax.ShapeDtypeStruct((3, 3, 2, 2), jnp.float32), "none": None}
    assert optimx.by_rank(shapes) == {"conv": "matrix", "none": None}


def test_by_path_falls_back_on_the_rank():
    assert optimx.by_path()(PARAMS) == optimx.by_rank(PARAMS)


def test_by_path_keeps_leaves_out():
    labels = optimx.by_path(("*embed*", "blocks/1/*"))(PARAMS)
    assert labels["embed"] == {"table": "other"}
    assert labels["blocks"][0] == {"kernel": "matrix", "bias": "other"}
    assert labels["blocks"][1] == {"kernel": "other", "bias": "other"}


def test_patterns_keep_their_case_and_fit_whole_paths():
    for pattern in ("*EMBED*", "table", "embed"):
        assert optimx.by_path(pattern)(PARAMS)["embed"] == {"table": "matrix"}
    assert optimx.by_path("*/table")(PARAMS)["embed"] == {"table": "other"}


def test_others_win_over_matrices():
    labels = optimx.by_path("*/0/*", matrices="*kernel")(PARAMS)
    assert labels["blocks"][0]["kernel"] == "other"
    assert labels["blocks"][1]["kernel"] == "matrix"


def test_patterns_may_be_any_iterable_read_once():
    label = optimx.by_path(pattern for pattern in ("*embed*",))
    assert label(PARAMS) == label(PARAMS)
    assert label(PARAMS)["embed"] == {"table": "other"}


def test_a_vector_is_no_matrix():
    with pytest.raises(ValueError, match=r"by_path: 'blocks/0/bias' .* shape \(4,\)"):
        optimx.by_path(matrices="*bias")(PARAMS)


@pytest.mark.parametrize("arguments", [{"others": [3]}, {"matrices": [None]}])
def test_patterns_are_strings(arguments):
    with pytest.raises(TypeError, match=r"by_path: patterns of .* got (3|None)"):
        optimx.by_path(**arguments)


def test_labels_serve_the_wrapper():
    tx = optimx.matrices_only(optax.scale(10.0), labels=optimx.by_path("*embed*"))
    updates, _ = tx.update(PARAMS, tx.init(PARAMS))
    assert float(updates["embed"]["table"][0, 0]) == 1.0
    assert float(updates["blocks"][0]["kernel"][0, 0]) == 10.0


def test_resolve_spreads_a_prefix():
    labels = {"embed": "other", "blocks": ["matrix", "other"], "gain": "other"}
    resolved = resolve_labels("here", labels, PARAMS)
    assert resolved["embed"] == {"table": "other"}
    assert resolved["blocks"][0] == {"kernel": "matrix", "bias": "matrix"}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"embed": "other"}, r"here: labels does not fit.*'blocks/0/bias'"),
        (optimx.by_rank(PARAMS) | {"gain": "odd"}, r"got 'odd' at 'gain'"),
        (7, r"must hold the labels \('matrix', 'other'\), got 7 at '\(root\)'"),
    ],
)
def test_labels_that_do_not_fit_are_named(labels, message):
    with pytest.raises(ValueError, match=message):
        resolve_labels("here", labels, PARAMS)


def test_description():
    assert optimx.describe_labels(PARAMS, optimx.by_path("*embed*")).splitlines() == [
        "other   (4,)    blocks/0/bias",
        "matrix  (4, 4)  blocks/0/kernel",
        "other   (4,)    blocks/1/bias",
        "matrix  (4, 4)  blocks/1/kernel",
        "other   (9, 4)  embed/table",
        "other   ()      gain",
    ]


def test_description_of_nothing_and_of_an_array():
    assert optimx.describe_labels({}) == ""
    assert optimx.describe_labels(jnp.ones((2, 3))) == "matrix  (2, 3)  (root)"
