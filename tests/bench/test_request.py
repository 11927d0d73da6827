import jax
import jax.numpy as jnp
import pytest

from optimx.bench.request import Request, parameter_shapes
from optimx.training.errors import InputError


def test_matrices_of_the_blocks_only():
    shapes = parameter_shapes(Request("small", matrices_only=True))
    assert len(shapes) == 48
    assert {leaf.shape for leaf in shapes.values()} == {
        (768, 768),
        (768, 2304),
        (768, 3072),
        (3072, 768),
    }


def test_shapes_have_the_dtype_that_is_asked_for():
    leaves = jax.tree.leaves(parameter_shapes(Request("tiny", "bfloat16")))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("bfloat16")}
    assert sum(leaf.size for leaf in leaves) == 937_472


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"preset": "smal"}, "--preset 'smal': .* did you mean small"),
        ({"dtype": "flaot32"}, "--dtype 'flaot32': .* did you mean float32"),
        ({"only": ("lyon",)}, "--only 'lyon': .* did you mean lion"),
        ({"steps": 0}, "--steps 0: must be at least 1"),
    ],
)
def test_what_cannot_be_measured(words, message):
    with pytest.raises(InputError, match=message):
        Request(**words)
