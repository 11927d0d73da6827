"""What every test runs under: eight host devices, and nothing promoted unasked."""

import itertools
import os
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    flags = os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"
    os.environ["XLA_FLAGS"] = " ".join(flags).strip()

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # What one test, worker or process has compiled, the next one loads: most of their
    # time. The folder is gone with the process that made it; workers are told of it.
    _cache = tempfile.TemporaryDirectory(prefix="optimx-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"

import jax
import pytest

# Linux lets a process map 65,530 pieces of memory, and every compiled program takes a
# few: with thousands of them the compiler ends the process.
_MAPS = Path("/proc/self/maps")
_MANY_MAPS = 15_000
_tests = itertools.count(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown():
    """Lets go of compiled programs before there are too many; looks now and then."""
    # After the test's own teardown: until then files may be what it pretends they are.
    yield
    looks = next(_tests) % 16 == 0 and _MAPS.exists()
    if looks and _MAPS.read_bytes().count(b"\n") > _MANY_MAPS:
        jax.clear_caches()


def pytest_addoption(parser):
    parser.addoption(
        "--kills", type=int, default=20, help="how often test_kill.py kills a run"
    )


@pytest.fixture(autouse=True)
def _explicit_arithmetic():
    """Nothing promotes a rank or a dtype unless the code says so."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield
