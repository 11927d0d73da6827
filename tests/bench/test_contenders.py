import jax
import jax.numpy as jnp
import optax
import pytest

from optimx import registry
from optimx.bench.contenders import (
    ADAMW,
    AT_ONCE,
    AXPY,
    CODED,
    PASSES,
    PEERS,
    PRODUCTS_DOMINATE,
    YARDSTICKS,
    chosen,
    contender,
    names,
)
from optimx.optimizers.adamw import adamw
from optimx.training.errors import InputError

MATRIX = {"w": jax.ShapeDtypeStruct((256, 512), jnp.float32)}


def test_every_name_has_passes_or_says_that_products_dominate():
    each = {name.partition(":")[0] for name in names()}
    assert each <= set(PASSES) | PRODUCTS_DOMINATE
    assert not set(PASSES) & PRODUCTS_DOMINATE


@pytest.mark.parametrize(
    ("name", "statistics"),
    [
        (AXPY, 0),
        (ADAMW, 0),
        ("optax.lion", 0),
        ("optax.adafactor", 3),
        ("optax.contrib.ademamix", 0),
        ("adamw", 0),
        ("lion", 0),
        ("mars_adamw", 2),
        ("mars_adamw_exact", 3),  # and one read of what is no state: stale_grads
        ("mars_adamw_lean", 0),
        ("mars_lion", 2),
        ("ademamix", 0),
        ("came", 3),
        ("mars_ademamix", 2),
        ("mars_came", 5),
        ("ademamix_came", 4),
    ],
)
def test_passes_follow_from_state_and_statistics(name, statistics):
    """Each buffer is read and written, as are parameters; the gradient is read."""
    state = jax.eval_shape(contender(name).tx.init, MATRIX)
    full = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (256, 512)]
    assert PASSES[name] == 3 + 2 * len(full) + statistics


@pytest.mark.parametrize("name", PASSES)
def test_no_compiled_step_makes_fewer_passes(name):
    one = contender(name)
    extra = dict.fromkeys(one.needs, MATRIX)

    def step(params, state, grads, extra):
        updates, state = one.tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(one.tx.init, MATRIX)
    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(MATRIX, state, MATRIX, extra)
    accessed = lowered.compile().cost_analysis()["bytes accessed"]
    assert accessed / (4 * 256 * 512) >= PASSES[name]


def test_without_a_choice_everything_is_measured_but_the_yardsticks():
    each = set(PEERS) | set(registry.names())
    assert set(chosen(())) == each - set(YARDSTICKS)
    turns = {n for n in registry.names() if "spread" in registry.hyperparameters(n)}
    coded = {f"{n}:{state}" for n in registry.names() for state in CODED}
    assert set(names()) == each | {n + AT_ONCE for n in turns} | coded


@pytest.mark.parametrize(("name", "size"), [("adamw", 2), ("ademamix", 3)])
def test_coded_state_is_measured_under_its_own_name(name, size):
    one = contender(f"{name}:int8")
    assert one.name == f"{name}:int8"
    # Nobody has counted passes of less than a float32.
    assert one.passes is None
    leaves = jax.tree.leaves(jax.eval_shape(one.tx.init, MATRIX))
    narrow = [leaf for leaf in leaves if leaf.dtype.itemsize == 1]
    assert [leaf.shape for leaf in narrow] == [(256, 512)] * size


def test_a_choice_keeps_its_order_and_leaves_yardsticks_out():
    given = ("lion", ADAMW, "optax.lion", AXPY, "lion")
    assert chosen(given) == ("lion", "optax.lion")


@pytest.mark.parametrize(
    ("name", "hint"), [("marz_lion", "mars_lion"), ("optax.lyon", "optax.lion")]
)
def test_an_unknown_name_is_refused(name, hint):
    with pytest.raises(InputError, match=f"no such optimizer; did you mean {hint}"):
        chosen(("lion", name))


def test_what_an_update_needs_comes_from_the_registry():
    assert contender("mars_adamw_exact").needs == ("stale_grads",)
    assert contender("mars_adamw").needs == ()


@pytest.fixture
def refreshing(monkeypatch):
    """An optimizer of the registry with a period, and labels that it was given."""
    seen = []

    def factory(learning_rate, *, update_every=7, labels=None):
        seen.append(labels)
        return adamw(learning_rate)

    entry = registry.Entry(
        "now_and_then", factory, "made up", recipe={"learning_rate": 1e-3}
    )
    monkeypatch.setitem(registry._ENTRIES, "now_and_then", entry)
    return seen


def test_a_period_is_a_hyperparameter_named_update_every(refreshing):
    one = contender("now_and_then")
    assert one.update_every == 7
    assert contender("adamw").update_every is None
    # Nobody has counted its passes, which is no reason to stop.
    assert one.passes is None


def test_embeddings_are_no_matrices(refreshing):
    contender("now_and_then")
    params = {
        "wte": {"embedding": jnp.ones((8, 4))},
        "wpe": {"embedding": jnp.ones((8, 4))},
        "h_0": {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)},
    }
    assert refreshing[-1](params) == {
        "wte": {"embedding": "other"},
        "wpe": {"embedding": "other"},
        "h_0": {"kernel": "matrix", "bias": "other"},
    }
    # Optax's Muon keeps one average of a matrix, and Adam's two of the rest.
    state = contender("optax.contrib.muon").tx.init(params)
    shapes = [leaf.shape for leaf in jax.tree.leaves(state)]
    assert (shapes.count((4, 4)), shapes.count((8, 4))) == (1, 4)
