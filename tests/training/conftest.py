"""A cache of the tests' own and a corpus that they share."""

import jax
import pytest

from training.small import write_corpus


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("OPTIMX_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(autouse=True)
def _explicit_arithmetic():
    """Flax promotes dtypes inside its layers, so only ranks are strict here."""
    with jax.numpy_rank_promotion("raise"):
        yield
