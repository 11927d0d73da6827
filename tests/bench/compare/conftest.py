"""A comparison that takes seconds, one device, and Flax's promotions."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from training.small import settings, write_corpus

from optimx.training.compilation import use_compilation_cache

CONTENDERS = """
[compare]
baseline = "adamw"
seeds = 2
{options}

[[compare.contender]]
optimizer = {{ name = "adamw", b2 = 0.95 }}
grid = {{ learning_rate = [1e-3, 1e-2] }}

[[compare.contender]]
label = "Lion, as it is"
optimizer = {{ name = "optax.lion" }}
"""


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def overrides(corpus):
    return list(settings(corpus, train__eval_every=2).items())


@pytest.fixture
def write(tmp_path):
    """Writes a comparison's file."""

    def write(text=CONTENDERS, name="small.toml", options=""):
        path = tmp_path / name
        path.write_text(text.format(options=options))
        return path

    return write


@pytest.fixture(autouse=True, scope="package")
def _cache(tmp_path_factory):
    """What one test has compiled, the next one loads: most of their time."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPTIMX_CACHE", str(tmp_path_factory.mktemp("cache")))
        use_compilation_cache()
        compilation_cache.reset_cache()
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(autouse=True)
def _one_device(monkeypatch):
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *backend: first)
    with jax.numpy_dtype_promotion("standard"):
        yield
