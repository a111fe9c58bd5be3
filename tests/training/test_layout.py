import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from stan_jax.training import layout
from stan_jax.training import mesh as meshes


@pytest.mark.parametrize(
    ("shape", "devices", "cut"),
    [
        ((3, 3, 64, 128), 4, (None, None, None, "data")),
        ((3, 3, 128, 64), 4, (None, None, "data")),
        ((7, 1000), 8, (None, "data")),
        ((4096, 6), 8, ("data",)),
        ((1001, 9), 2, ()),  # nothing divides
        ((1001, 9), 3, (None, "data")),
        ((512,), 2, ()),  # small
        ((), 2, ()),
        ((4096, 6), 1, ()),
    ],
)
def test_arrays_are_cut_along_the_longest_axis_that_divides(shape, devices, cut):
    array = jax.ShapeDtypeStruct(shape, jnp.float32)
    assert layout.cuts({"a": array}, devices) == {"a": PartitionSpec(*cut)}


def test_gather_undoes_the_cut_and_scatter_sum_is_the_sum_of_all():
    mesh = meshes.make_mesh(2)
    tree = {"a": np.arange(4096.0).reshape(2, 2048), "b": np.arange(3.0)}
    how = layout.cuts(tree, 2)

    def twice(pieces):
        whole = layout.gather(pieces, how)
        number = jax.lax.axis_index("data") + 1.0
        return whole, layout.scatter_sum(jax.tree.map(lambda x: number * x, whole), how)

    out = jax.shard_map(
        twice,
        mesh=mesh,
        in_specs=(how,),
        out_specs=(PartitionSpec(), how),
        check_vma=False,
    )
    whole, total = jax.jit(out)(meshes.spread(tree, mesh))
    for name, x in tree.items():
        np.testing.assert_array_equal(whole[name], x)
        np.testing.assert_array_equal(total[name], 3 * x)
        assert total[name].sharding.spec == how[name]
