import dataclasses
import importlib.util
import json

import jax
import pytest

from optimx.training.errors import InputError
from optimx.training.network.model import parameter_count
from optimx.training.planning import plan as plans
from optimx.training.planning import report
from training.small import config, settings


@pytest.fixture(autouse=True)
def _all_devices(monkeypatch):
    """A plan has all of the devices that these processes pretend to have."""
    every = jax.local_devices()
    monkeypatch.setattr(jax, "devices", lambda *backend: every)


def chosen(corpus, **more):
    return config(corpus, train__batch_size=8, model__layers=2, **more)


def test_a_plan_counts_what_a_device_holds(corpus):
    run = chosen(corpus, optimizer__name="adamw", mesh__data=2, mesh__fsdp=4)
    found = plans.plan(run, "cpu:8")
    parameters = parameter_count(run.model)
    assert found.parameters == parameters
    assert found.mesh == {"data": 2, "fsdp": 4, "tensor": 1}
    # All but gains and biases is split in four; two moments of each and two counts.
    assert parameters < found.parameter_bytes < 2 * parameters
    assert 0 <= found.state_bytes - 2 * found.parameter_bytes <= 16
    assert found.total_bytes > found.parameter_bytes + found.state_bytes
    assert found.total_bytes >= found.temporary_bytes > 0
    tokens = 8 * run.data.context / 8
    per_token = 6 * (parameters - 16 * 16) + 12 * 2 * 16 * 16
    assert found.flops == tokens * per_token
    assert found.collectives["all-gather"] > 0
    assert found.sent_bytes["all-reduce"] > 0
    # The gradient's norm is of all its parts: but nothing else in the update is.
    assert (found.roofline, found.fits, found.memory_bytes) == (None, None, None)


def test_zero1_and_remat_are_seen(corpus):
    run = chosen(corpus, optimizer__name="ademamix", mesh__data=8)
    split = chosen(corpus, optimizer__name="ademamix", mesh__data=8, mesh__zero1="true")
    one, other = plans.plan(run, "cpu:8"), plans.plan(split, "cpu:8")
    assert other.parameter_bytes == one.parameter_bytes
    assert other.state_bytes < 0.2 * one.state_bytes
    assert other.total_bytes < one.total_bytes


def test_one_device_sends_nothing(corpus):
    found = plans.plan(chosen(corpus, mesh__data=1), "cpu:1")
    assert found.sent_bytes == {}
    assert found.optimizer_sent == 0


def test_optimizers_of_matrices_exchange_stacks(corpus):
    run = chosen(corpus, optimizer__name="muon", mesh__data=1, mesh__fsdp=8)
    plain = dataclasses.replace(
        run, optimizer=chosen(corpus, optimizer__name="adamw").optimizer
    )
    assert plans.plan(plain, "cpu:8").optimizer_sent == 0
    assert plans.plan(run, "cpu:8").optimizer_sent > 0


def test_meshes_are_read():
    assert report.read_mesh("data=4, fsdp=2") == [
        ("mesh.data", "4"),
        ("mesh.fsdp", "2"),
        ("mesh.tensor", "1"),
    ]
    assert report.read_mesh("fsdp=2,offload=state") == [
        ("mesh.data", "1"),
        ("mesh.fsdp", "2"),
        ("mesh.tensor", "1"),
        ("mesh.offload", "state"),
    ]
    with pytest.raises(InputError, match="--mesh 'model=2': must be AXIS=DEVICES"):
        report.read_mesh("model=2")
    with pytest.raises(InputError, match="--mesh 'data=two': must be"):
        report.read_mesh("data=two")


def test_optimizers_may_name_their_state(corpus, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[model]\npreset = 'tiny'\n")
    wanted = report.plans(
        path, settings(corpus).items(), "cpu:1", ["came", "adamw:int8", "adamw:float32"]
    )
    assert [one.optimizer.rule.label for one, _ in wanted] == [
        "came",
        "adamw:int8",
        "adamw",
    ]
    with pytest.raises(InputError, match=r"state must be one of .*'int4'"):
        report.plans(path, settings(corpus).items(), "cpu:1", ["adamw:int4"])


def test_codes_are_counted(corpus):
    """The embedding's 300 rows of 16 are; what is smaller stays in float32."""
    plain = plans.plan(chosen(corpus, optimizer__name="adamw"), "cpu:1")
    coded = plans.plan(
        chosen(corpus, optimizer__name="adamw", optimizer__state="int8"), "cpu:1"
    )
    assert (plain.optimizer, coded.optimizer) == ("adamw", "adamw:int8")
    numbers, scales = 300 * 16, 300
    saved = 2 * (4 * numbers - numbers - 4 * scales)
    # And the counter that draws for rounding.
    assert 0 <= coded.state_bytes + saved - plain.state_bytes <= 8
    assert coded.temporary_bytes < plain.state_bytes + plain.temporary_bytes


def test_a_table_and_a_file(corpus, tmp_path, capsys):
    run = chosen(corpus, mesh__data=2, mesh__fsdp=2)
    out = tmp_path / "plan.json"
    report.show_plans([(run, "cpu:4")], out, False)
    shown = capsys.readouterr()
    assert "cpu:4, 4 devices, 0.0M parameters" in shown.out
    assert "data=2,fsdp=2" in shown.out
    assert "mars_adamw sends: " in shown.out
    assert max(map(len, shown.out.splitlines()[:4])) <= report.WIDTH
    (kept,) = json.loads(out.read_text())["plans"]
    assert kept["optimizer"] == "mars_adamw"
    assert kept["fits"] is None
    report.show_plans([(run, "cpu:4")], None, True)
    table = capsys.readouterr().out.splitlines()
    assert table[2].startswith("| optimizer | mesh | par. GB |")
    assert table[4].count("|") == table[2].count("|")


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: python -m pip install -e '.[tpu-plan]'",
)
def test_a_slice_that_is_not_there(corpus):
    run = chosen(corpus, mesh__data=-1, train__precision="bfloat16")
    found = plans.plan(run, "v5e:2x2")
    assert found.mesh["data"] == 4
    assert found.fits
    assert 0 < found.roofline < 1
    assert found.tokens_per_second == pytest.approx(8 * 16 / found.roofline)
    assert 0 < found.optimizer_share <= 1


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: python -m pip install -e '.[tpu-plan]'",
)
def test_state_on_the_host_of_a_slice_leaves_room_on_its_devices(corpus):
    """Layers are stacked and gradients large: the state comes a part at a time."""
    sizes = {"heads": 4, "width": 512, "context": 256, "vocab": 8192, "layers": 2}
    run = config(
        corpus,
        optimizer__name="adamw",
        train__precision="bfloat16",
        model__bias="false",
        model__scan="true",
        mesh__data=-1,
        **{f"model__{key}": size for key, size in sizes.items()},
    )
    away = dataclasses.replace(run.mesh, offload="state")
    near = plans.plan(run, "v5e:2x2")
    far = plans.plan(dataclasses.replace(run, mesh=away), "v5e:2x2")
    assert (near.host_bytes, near.state_bytes) == (0, far.state_bytes)
    # All but gains, biases and counts.
    assert 0.98 * far.state_bytes < far.host_bytes < 1.02 * far.state_bytes
    assert near.total_bytes - far.total_bytes > far.state_bytes / 4
