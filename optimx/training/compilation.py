"""Compiled steps that are kept between runs."""

import jax

from optimx.training.data import cache_dir


def use_compilation_cache() -> None:
    """Keeps what JAX compiles in the cache folder, unless JAX was told where."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
