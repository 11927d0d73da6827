"""What the public names promise to readers and to callers."""

import inspect

import jax
import jax.numpy as jnp
import optax
import pytest

import optimx
from optimx import registry
from tests.contract import _trees
from tests.contract._trees import every

FUNCTIONS = [
    name for name in optimx.__all__ if inspect.isfunction(getattr(optimx, name))
]

ALGORITHMS = [
    name
    for name in FUNCTIONS
    if name in registry.names()
    or name.startswith(("add_", "clip_", "scale_by_", "ema", "graft"))
]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_are_documented(name):
    function = getattr(optimx, name)
    text = inspect.getdoc(function)
    assert text, name
    summary, _, body = text.partition("\n")
    assert summary.endswith((".", ":"))
    assert not body or body.startswith("\n"), "the first line stands alone"
    for parameter in inspect.signature(function).parameters:
        assert (
            f"\n  {parameter}: " in body
            or f"**{parameter}: " in body
            or (f"*{parameter}: " in body)
        ), f"{parameter} is not explained"
    for section in ("Args:", "Returns:", "Examples:"):
        assert f"\n{section}\n" in body, f"no {section}"
    assert ">>> " in body


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_are_annotated(name):
    signature = inspect.signature(getattr(optimx, name))
    assert signature.return_annotation is not signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not parameter.empty, parameter.name


@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithms_name_their_source(name):
    text = inspect.getdoc(getattr(optimx, name))
    _, _, references = text.partition("\nReferences:\n")
    assert "https://" in references
    assert "math::" in text or ":math:" in text


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_follows_the_first_argument_goes_by_name(name):
    _, *rest = inspect.signature(getattr(optimx, name)).parameters.values()
    assert all(p.kind is p.KEYWORD_ONLY for p in rest)


def test_public_names_are_sorted_and_there():
    assert list(optimx.__all__) == sorted(optimx.__all__)
    assert all(hasattr(optimx, name) for name in optimx.__all__)
    assert set(registry.names()) <= set(optimx.__all__)


@every
def test_the_learning_rate_comes_first(name):
    factory = registry.get(name).factory
    assert factory is getattr(optimx, name)
    first, *rest = inspect.signature(factory).parameters.values()
    assert first.name == "learning_rate"
    assert first.annotation is optax.ScalarOrSchedule
    assert first.default is first.empty
    assert all(p.default is not p.empty for p in rest)
    names = [p.name for p in rest]
    assert names[-3:] == ["weight_decay", "mask", "accumulator_dtype"]


@every
def test_unknown_extra_arguments_are_accepted(name):
    params, grads = _trees.draw(0), _trees.draw(1)
    tx = _trees.build(name)
    assert isinstance(tx, optax.GradientTransformationExtraArgs)
    extra = _trees.extra(name, grads)
    state = tx.init(params)
    expected, _ = tx.update(grads, state, params, **extra)
    updates, _ = tx.update(
        grads, state, params, **extra, value=1.0, grads=grads, value_fn=len
    )
    _trees.assert_same(updates, expected)


@every
def test_learning_rates_count_from_0_and_memories_from_1(name):
    seen = {}

    def recording(key, value):
        def schedule(count):
            seen.setdefault(key, []).append(int(count))
            return jnp.asarray(value)

        return schedule

    params = _trees.draw(0)
    tx = _trees.build(name, **_trees.scheduled(name, recording))
    own = _trees.build(name)
    state, reference = tx.init(params), own.init(params)
    for seed in (1, 2, 3):
        grads = _trees.draw(seed)
        extra = _trees.extra(name, grads)
        updates, state = tx.update(grads, state, params, **extra)
        expected, reference = own.update(grads, reference, params, **extra)
        # A schedule's float32 0.9999 leaves 6e-8 of rounding in 1 - 0.9999.
        _trees.assert_same(updates, expected, rtol=1e-3, atol=1e-5)
    for key, asked in seen.items():
        # A schedule may weigh several parts of a mix, and a rate serve two rules.
        assert sorted(asked) == asked
        assert set(asked) == ({0, 1, 2} if key == "learning_rate" else {1, 2, 3})


@every
def test_schedules_are_let_into_compiled_steps(name):
    def halved(key, value):
        return lambda count: value * jnp.where(count > 1, 0.5, 1.0)

    params, grads = _trees.draw(0), _trees.draw(1)
    tx = _trees.build(name, **_trees.scheduled(name, halved))
    extra = _trees.extra(name, grads)
    state = tx.init(params)
    updates, _ = jax.jit(tx.update)(grads, state, params, **extra)
    expected, _ = tx.update(grads, state, params, **extra)
    _trees.assert_same(updates, expected, **_trees.single(name))
