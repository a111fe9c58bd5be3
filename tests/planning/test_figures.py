from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from stan_jax.planning import figures
from stan_jax.planning.figures import Collective
from stan_jax.training import mesh as meshes


def _flops(function, *given):
    return figures.flops(jax.make_jaxpr(function)(*given).jaxpr)


def _convolved(x, kernel, stride=1):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def test_operations_of_a_product_are_two_for_each_multiplication():
    a, b = jnp.ones((2, 3, 5)), jnp.ones((2, 5, 7))
    assert _flops(partial(jnp.einsum, "bij,bjk->bik"), a, b) == 2 * 2 * 3 * 5 * 7


@pytest.mark.parametrize("stride", [1, 2])
def test_operations_of_a_convolution_and_its_gradients_are_the_same(stride):
    x, kernel = jnp.ones((2, 9, 9, 3)), jnp.ones((3, 3, 3, 4))
    side = (9 - 3) // stride + 1
    multiplications = 2 * side * side * 4 * 3 * 3 * 3
    assert _flops(partial(_convolved, stride=stride), x, kernel) == 2 * multiplications

    def loss(x, kernel):
        return _convolved(x, kernel, stride).sum()

    of_kernel = _flops(jax.grad(loss, 1), x, kernel)
    assert of_kernel == 2 * 2 * multiplications
    # That of the map is a convolution as well, and sees some cells beyond the border.
    of_map = _flops(jax.grad(loss), x, kernel) - 2 * multiplications
    assert multiplications < of_map / 2 < 3 * multiplications


def test_operations_count_loops_by_their_length_and_branches_by_the_costliest():
    a = jnp.ones((4, 4))

    def loop(a):
        return jax.lax.scan(lambda x, _: (x @ a, None), a, length=6)[0]

    def choice(a):
        return jax.lax.cond(a[0, 0] > 0, lambda: a @ a @ a, lambda: a)

    assert _flops(loop, a) == 6 * 2 * 4**3
    assert _flops(choice, a) == 2 * 2 * 4**3
    assert _flops(jax.jit(jax.checkpoint(loop)), a) == 6 * 2 * 4**3


def test_operations_are_those_of_one_device():
    mesh = meshes.make_mesh(2)
    cut = PartitionSpec("data")
    product = jax.shard_map(
        lambda x: x @ x.T, mesh=mesh, in_specs=cut, out_specs=cut, check_vma=False
    )
    assert _flops(product, jnp.ones((8, 3))) == 2 * 4 * 3 * 4


def test_memory_is_what_the_compiler_plans():
    x = jax.ShapeDtypeStruct((64, 64), jnp.float32)

    def twice(x):
        return jnp.sort(jnp.sin(x) @ x) @ x, x.sum()

    compiled = jax.jit(twice).lower(x).compile()
    found = figures.memory(compiled, beside=7)
    assert found.arguments == 4 * 64 * 64
    assert found.temporaries >= 2 * 4 * 64 * 64 + 4  # both results, and one between
    assert found.beside == 7
    parts = found.arguments, found.temporaries, found.code, 7
    assert found.peak == sum(parts)

    kept = jax.jit(lambda x: x + 1, donate_argnums=0).lower(x).compile()
    assert figures.memory(kept).temporaries == 0


def test_bytes_on_a_device_are_those_of_its_part():
    mesh = meshes.make_mesh(2)

    def shape(*axes):
        sharding = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.ShapeDtypeStruct((6, 5), jnp.float32, sharding=sharding)

    assert figures.bytes_on_device({"whole": shape()}) == 4 * 30
    assert figures.bytes_on_device([shape("data"), None]) == 4 * 15


def test_collectives_are_found_in_a_compiled_program():
    mesh = meshes.make_mesh(2)
    total = jax.shard_map(
        lambda x: jax.lax.psum(x, "data"),
        mesh=mesh,
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    x = np.ones((6, 5), np.float32)
    text = jax.jit(total).lower(x).compile().as_text()
    assert figures.collectives(text) == {"all-reduce": Collective(1, 4 * 15)}


def test_collectives_are_read_as_gpu_and_tpu_programs_have_them():
    text = """
  %a = (f32[]{:T(128)}, bf16[3,3,16,16]{3,2,1,0:T(8,128)S(1)}) all-reduce(%x, %y), id=1
  %b = f32[1405381]{0} all-reduce-start(%z), channel_id=1, to_apply=%region
  %c = f32[1405381]{0} all-reduce-done(%b)
  %d = (f32[4,8]{1,0}, f32[32,8]{1,0}) all-gather-start(%v), dimensions={0}
  %e = pred[16]{0} all-gather(%w), dimensions={0}, metadata={op_name="all-reduce(x)"}
  %f = f32[8]{0} fusion(%all-reduce.1), kind=kLoop
"""
    found = figures.collectives(text)
    assert found["all-reduce"] == Collective(2, 4 + 2 * 9 * 256 + 4 * 1405381)
    assert found["all-gather"] == Collective(2, 4 * 32 * 8 + 16)
    assert len(found) == 2
    twice = figures.joined([found, {"all-gather": Collective(1, 5)}])
    assert twice["all-gather"] == Collective(3, 4 * 32 * 8 + 16 + 5)
