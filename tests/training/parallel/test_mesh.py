import jax
import pytest

from optimx.training import sections
from optimx.training.errors import InputError
from optimx.training.parallel import mesh as meshes
from training.small import config


def section(**axes):
    return sections.Mesh(**({"data": 1} | axes))


def make(chosen):
    return meshes.make_mesh(chosen, jax.local_devices())


@pytest.mark.parametrize(
    ("axes", "sizes"),
    [
        ({"data": -1}, (8, 1, 1)),
        ({"fsdp": -1}, (1, 8, 1)),
        ({"data": 2, "fsdp": -1, "tensor": 2}, (2, 2, 2)),
        ({"data": 4, "tensor": 2}, (4, 1, 2)),
    ],
)
def test_one_axis_takes_what_the_others_leave(axes, sizes):
    assert meshes.axis_sizes(section(**axes), 8) == sizes
    assert make(section(**axes)).shape == dict(zip(meshes.AXES, sizes, strict=True))


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (
            {"data": 3},
            r"mesh\.data = 3, mesh\.fsdp = 1, mesh\.tensor = 1: must multiply to the "
            "number of devices, 8",
        ),
        ({"data": -1, "fsdp": 3}, "3 must divide the number of devices, 8"),
        ({"data": -1, "fsdp": -1}, "only one axis can be -1"),
        ({"data": 16}, "must multiply to the number of devices, 8"),
    ],
)
def test_axes_that_do_not_multiply_to_the_devices(axes, message):
    with pytest.raises(InputError, match=message):
        make(section(**axes))


def test_sequences_are_dealt_out_evenly(corpus):
    mesh = make(section(data=2, fsdp=4))
    with pytest.raises(
        InputError,
        match=r"train\.batch_size = 4: must be a multiple of 8, .* mesh\.data = 2 and "
        r"mesh\.fsdp = 4",
    ):
        meshes.check_batch(config(corpus), mesh)
    meshes.check_batch(config(corpus, train__batch_size=8), mesh)
