import jax
import jax.numpy as jnp
import optax
import pytest

from optimx.bench.contenders import ADAMW, AXPY, Contender, contender, names
from optimx.bench.request import Request
from optimx.bench.update_cost import measure, measure_updates

SHAPES = {
    "wte": {"embedding": jax.ShapeDtypeStruct((256, 128), jnp.float32)},
    "h_0": {
        "kernel": jax.ShapeDtypeStruct((128, 256), jnp.float32),
        "bias": jax.ShapeDtypeStruct((128,), jnp.float32),
    },
}


def counting(update_every):
    """A transformation that reports each of its updates, and the list of them."""
    calls = []

    def update(grads, state, params=None):
        jax.debug.callback(calls.append, state)
        return grads, state + 1

    tx = optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)
    tx = optax.with_extra_args_support(tx)
    return Contender("made up", tx, update_every=update_every), calls


def updates(calls):
    jax.effects_barrier()
    return sorted(map(int, calls))


def test_every_optimizer_can_be_measured():
    ours = [name for name in names() if name not in (ADAMW, AXPY)]
    seen = []
    rows = measure_updates(
        [contender(name) for name in ours], SHAPES, steps=2, notice=seen.append
    )
    assert [row.name for row in rows] == [AXPY, ADAMW, *ours]
    assert [row.name for row in seen] == [*ours, AXPY, ADAMW]
    by_name = {row.name: row for row in rows}
    for name in ours:
        row = by_name[name]
        assert len(row.seconds) == 2
        assert min(row.seconds) > 0
        assert row.compile_seconds > 0
    # Read before the first, and after each.
    assert len(by_name[AXPY].seconds) == 2 * (1 + len(ours))
    assert by_name[ADAMW].step_over_adamw == by_name[AXPY].pass_over_axpy == 1.0
    for name, buffers in ((AXPY, 0), ("lion", 1), (ADAMW, 2), ("mars_adamw", 3)):
        found = by_name[name].state_bytes_per_parameter
        assert 4 * buffers <= found < 4 * buffers + 0.01
    # A few scalars are no tree.
    assert by_name[ADAMW].temporary_bytes_per_parameter < 0.01
    muon = by_name["optax.contrib.muon"]
    assert muon.temporary_bytes > 4 * 128 * 256
    # About 66 thousand parameters: the matrices' and the rest.
    assert muon.temporary_bytes_per_parameter == muon.temporary_bytes / (65536 + 128)


def test_the_first_step_is_not_timed():
    one, calls = counting(update_every=3)
    (*_, row) = measure_updates([one], SHAPES, steps=4)
    assert updates(calls) == list(range(1 + 4))
    assert (row.warm_up_steps, len(row.seconds), row.update_every) == (1, 4, 3)
    assert row.passes is row.pass_over_adamw is None


@pytest.mark.parametrize(("steps", "timed"), [(2, 6), (8, 8)])
def test_a_cycle_is_warmed_up_and_timed_twice(steps, timed):
    one, calls = counting(update_every=3)
    (*_, row) = measure_updates([one], SHAPES, steps=steps, cycle=True)
    assert updates(calls) == list(range(3 + timed))
    assert (row.warm_up_steps, len(row.seconds)) == (3, timed)


def test_a_cycle_changes_nothing_where_all_updates_are_alike():
    one, calls = counting(update_every=None)
    measure_updates([one], SHAPES, steps=2, cycle=True)
    assert updates(calls) == [0, 1, 2]


def test_numbers_and_yardsticks_outlive_what_is_measured():
    """Steps work in place: what several share must not be given away."""
    one, _ = counting(update_every=None)
    exact = contender("mars_adamw_exact")
    rows = measure_updates([exact, one, exact], SHAPES, steps=1)
    assert len(rows) == 5


def test_compiled_steps_are_neither_kept_nor_found(tmp_path):
    before = {
        key: getattr(jax.config, key)
        for key in (
            "jax_compilation_cache_dir",
            "jax_persistent_cache_min_compile_time_secs",
            "jax_enable_compilation_cache",
        )
    }
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_enable_compilation_cache", True)
        measure_updates([], SHAPES, steps=1)
        assert list(tmp_path.iterdir()) == []
        # And for the rest of the process the cache is what it was.
        jax.jit(lambda x: x * 3 + 7)(jnp.ones(11)).block_until_ready()
        assert list(tmp_path.iterdir()) != []
    finally:
        for key, value in before.items():
            jax.config.update(key, value)


def test_a_whole_report():
    report = measure(Request("tiny", "bfloat16", only=("lion",), steps=1))
    assert [row.name for row in report.rows] == [AXPY, ADAMW, "lion"]
    about = report.about
    assert about["parameters"] == 937_472
    assert (about["dtype"], about["preset"]) == ("bfloat16", "tiny")
    assert about["jax"] == jax.__version__
    assert about["device"]
    # Optax keeps the average in the gradient's dtype, ours in float32.
    state = {row.name: row.state_bytes_per_parameter for row in report.rows}
    assert round(state[ADAMW], 2) == 4.0
    assert round(state["lion"], 2) == 4.0
