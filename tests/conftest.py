"""What every test runs under: eight host devices, and nothing promoted unasked."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    flags = os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"
    os.environ["XLA_FLAGS"] = " ".join(flags).strip()

import jax
import pytest


@pytest.fixture(autouse=True)
def _explicit_arithmetic():
    """Nothing promotes a rank or a dtype unless the code says so."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield
