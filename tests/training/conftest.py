"""A cache of the tests' own, a corpus that they share, and Flax's promotions."""

import jax
import pytest

from optimx.training.network import model
from training.small import faulty, write_corpus

collect_ignore = ["fixtures/make_gpt2.py"]  # a script, which needs torch


@pytest.fixture(autouse=True, scope="package")
def cache(tmp_path_factory):
    """A cache folder of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("OPTIMX_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def faults(monkeypatch):
    """Makes batches that begin as `small.BAD_LOSS` and `small.BAD_GRAD` fail."""
    monkeypatch.setattr(
        "optimx.training.network.model.mean_loss", faulty(model.mean_loss)
    )


@pytest.fixture(autouse=True)
def _explicit_arithmetic():
    """Flax promotes dtypes inside its layers, so only ranks are strict here."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(autouse=True, scope="package")
def _one_device():
    """Runs have one device unless they are given more of `jax.local_devices()`."""
    first = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *backend: first)
        yield
