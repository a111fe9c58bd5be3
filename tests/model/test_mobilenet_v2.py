import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model
from flax import nnx

from stan_jax.model import mobilenet_v2
from stan_jax.model.layers import FrozenBatchNorm

apply = jax.jit(lambda layer, x: layer(x))


def _normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_equals_loops_on_odd_and_even_maps(stride):
    layer = mobilenet_v2.DepthwiseNorm(
        5, stride=stride, norm=FrozenBatchNorm, rngs=nnx.Rngs(0)
    )
    layer.bn.bias[...] = _normal(0, 5)
    for hw in ((7, 8), (6, 5), (1, 2)):
        x = _normal(1, 2, *hw, 5)
        want = tiny_model.conv(x, layer.kernel[...], stride=stride, groups=5)
        want += np.asarray(layer.bn.bias[...])
        np.testing.assert_allclose(apply(layer, x), want, atol=1e-4)


@pytest.mark.parametrize(
    ("channels", "stride", "shortcut"), [(4, 1, True), (4, 2, False), (6, 1, False)]
)
def test_inverted_residual_equals_its_equation(channels, stride, shortcut):
    block = mobilenet_v2.InvertedResidual(
        4, channels, 3, stride=stride, norm=FrozenBatchNorm, rngs=nnx.Rngs(0)
    )
    layers = (block.expand, block.depthwise, block.project)
    for seed, layer in enumerate(layers):
        layer.bn.bias[...] = _normal(seed, layer.bn.bias[...].size)
    x = 6 * _normal(9, 2, 6, 7, 4)  # loud enough for relu6 to cut

    def norm(layer, y):
        return y / np.sqrt(1 + 1e-5) + np.asarray(layer.bn.bias[...])

    y = norm(block.expand, tiny_model.conv(x, block.expand.conv.kernel[...]))
    assert y.max() > 6
    kernel = block.depthwise.kernel[...]
    y = tiny_model.conv(np.clip(y, 0, 6), kernel, stride=stride, groups=12)
    y = np.clip(norm(block.depthwise, y), 0, 6)
    y = norm(block.project, tiny_model.conv(y, block.project.conv.kernel[...]))
    want = y + np.asarray(x) if shortcut else y
    np.testing.assert_allclose(apply(block, x), want, atol=1e-4)


def test_maps_have_the_strides_and_channels_of_the_weights():
    model = nnx.eval_shape(
        lambda: mobilenet_v2.MobileNetV2(norm=FrozenBatchNorm, rngs=nnx.Rngs(0))
    )
    maps = jax.eval_shape(lambda m, x: m(x), model, jnp.zeros((1, 64, 96, 3)))
    assert model.channels == (24, 64, 96, 320)
    assert [m.shape for m in maps] == [
        (1, 64 // s, 96 // s, c)
        for s, c in zip((4, 8, 16, 32), model.channels, strict=True)
    ]
    # Of torchvision 2,223,872; less the layer behind block 16, plus block 0's expand.
    count = sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert count == 2_223_872 - (320 * 1280 + 2 * 1280) + (32 * 32 + 2 * 32)


def test_frozen_blocks_get_no_gradient_and_others_the_same(monkeypatch):
    # The first four blocks are the network; all seventeen take long to compile.
    monkeypatch.setattr(mobilenet_v2, "BLOCKS", mobilenet_v2.BLOCKS[:4])
    monkeypatch.setattr(mobilenet_v2, "OUTPUTS", (0, 1, 2, 3))
    x = _normal(0, 1, 32, 32, 3)

    @jax.jit
    @jax.grad
    def gradient(model):
        return sum((m**2).sum() for m in model(x))

    def by_module(frozen_blocks):
        model = mobilenet_v2.MobileNetV2(
            norm=FrozenBatchNorm, frozen_blocks=frozen_blocks, rngs=nnx.Rngs(0)
        )
        grads = nnx.to_pure_dict(nnx.state(gradient(model), nnx.Param))
        blocks = {f"blocks/{i}": block for i, block in grads["blocks"].items()}
        return model.frozen_paths, {"stem": grads["stem"]} | blocks

    nothing, free = by_module(-1)
    assert nothing == ()
    for frozen_blocks in (0, 2, 4):
        frozen, got = by_module(frozen_blocks)
        assert len(set(frozen) & set(got)) == frozen_blocks + 1
        for name, want in free.items():
            pairs = zip(jax.tree.leaves(got[name]), jax.tree.leaves(want), strict=True)
            for one, other in pairs:
                assert np.abs(other).max() > 0
                other = 0 * other if name in frozen else other
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)
