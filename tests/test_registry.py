import jax
import jax.numpy as jnp
import pytest

import optimx
from optimx import registry
from tests.contract._trees import every


def test_names_are_those_of_the_package():
    expected = (
        "adamw lion mars_adamw mars_adamw_exact mars_lion ademamix came "
        "mars_ademamix mars_came ademamix_came"
    )
    assert set(expected.split()) <= set(registry.names())
    assert len(set(registry.names())) == len(registry.names())


@every
def test_entries(name):
    entry = registry.get(name)
    assert entry.name == name
    assert entry.factory is getattr(optimx, name)
    assert entry.factory.__name__ == name
    assert entry.summary
    assert entry.recipe["learning_rate"] > 0


def test_only_exact_mars_needs_more_than_gradients():
    needs = {name: registry.get(name).needs for name in registry.names()}
    assert needs.pop("mars_adamw_exact") == ("stale_grads",)
    assert set(needs.values()) == {()}


@every
def test_recipes_name_hyperparameters(name):
    recipe = registry.get(name).recipe
    known = {"learning_rate", *registry.hyperparameters(name)}
    assert recipe.keys() - {"b3_warmup", "alpha_warmup"} <= known
    assert recipe.get("b3", 0.9) == "horizon" or 0 <= recipe.get("b3", 0.9) < 1


@every
def test_hyperparameters_are_the_keywords_and_their_defaults(name):
    defaults = registry.hyperparameters(name)
    assert "learning_rate" not in defaults
    assert defaults["mask"] is None
    tx = registry.build(name, learning_rate=0.1, **defaults)
    own = registry.build(name, learning_rate=0.1)
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    assert jax.tree.structure(tx.init(params)) == jax.tree.structure(own.init(params))


def test_build_passes_values_on():
    tx = registry.build("mars_adamw", learning_rate=0.1, gamma=0.0, b1=0.0)
    state = tx.init(jnp.ones(2))
    assert state["precondition"].direction == ()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("mars_adam", "mars_adamw"), ("adamix", "ademamix"), ("LION", None), ("", None)],
)
def test_unknown_optimizers_are_refused_with_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"unknown optimizer {name!r}") as info:
        registry.build(name, learning_rate=0.1)
    message = str(info.value)
    assert (f"did you mean {nearest!r}?" in message) == (nearest is not None)
    assert all(known in message for known in registry.names())


@pytest.mark.parametrize(
    ("name", "key", "nearest"),
    [
        ("mars_adamw", "gama", "gamma"),
        ("came", "confidence_ep", "confidence_eps"),
        ("lion", "lr", None),
        ("adamw", "weightdecay", "weight_decay"),
        ("adamw", "learning_rates", "learning_rate"),
    ],
)
def test_unknown_hyperparameters_are_refused_with_the_nearest(name, key, nearest):
    message = f"{name}: unknown hyperparameter {key!r}"
    with pytest.raises(ValueError, match=message) as info:
        registry.build(name, learning_rate=0.1, **{key: 0.5})
    assert (f"did you mean {nearest!r}?" in str(info.value)) == (nearest is not None)
    assert "there are learning_rate, b1, " in str(info.value)


def test_the_learning_rate_is_asked_for():
    with pytest.raises(ValueError, match="came: learning_rate is missing"):
        registry.build("came", b1=0.5)


DECAY = r"in \[0, 1\).*"
POSITIVE = "> 0"
NON_NEGATIVE = "a finite number >= 0.*"
WHOLE = r"a (Python int|whole number) >= 1"

BAD = {
    "learning_rate": (NON_NEGATIVE, [-1e-3, float("nan"), float("inf"), "1e-3", None]),
    "b1": (DECAY, [1.0, -0.1, 1.5, float("nan"), "0.9", lambda count: 0.9]),
    "b2": (DECAY, [1.0, -0.1, 1.5, float("nan"), None]),
    "b3": (DECAY, [1.0, -0.1, 1.5, float("nan"), "horizon"]),
    "confidence_decay": (DECAY, [1.0, -0.1, float("nan")]),
    "alpha": (NON_NEGATIVE, [-1.0, float("nan"), float("inf")]),
    "gamma": (NON_NEGATIVE, [-0.025, float("nan"), float("inf")]),
    "eps": (r"(a finite number >= 0|> 0)", [-1e-8, float("nan")]),
    "confidence_eps": (POSITIVE, [0.0, -1e-16, float("nan")]),
    "max_norm": (POSITIVE, [0.0, -1.0, float("nan")]),
    "clip_threshold": (POSITIVE, [0.0, -1.0, float("nan")]),
    "weight_decay": (NON_NEGATIVE, [-0.1, float("nan"), float("inf")]),
    "factor_decay": (DECAY, [1.0, -0.1, float("nan")]),
    "root_eps": (r"(a finite number )?> 0", [0.0, -1e-6, float("nan")]),
    "steps": (WHOLE, [0, -1, 2.5, True]),
    "update_every": (WHOLE, [0, -1, 2.5, None]),
    "block_size": (WHOLE, [0, -1, 2.5]),
    "max_dim": (WHOLE, [0, -1, 2.5, None]),
    "max_aspect": ("a number > 1", [1, 0.5, float("nan")]),
}


@every
def test_numbers_out_of_range_are_refused_where_they_are_given(name):
    """The message has the optimizer (or its part), argument, range and value."""
    own = {"learning_rate", *registry.hyperparameters(name)} & BAD.keys()
    assert {"learning_rate", "b1", "weight_decay"} <= own
    for key in own:
        allowed, values = BAD[key]
        for value in values:
            with pytest.raises(ValueError, match=rf"\w+: {key} must be {allowed}") as e:
                registry.build(name, **{"learning_rate": 0.1, key: value})
            assert str(e.value).endswith(f"got {value!r}."), (key, value)


@every
def test_every_number_has_a_range(name):
    """A new hyperparameter is checked, or this says so."""
    numbers = {
        key
        for key, value in registry.hyperparameters(name).items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    # Axes are two, which is asked of both together.
    assert numbers <= BAD.keys() | {"in_axis", "out_axis"}


@pytest.mark.parametrize("name", ["came", "mars_came", "ademamix_came"])
def test_cames_epsilon_is_above_zero(name):
    with pytest.raises(ValueError, match=r"eps must be > 0, got 0.0"):
        registry.build(name, learning_rate=0.1, eps=0.0)


def test_lions_b2_is_above_zero():
    with pytest.raises(ValueError, match=r"lion: b2 must be > 0, got 0.0"):
        optimx.lion(0.1, b2=0.0)


@every
def test_weight_decay_asks_for_the_parameters(name):
    params = {"w": jnp.ones((2, 2))}
    extra = dict.fromkeys(registry.get(name).needs, params)
    tx = registry.build(name, learning_rate=0.1, weight_decay=0.1)
    with pytest.raises(ValueError, match=r"weight_decay: .* got params=None"):
        tx.update(params, tx.init(params), **extra)


@every
def test_without_weight_decay_the_parameters_are_not_needed(name):
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    extra = dict.fromkeys(registry.get(name).needs, params)
    tx = registry.build(name, learning_rate=0.1, weight_decay=0.0)
    updates, _ = tx.update(params, tx.init(params), **extra)
    assert updates.keys() == params.keys()


@every
def test_masks_that_do_not_fit_are_refused_at_init(name):
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    tx = registry.build(
        name, learning_rate=0.1, weight_decay=0.1, mask={"w": True, "c": False}
    )
    with pytest.raises(ValueError, match=r"mask does not fit .*'c'.*'b'"):
        tx.init(params)
