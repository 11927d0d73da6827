import importlib.util

import jax
import pytest

from optimx.training.errors import InputError
from optimx.training.planning.topologies import devices_of


@pytest.fixture(autouse=True)
def _all_devices(monkeypatch):
    """A plan has all of the devices that these processes pretend to have."""
    every = jax.local_devices()
    monkeypatch.setattr(jax, "devices", lambda *backend: every)


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v7:2x2", "--topology 'v7:2x2': must be cpu:N or one of v4, v5e, v5p, v6e"),
        ("v5e", "--topology 'v5e': must be"),
        ("cpu:x", "--topology 'cpu:x': must be"),
        ("cpu:0", "--topology 'cpu:0': this process has 8 CPU devices"),
        ("cpu:9", "--topology 'cpu:9': this process has 8 CPU devices"),
    ],
)
def test_topologies_that_there_are_not(topology, message):
    with pytest.raises(InputError, match=message):
        devices_of(topology)


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: python -m pip install -e '.[tpu-plan]'",
)
@pytest.mark.parametrize("topology", ["v4:2x2x4", "v5p:2x2x4", "v6e:4x4"])
def test_a_chip_of_a_slice_is_one_device(topology):
    devices, chip = devices_of(topology)
    assert len(devices) == 16
    assert topology.startswith(chip.name)
    # Without this a mesh of TPU v4 cannot be made.
    assert {getattr(device, "core_on_chip", 0) for device in devices} == {0}
