import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model
from flax import nnx

from stan_jax.model.fpn import FeaturePyramid

STRIDES = (4, 8, 16, 32, 64)  # of its levels


def _pyramid():
    return tiny_model.shake(
        FeaturePyramid((3, 4, 5, 6), 4, strides=STRIDES[:4], rngs=nnx.Rngs(0))
    )


def _maps(shapes):
    rng = np.random.default_rng(2)
    return [
        jnp.asarray(rng.normal(size=(2, *hw, c)), jnp.float32)
        for hw, c in zip(shapes, (3, 4, 5, 6), strict=True)
    ]


EVEN = ((16, 24), (8, 12), (4, 6), (2, 3))
ODD = ((19, 26), (10, 13), (5, 7), (3, 4))  # of a frame of 75 x 101


@pytest.mark.parametrize("shapes", [EVEN, ODD])
def test_pyramid_equals_its_equation(shapes):
    fpn, maps = _pyramid(), _maps(shapes)
    got = jax.jit(lambda fpn, maps: fpn(maps))(fpn, maps)

    given = tiny_model.arrays(fpn)
    want, above = [], None
    for i in (3, 2, 1, 0):
        total = tiny_model.conv(maps[i], **given["laterals"][i])
        if above is not None:  # each cell takes the cell of the coarser map it lies in
            for y, x in np.ndindex(shapes[i]):
                total[:, y, x] += above[:, y // 2, x // 2]
        above = total
        want.insert(0, tiny_model.conv(total, **given["outputs"][i]))
    want.append(want[3][:, ::2, ::2])  # P6
    for level, loop in zip(got, want, strict=True):
        np.testing.assert_allclose(level, loop, atol=2e-5)


def test_each_level_sees_its_own_and_coarser_maps_only():
    fpn, maps = _pyramid(), _maps(EVEN)
    run = jax.jit(lambda fpn, maps: fpn(maps))
    want = run(fpn, maps)
    for i in range(4):
        changed = [m + 1 if j == i else m for j, m in enumerate(maps)]
        got = run(fpn, changed)
        differs = [bool((a != b).any()) for a, b in zip(got, want, strict=True)]
        assert differs == [*(j <= i for j in range(4)), i == 3]


def test_a_level_has_a_cell_per_stride():
    got = jax.eval_shape(_pyramid(), _maps(EVEN))
    assert [x.shape[1:3] for x in got] == [(-(-64 // s), -(-96 // s)) for s in STRIDES]
