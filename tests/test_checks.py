import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimx import _checks

INFINITY, NAN = float("inf"), float("nan")

RANGES = {
    _checks.decay: ([0, 0.0, 0.5, 0.9999], [1, 1.0, -1e-9, 2, NAN, INFINITY]),
    _checks.non_negative: ([0, 1e-30, 7], [-1e-30, NAN, INFINITY, -INFINITY]),
    _checks.positive: ([1e-30, 7, INFINITY], [0, -0.0, -1, NAN]),
    _checks.finite_positive: ([1e-30, 7], [0, -0.0, -1, NAN, INFINITY]),
    _checks.finite: ([0, -3.5, 1e30], [NAN, INFINITY, -INFINITY]),
    _checks.steps: ([1, 10, 3.0], [0, -1, 1.5, NAN, INFINITY]),
}

NEVER = ["0.5", b"1", True, None, "", [], {}, object()]

each_range = pytest.mark.parametrize("check", RANGES, ids=lambda check: check.__name__)


@each_range
def test_numbers_in_range_pass(check):
    fits, _ = RANGES[check]
    for value in fits:
        check("here", "b", value)
        check("here", "b", np.float64(value))
        check("here", "b", jnp.asarray(value))


@each_range
def test_others_are_named_with_place_argument_range_and_value(check):
    _, wrong = RANGES[check]
    for value in wrong:
        with pytest.raises(ValueError, match=r"^here: b must be ") as info:
            check("here", "b", value)
        assert str(info.value).endswith(f", got {value!r}.")


@each_range
def test_what_is_no_number_is_refused(check):
    for value in NEVER:
        with pytest.raises(ValueError, match="here: b must be "):
            check("here", "b", value)


@each_range
def test_tracers_are_let_through(check):
    @jax.jit
    def build(value):
        check("here", "b", value)
        return value

    assert np.isnan(build(NAN))


@pytest.mark.parametrize(
    "check",
    [
        _checks.decay,
        _checks.non_negative,
        _checks.positive,
        _checks.finite_positive,
        _checks.finite,
    ],
    ids=lambda check: check.__name__,
)
def test_schedules_where_they_are_allowed(check):
    check("here", "b", lambda count: NAN, schedule=True)
    with pytest.raises(ValueError, match=r"here: b must be .*got <function"):
        check("here", "b", lambda count: 0.5)
    with pytest.raises(ValueError, match="or a schedule, got None"):
        check("here", "b", None, schedule=True)


def test_the_least_number_of_steps():
    _checks.steps("here", "warmup", 0, least=0)
    with pytest.raises(ValueError, match="warmup must be a whole number >= 2, got 1"):
        _checks.steps("here", "warmup", 1, least=2)


def test_is_zero_sees_python_numbers_only():
    assert _checks.is_zero(0)
    assert _checks.is_zero(0.0)
    for value in (1e-30, jnp.zeros(()), np.zeros(()), None, lambda count: 0.0):
        assert not _checks.is_zero(value)


@_checks.hyperparameters
def made(learning_rate, *, b1=0.9, other=None):
    """Made up."""
    return learning_rate, b1, other


def test_hyperparameters_checks_by_name_and_hands_on():
    assert made(0.1, b1=0.5, other=-1) == (0.1, 0.5, -1)
    assert made.__doc__ == "Made up."
    with pytest.raises(ValueError, match=r"made: b1 must be in \[0, 1\), got 1"):
        made(0.1, b1=1)
    with pytest.raises(ValueError, match=r"made: learning_rate .* got -1"):
        made(-1)
    with pytest.raises(TypeError, match="b4"):
        made(0.1, b4=1)


def test_transformations():
    _checks.transformation("here", "inner", optax.identity())
    with pytest.raises(TypeError, match=r"here: inner must be .*\(is it missing"):
        _checks.transformation("here", "inner", optax.adam)
    with pytest.raises(TypeError, match=r"here: inner must be .* got 3\.$"):
        _checks.transformation("here", "inner", 3)


def test_paths_are_written_as_people_write_them():
    tree = {"blocks": [{"kernel": 0}], "tuple": (1,)}
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    names = [_checks.path_name(path) for path in paths]
    assert names == ["blocks/0/kernel", "tuple/0"]
    assert _checks.path_name(()) == "(root)"


@pytest.mark.parametrize(
    "leaf", [jnp.arange(3), jnp.ones(2, bool), np.arange(3), 3, jax.random.key(0)]
)
def test_leaves_that_are_no_floats_are_named(leaf):
    with pytest.raises(ValueError, match=r"here: parameter 'a/0' has dtype .*masked"):
        _checks.inexact_leaves("here", {"a": [leaf], "b": jnp.ones(1)})


def test_floats_and_complex_numbers_are_parameters():
    leaves = [jnp.ones(2, dtype) for dtype in ("float16", "bfloat16", "complex64")]
    _checks.inexact_leaves("here", [*leaves, None, optax.MaskedNode(), 1.0])
    _checks.inexact_leaves("here", jax.ShapeDtypeStruct((2,), jnp.float32))


TREE = {"a": {"w": jnp.ones(2)}, "b": jnp.ones(3)}


def test_the_same_structure_passes():
    _checks.same_structure("here", "stale", TREE, TREE)
    _checks.same_structure("here", "stale", {}, {})


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": {"w": jnp.ones(2)}}, r"it lacks 'b'\.$"),
        (TREE | {"c": 1}, r"it has a foreign 'c'\.$"),
        ({"a": {"v": 0}, "b": 0}, r"it lacks 'a/w'; it has a foreign 'a/v'\.$"),
        ({"a": {"w": (jnp.ones(2),)}, "b": 0}, r"lacks 'a/w'; .* foreign 'a/w/0'"),
        (None, r"it lacks 'a/w'"),
        (TREE | {"b": jnp.ones(2)}, r"at 'b' has shape \(2,\), the parameter \(3,\)"),
    ],
    ids=["lacking", "foreign", "renamed", "deeper", "none", "shape"],
)
def test_another_structure_is_named(tree, message):
    with pytest.raises(ValueError, match=f"here: stale .*{message}"):
        _checks.same_structure("here", "stale", tree, TREE)


def test_another_container_of_the_same_leaves_is_named():
    with pytest.raises(ValueError, match=r"it is .*, they are "):
        _checks.same_structure("here", "stale", (1.0,), [1.0])


def check_prefix(tree):
    def allowed(value):
        return isinstance(value, bool)

    _checks.prefix_tree("here", "mask", tree, TREE, allowed, "booleans")


@pytest.mark.parametrize("tree", [True, {"a": True, "b": False}, {"a": {"w": True}}])
def test_prefixes(tree):
    if tree == {"a": {"w": True}}:
        with pytest.raises(ValueError, match=r"they have \['b'\] which it lacks"):
            check_prefix(tree)
    else:
        check_prefix(tree)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": 1, "b": True}, "must hold booleans, got 1 at 'a'"),
        ({"a": {"w": True, "v": True}, "b": True}, r"has \['a/v'\] which they lack"),
        ({"a": {"w": True}}, r"they have \['b'\] which it lacks"),
        ([True, True], r"has \['0', '1'\] which they lack"),
    ],
)
def test_what_is_no_prefix_is_named(tree, message):
    with pytest.raises(ValueError, match=f"here: mask .*{message}"):
        check_prefix(tree)
