import json

import jax
import numpy as np
import pytest
from rich.console import Console
from training.small import config, write_corpus

from optimx.bench import minimal
from optimx.bench.compare.table import wide
from optimx.bench.train_command import as_markdown, bench_train, show
from optimx.bench.train_cost import BY_HAND, SGD, measure_training
from optimx.training.errors import InputError
from optimx.training.network import flops
from optimx.training.optimizer import build_optimizer
from optimx.training.parallel.feed import Feed
from optimx.training.planning.chips import chip_of
from optimx.training.state import init_state
from optimx.training.step import make_train_step


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch, tmp_path_factory):
    """A cache of its own, one device, and Flax's promotions."""
    monkeypatch.setenv("OPTIMX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *backend: first)
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_the_minimal_step_is_the_trainers(corpus):
    chosen = config(corpus, model__layers=2, train__clip_norm=0.0)
    tx = build_optimizer(chosen.optimizer, chosen.schedule, chosen.train.steps)
    rng = np.random.default_rng(0)
    batches = rng.integers(0, 300, (4, 1, 4, 17)).astype(np.int32)
    state = init_state(chosen, tx)
    params, kept = jax.tree.map(np.asarray, (state.params, state.optimizer))
    step, by_hand = make_train_step(chosen, tx), minimal.make_step(chosen.model, tx)
    for batch in batches:
        state, metrics = step(state, batch, None)
        params, kept, loss = by_hand(params, kept, batch[0])
        np.testing.assert_allclose(loss, metrics["loss"], rtol=1e-5)
    # Moments of gradients near zero turn rounding into steps: a few of these.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), params, state.params
    )


def test_a_report(corpus, tmp_path):
    chosen = [config(corpus, optimizer__name=name) for name in ("mars_adamw", "lion")]
    heard = []
    report = measure_training(
        chosen, steps=2, rounds=2, by_hand=True, notice=heard.append
    )
    rows = {row.name: row for row in report.rows}
    assert list(rows) == [SGD, "mars_adamw", "lion", BY_HAND]
    assert heard[-1] == "round 2 of 2"
    for row in rows.values():
        assert len(row.seconds) == 2
        assert row.tokens_per_second == pytest.approx(64 / row.median)
        assert row.utilization is None  # of a CPU nobody states it
        assert row.compile_seconds > 0
        assert row.input_wait is not None
        assert row.device_bytes > row.temporary_bytes > 0
    assert rows[SGD].optimizer_share is None
    assert rows["lion"].optimizer_share < 1
    kept = json.loads(report.as_json())
    assert kept["tokens_per_step"] == 64
    assert [row["name"] for row in kept["rows"]] == list(rows)
    table = as_markdown(report).splitlines()
    assert table[2].count("|") == table[4].count("|") == 11
    console = Console(record=True, width=100)
    show(report, console)
    assert "A step of 64 tokens, float32, context 16, attention xla" in (
        console.export_text()
    )


@pytest.mark.parametrize("exact_first", [True, False])
def test_each_draws_the_batches_that_it_needs(corpus, monkeypatch, exact_first):
    """Exact MARS looks at the next batch as well; the others do not."""
    drawn = []
    whole = Feed.inputs

    def inputs(self, step):
        batch, following = whole(self, step)
        drawn.append(following is not None)
        return batch, following

    monkeypatch.setattr(Feed, "inputs", inputs)
    names = (
        ["mars_adamw_exact", "adamw"] if exact_first else ["adamw", "mars_adamw_exact"]
    )
    chosen = [config(corpus, optimizer__name=name) for name in names]
    report = measure_training(chosen, steps=1, rounds=1)
    assert [row.name for row in report.rows] == [SGD, *names]
    # Each once when it is made, then once in its round.
    ahead = [name == "mars_adamw_exact" for name in [SGD, *names]]
    assert drawn == ahead * 2


def test_a_narrow_pipe_cuts_no_name(corpus, capsys):
    chosen = config(corpus, optimizer__name="mars_adamw_exact")
    show(measure_training([chosen], steps=1, rounds=1), wide(Console(width=40)))
    assert "mars_adamw_exact" in capsys.readouterr().out


def test_operations_of_gpt2_small():
    """FACTS of published throughputs: 855M for each token, at 1,024 of context."""
    from optimx.training.resolve import resolve_model
    from optimx.training.sections import Model

    small = resolve_model(Model(preset="small"))
    assert flops.per_token(small, 1024) == pytest.approx(855e6, rel=2e-3)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("TPU v5 lite", "v5e"),
        ("TPU v6 lite", "v6e"),
        ("TPU v4", "v4"),
    ],
)
def test_chips_are_known_by_what_jax_calls_them(kind, name):
    assert chip_of(kind).name == name


def test_other_devices_have_no_peak():
    assert chip_of("cpu") is None
    assert chip_of("TPU v9") is None


@pytest.mark.parametrize(
    ("changed", "overrides", "message"),
    [
        ({"steps": 0}, [], "--steps 0: must be at least 1"),
        ({"rounds": 0}, [], "--rounds 0: must be at least 1"),
        ({"only": ["adam"]}, [], "optimizer.name = 'adam': no such optimizer"),
        ({}, [("train.precision", "bfloat16")], "--by-hand: .* is bfloat16"),
        (
            {},
            [("optimizer.name", "mars_adamw_exact")],
            "--by-hand: .* mars_adamw_exact",
        ),
    ],
)
def test_words_that_measure_nothing(changed, overrides, message):
    usual = {"only": [], "steps": 1, "rounds": 1, "by_hand": True}
    with pytest.raises(InputError, match=message):
        bench_train(None, overrides, **usual | changed, out=None, markdown=False)
