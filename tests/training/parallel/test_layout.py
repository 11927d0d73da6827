import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from optimx.training import sections
from optimx.training.errors import InputError
from optimx.training.network import model
from optimx.training.optimizer import build_optimizer
from optimx.training.parallel import layout
from optimx.training.parallel.mesh import make_mesh
from optimx.training.state import abstract_state, init_state
from training.small import config


def mesh_of(**axes):
    return make_mesh(sections.Mesh(**axes), jax.local_devices())


def start(chosen, devices=8):
    """Optimizer, mesh, and shardings of the state of a run."""
    mesh = make_mesh(chosen.mesh, jax.local_devices()[:devices])
    tx = build_optimizer(
        chosen.optimizer,
        chosen.schedule,
        chosen.train.steps,
        stacked=chosen.model.scan,
    )
    with jax.set_mesh(mesh):
        return tx, mesh, layout.state_sharding(chosen, tx, mesh)


def test_parameters_are_split_by_their_paths(corpus):
    shapes = model.parameter_shapes(config(corpus, model__layers=2).model)
    mesh = mesh_of(data=2, fsdp=2, tensor=2)
    found = layout.parameter_shardings(mesh, shapes)
    assert found["wte"]["embedding"].spec == P("tensor", "fsdp")
    block = found["h_1"]
    assert block["attention"]["qkv"]["kernel"].spec == P("fsdp", "tensor")
    assert block["attention"]["out"]["kernel"].spec == P("tensor", "fsdp")
    assert block["mlp"]["down"]["kernel"].spec == P("tensor", "fsdp")
    assert block["mlp"]["up"]["bias"].spec == P("tensor")
    assert block["mlp"]["down"]["bias"].spec == P()
    assert block["ln_1"]["scale"].spec == P()


def test_a_stack_of_layers_is_not_split_over_layers(corpus):
    chosen = config(corpus, model__layers=2, model__scan="true").model
    shapes = model.parameter_shapes(chosen)
    mesh = mesh_of(data=2, fsdp=2, tensor=2)
    found = layout.parameter_shardings(mesh, shapes, stacked=True)
    assert found["h"]["attention"]["qkv"]["kernel"].spec == P(None, "fsdp", "tensor")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"mesh__fsdp": 8, "model__width": 12, "model__heads": 2},
            r"mesh\.fsdp = 8: does not divide dimension 1 of parameter "
            r"h_0/attention/out/kernel, which has shape \(12, 12\)",
        ),
        (
            {"mesh__tensor": 8, "model__heads": 8, "model__vocab": 301},
            r"mesh\.tensor = 8: does not divide dimension 0 of parameter "
            r"wte/embedding, which has shape \(301, 16\); model\.vocab = 304 would do",
        ),
        (
            {"mesh__tensor": 8},
            r"mesh\.tensor = 8: does not divide model\.heads = 2",
        ),
    ],
)
def test_axes_that_do_not_divide_a_dimension(corpus, changed, message):
    chosen = config(corpus, mesh__data=1, **changed)
    with pytest.raises(InputError, match=message):
        start(chosen)


@pytest.mark.parametrize("name", ["mars_adamw", "came", "soap"])
def test_state_is_made_where_it_belongs(corpus, name):
    chosen = config(
        corpus, optimizer__name=name, mesh__data=2, mesh__fsdp=2, mesh__tensor=2
    )
    tx, mesh, shardings = start(chosen)
    with jax.set_mesh(mesh):
        state = init_state(chosen, tx, shardings)
        shapes = abstract_state(chosen, tx)
    same = jax.tree.map(
        lambda x, s, shape: (
            x.sharding.is_equivalent_to(s, x.ndim)
            and (x.shape, x.dtype) == (shape.shape, shape.dtype)
        ),
        state,
        shardings,
        shapes,
    )
    assert all(jax.tree.leaves(same))
    kernel = state.params["h_0"]["mlp"]["up"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (8, 32)
    alone = init_state(chosen, tx)
    jax.tree.map(np.testing.assert_array_equal, state.params, alone.params)


def test_zero1_splits_state_and_nothing_else(corpus):
    plain = config(corpus, optimizer__name="ademamix", mesh__data=8)
    split = config(corpus, optimizer__name="ademamix", mesh__data=8, mesh__zero1="true")
    tx, mesh, before = start(plain)
    _, _, after = start(split)
    assert after.params == before.params
    with jax.set_mesh(mesh):
        shapes = abstract_state(plain, tx)
    whole, part = (
        layout.bytes_per_device(shapes.optimizer, s.optimizer) for s in (before, after)
    )
    assert whole == sum(
        leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes.optimizer)
    )
    # All but what 8 does not divide, 300 rows of 16: and of those, the 16.
    assert part < 0.13 * whole


def test_zero1_that_would_split_nothing(corpus):
    chosen = config(corpus, mesh__zero1="true", mesh__data=1)
    with pytest.raises(
        InputError, match=r"mesh\.zero1 = true: splits nothing .* mesh\.data = 1"
    ):
        start(chosen, 1)
