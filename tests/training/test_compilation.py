import jax
import pytest

from optimx.training.compilation import use_compilation_cache


@pytest.fixture
def restored():
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_compiled_code_goes_to_the_cache(restored, cache):
    jax.config.update("jax_compilation_cache_dir", None)
    use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == str(cache / "jax")


def test_a_folder_that_jax_was_told_stays(restored):
    jax.config.update("jax_compilation_cache_dir", "/elsewhere")
    use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == "/elsewhere"
