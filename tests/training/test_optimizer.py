import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimx
from optimx.training.errors import InputError
from optimx.training.optimizer import (
    Optimizer,
    Rule,
    build_optimizer,
    learning_rate_schedule,
    resolve_optimizer,
)
from optimx.training.sections import Schedule
from optimx.training.settings import Setting

COSINE = Schedule(warmup=10, final=0.1)
PARAMS = {"wte": jnp.ones((4, 4)), "w": jnp.ones((4, 4)), "b": jnp.ones(4)}


def resolve(steps=100, **given):
    layer = {
        key.replace("__", "."): Setting(value, "file.toml")
        for key, value in given.items()
    }
    return resolve_optimizer(layer, steps)


def changes(tx, params=PARAMS, steps=1):
    """How the parameters move in ``steps`` steps of a constant gradient."""
    grads = jax.tree.map(lambda p: 0.1 * p, params)
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(grads, state, params)
    return updates


@pytest.mark.parametrize("name", optimx.registry.names())
def test_a_name_alone_is_filled_in_from_recipe_and_defaults(name):
    rule = resolve(name=name).rule
    entry = optimx.registry.get(name)
    assert rule.learning_rate == entry.recipe["learning_rate"]
    missing = {
        key
        for key, value in optimx.registry.hyperparameters(name).items()
        if value is not None and key not in rule.hyperparameters
    }
    assert not missing
    kinds = (bool, int, float, str, tuple)  # what a TOML file holds
    assert all(isinstance(v, kinds) for v in rule.hyperparameters.values())


def test_what_is_given_wins_over_the_recipe():
    rule = resolve(name="mars_adamw", learning_rate=0.5, gamma=0.1).rule
    assert (rule.learning_rate, rule.hyperparameters["gamma"]) == (0.5, 0.1)


def test_strings_follow_the_length_of_the_run():
    rule = resolve(
        steps=200, name="ademamix", b3="horizon", b3_warmup="run", alpha_warmup=50
    ).rule
    assert rule.hyperparameters["b3"] == optimx.horizon(200)
    assert rule.hyperparameters["b3_warmup"] == 200
    assert rule.hyperparameters["alpha_warmup"] == 50


def test_the_horizon_of_a_very_short_run_is_the_fast_memory():
    rule = resolve(steps=3, name="ademamix", b3="horizon", b1=0.8).rule
    assert rule.hyperparameters["b3"] == 0.8


def test_ramps_are_the_schedules_of_the_paper():
    ramped = resolve(
        name="ademamix", b1=0.9, b3=0.99, alpha=4.0, b3_warmup=20, alpha_warmup=30
    )
    rate = learning_rate_schedule(COSINE, ramped.rule.learning_rate, 100)
    by_hand = optimx.ademamix(
        rate,
        b1=0.9,
        b3=optimx.half_life_warmup(0.9, 0.99, 20),
        alpha=optimx.linear_warmup(4.0, 30),
        weight_decay=ramped.rule.hyperparameters["weight_decay"],
    )
    built = build_optimizer(ramped, COSINE, 100)
    jax.tree.map(
        np.testing.assert_array_equal,
        changes(built, steps=5),
        changes(by_hand, steps=5),
    )


def test_a_ramp_can_be_switched_off():
    off = resolve(name="ademamix", b3=0.99, b3_warmup="off", alpha_warmup="off")
    rate = learning_rate_schedule(COSINE, off.rule.learning_rate, 100)
    decay = off.rule.hyperparameters["weight_decay"]
    alpha = off.rule.hyperparameters["alpha"]
    by_hand = optimx.ademamix(rate, b3=0.99, alpha=alpha, weight_decay=decay)
    jax.tree.map(
        np.testing.assert_array_equal,
        changes(build_optimizer(off, COSINE, 100), steps=5),
        changes(by_hand, steps=5),
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "marz_adamw"}, "no such optimizer; did you mean mars_adamw"),
        ({"name": 3}, "optimizer.name = 3: no such optimizer"),
        ({"name": "adamw", "gama": 1}, r"\[optimizer\] adamw has no gama"),
        ({"name": "adamw", "b3_warmup": 5}, "adamw has no b3_warmup"),
        ({"name": "adamw", "mask": "x"}, "adamw has no mask"),
        ({"name": "mars_adamw", "gama": 1}, "did you mean gamma"),
        ({"name": "adamw", "b1": 1.0}, r"adamw: b1 must be in \[0, 1\), got 1.0"),
        ({"name": "adamw", "b1": "x"}, r"optimizer\.b1 = 'x': must be a number"),
        ({"name": "adamw", "weight_decay": True}, "True: must be a number"),
        (
            {"name": "adamw", "accumulator_dtype": "float7"},
            r"accumulator_dtype = 'float7': must be a floating-point dtype",
        ),
        ({"name": "adamw", "accumulator_dtype": "int32"}, "floating-point dtype"),
        ({"name": "adamw", "eps": -1e-8}, "adamw: eps must be .* got -1e-08"),
        ({"name": "mars_adamw", "gamma": -0.1}, "gamma must be .* got -0.1"),
        (
            {"name": "ademamix", "b3": 1.5},
            r"ademamix: b3 must be in \[0, 1\).* got 1.5",
        ),
        ({"name": "ademamix", "alpha_warmup": 0}, "alpha_warmup = 0: must be a number"),
        ({"name": "ademamix", "b3_warmup": "x"}, "b3_warmup = 'x': must be a number"),
        ({"name": "adamw", "learning_rate": 0}, "learning_rate = 0: must be a number"),
        (
            {"name": "adamw", "others__b1": 0.5},
            r"\[optimizer.others\] must have a name",
        ),
        (
            {"name": "adamw", "others__name": "adamw", "others__paths": "wte"},
            "paths = 'wte': must be a list of patterns",
        ),
        (
            {"name": "adamw", "others__name": "adamw", "others__b2": -1},
            r"\[optimizer.others\] adamw: b2 must be in \[0, 1\), got -1",
        ),
    ],
)
def test_a_bad_key_or_value_is_named_with_what_is_allowed(given, message):
    with pytest.raises(InputError, match=message) as caught:
        resolve(**given)
    assert "\n" not in str(caught.value)


