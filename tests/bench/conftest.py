import pytest


@pytest.fixture(autouse=True)
def _explicit_arithmetic():
    """Measurements run under JAX's own defaults; Optax relies on them."""
