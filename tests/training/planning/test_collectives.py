import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from optimx.training.planning.collectives import Collective, collectives

TEXT = """\
HloModule step

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%inner (p: (s32[], f32[64])) -> (s32[], f32[64]) {
  %gathered = bf16[8,64]{1,0} all-gather(%x), replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %out = (s32[], f32[64]) tuple(%i, %y)
}

%test (p: (s32[], f32[64])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[64]) -> f32[64] {
  %summed = f32[64]{0} all-reduce(%x), replica_groups={{0,1,2,3}}, to_apply=%add
  %loop = (s32[], f32[64]) while(%start), condition=%test, body=%inner, TRIPS
  %alone = f32[64]{0} all-reduce(%x), replica_groups={{0},{1}}, to_apply=%add
  %meshed = f32[2]{0} all-to-all(%x), replica_groups=mesh['a'=4,'b'=2] {'a','b'}
  %begun = (f32[16]{0}, f32[64]{0}) all-gather-start(%x), replica_groups={{0,1,2,3}}
  ROOT %out = f32[64] get-tuple-element(%loop), index=1
}
""".replace("TRIPS", 'backend_config={"known_trip_count":{"n":"12"}}')


def test_collectives_are_counted_as_often_as_they_run():
    found = collectives(TEXT)
    assert sorted(found, key=lambda one: one.kind + str(one.size)) == [
        Collective("all-gather", 2 * 8 * 64, group=4, times=12),
        Collective("all-gather", 4 * 64, group=4, times=1),
        Collective("all-reduce", 4 * 64, group=4, times=1),
        Collective("all-to-all", 4 * 2, group=8, times=1),
    ]


def test_rounds_of_a_loop_are_read_from_its_condition_where_nothing_else_says_them():
    text = TEXT.replace(', backend_config={"known_trip_count":{"n":"12"}}', "").replace(
        "  ROOT %less", "  %n = s32[]{:T(128)} constant(7)\n  ROOT %less"
    )
    gathers = [one for one in collectives(text) if one.size == 2 * 8 * 64]
    assert [one.times for one in gathers] == [7]


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("all-gather", 75),
        ("all-reduce", 150),
        ("all-to-all", 75),
        ("collective-permute", 100),
        ("reduce-scatter", 300),
    ],
)
def test_bytes_that_a_ring_sends(kind, sent):
    assert Collective(kind, 100, group=4, times=1).sent == sent
    assert Collective(kind, 100, group=4, times=3).sent == 3 * sent


def test_a_real_program():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.ShapeDtypeStruct(
        (64, 32), jnp.float32, sharding=NamedSharding(mesh, P("x"))
    )

    def loop(x):
        def body(total, _):
            return total + jnp.sum(jnp.sin(x) * total[None], axis=0), None

        return jax.lax.scan(body, x[0], None, length=5)[0]

    text = jax.jit(loop).lower(split).compile().as_text()
    sums = [one for one in collectives(text) if one.kind == "all-reduce"]
    assert [one.times for one in sums if one.times > 1] == [5]
    assert {one.group for one in sums} == {8}