def test_an_error_says_where_the_value_was_given():
    given = {
        "name": Setting("adamw", "default"),
        "b1": Setting(2, "command line"),
        "b2": Setting(0.9, "file.toml"),
    }
    with pytest.raises(InputError, match=r"^command line: "):
        resolve_optimizer(given, 100)


def test_others_have_their_own_rule_on_the_same_schedule():
    plain = {"weight_decay": 0.0}
    optimizer = Optimizer(
        Rule("lion", 1e-2, plain), Rule("lion", 1e-3, plain), paths=("wte",)
    )
    tx = build_optimizer(optimizer, COSINE, 100)
    schedule = learning_rate_schedule(COSINE, 1.0, 100)
    for steps in (1, 6, 40, 100):
        updates = changes(tx, steps=steps)
        scale = float(schedule(steps - 1))
        for name, rate in (("w", 1e-2), ("b", 1e-3), ("wte", 1e-3)):
            np.testing.assert_allclose(updates[name], -rate * scale, rtol=1e-6)


def test_a_rule_of_matrices_leaves_embeddings_to_the_others():
    plain = {"weight_decay": 0.0}
    optimizer = Optimizer(Rule("muon", 1e-2, plain), Rule("lion", 1e-3, plain))
    tx = build_optimizer(optimizer, COSINE, 100)
    updates = changes(tx, steps=40)
    scale = float(learning_rate_schedule(COSINE, 1.0, 100)(39))
    for name in ("b", "wte"):
        np.testing.assert_allclose(updates[name], -1e-3 * scale, rtol=1e-6)
    # A constant gradient has one singular value: an update of 1e-2 / sqrt(rows).
    assert np.min(np.abs(updates["w"])) > 1.5e-3 * scale


def test_what_update_needs_is_gathered_from_both_rules():
    exact, plain = Rule("mars_adamw_exact", 1e-3, {}), Rule("adamw", 1e-3, {})
    assert Optimizer(plain, plain).needs == ()
    assert Optimizer(exact, exact).needs == ("stale_grads",)
    assert Optimizer(plain, exact).needs == ("stale_grads",)


def test_learning_rates_rise_and_fall():
    cosine = learning_rate_schedule(COSINE, 2.0, 100)
    np.testing.assert_allclose(
        [cosine(t) for t in (0, 5, 10, 55, 100)], [0, 1, 2, 1.1, 0.2], rtol=1e-6
    )
    stable = Schedule("warmup_stable_decay", warmup=10, decay=20, final=0.5)
    stable = learning_rate_schedule(stable, 2.0, 100)
    np.testing.assert_allclose(
        [stable(t) for t in (0, 5, 10, 80, 90, 100)], [0, 1, 2, 2, 1.5, 1], rtol=1e-6
    )


def test_without_a_warmup_the_first_step_has_the_peak():
    schedule = learning_rate_schedule(Schedule(warmup=0, final=0.1), 2.0, 100)
    assert float(schedule(0)) == 2.0


def coded(tree):
    return {x.dtype.name for x in jax.tree.leaves(tree)} - {"float32", "int32"}


def test_state_is_coded_in_rule_and_others():
    params = {"w": jnp.ones((64, 128)), "b": jnp.ones(8192)}
    optimizer = resolve(name="mars_m", state="int8", others__name="adamw")
    state = build_optimizer(optimizer, COSINE, 100).init(params)
    assert coded(state.inner.inner_states["matrix"]) == {"int8"}
    # The others are coded by themselves already, and only once.
    own = state.inner.inner_states["other"].inner_state
    assert own.inner["precondition"].by.second_moment["b"].codes.dtype == jnp.uint8
    plain = resolve(name="mars_m", others__name="adamw")
    assert coded(build_optimizer(plain, COSINE, 100).init(params)) == set()


def test_others_may_keep_their_state_otherwise():
    optimizer = resolve(
        name="adamw", state="int8", others__name="adamw", others__state="float32"
    )
    state = build_optimizer(optimizer, COSINE, 100).init({"b": jnp.ones(8192)})
    assert coded(state) == set()


def test_an_unknown_form_of_state_is_refused():
    with pytest.raises(
        InputError, match=r"file.toml: .*state must be one of .*'int9'.*int8"
    ):
        resolve(name="adamw", state="int9")
