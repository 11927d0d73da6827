"""A corpus and runs that take seconds, on one device, with Flax's promotions."""

import jax
import pytest
from training.small import settings, write_corpus

from optimx.training.compilation import use_compilation_cache


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def overrides(corpus):
    """Settings for the command line, without an optimizer."""
    return tuple(settings(corpus, train__steps=50).items())


@pytest.fixture(autouse=True, scope="package")
def _cache(tmp_path_factory):
    """What one test has compiled, the next one loads."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPTIMX_CACHE", str(tmp_path_factory.mktemp("cache")))
        use_compilation_cache()
        yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(autouse=True)
def _one_device(monkeypatch):
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *backend: first)
    with jax.numpy_dtype_promotion("standard"):
        yield
