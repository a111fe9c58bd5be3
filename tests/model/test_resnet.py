import json
import re
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model
from flax import nnx

from stan_jax.errors import InputError
from stan_jax.model import resnet
from stan_jax.model.fpn import FeaturePyramid
from stan_jax.model.layers import FrozenBatchNorm, recomputed

apply = jax.jit(lambda layer, x: layer(x))


def _normalised(norm, x):
    return (x - norm["mean"]) / np.sqrt(norm["var"] + 1e-5) * norm["scale"] + norm[
        "bias"
    ]


def _steps(block, x, strides, groups):
    """relu(residual + shortcut) of a block whose convolutions have these strides."""
    given = tiny_model.arrays(block)
    y, last = x, len(strides)
    for i, stride in enumerate(strides, 1):
        kernel = given[f"conv{i}"]["kernel"]
        share = groups if len(kernel) == 3 else 1
        y = tiny_model.conv(y, kernel, stride=stride, groups=share)
        y = _normalised(given[f"bn{i}"], y)
        y = np.maximum(y, 0) if i < last else y
    if shortcut := given.get("downsample"):
        x = tiny_model.conv(x, **shortcut[0], stride=max(strides))
        x = _normalised(shortcut[1], x)
    return np.maximum(y + x, 0)


@pytest.mark.parametrize(("channels", "stride"), [(4, 1), (6, 1), (6, 2)])
def test_basic_block_equals_its_equation(channels, stride):
    block = tiny_model.shake(
        resnet.BasicBlock(
            4, channels, stride=stride, norm=FrozenBatchNorm, rngs=nnx.Rngs(0)
        )
    )
    x = np.random.default_rng(1).normal(size=(2, 7, 6, 4)).astype(np.float32)
    want = _steps(block, x, (stride, 1), 1)
    np.testing.assert_allclose(apply(block, x), want, atol=1e-4)


@pytest.mark.parametrize("caffe", [False, True])
@pytest.mark.parametrize(
    ("channels", "stride", "groups"), [(8, 1, 1), (12, 1, 2), (12, 2, 1)]
)
def test_bottleneck_equals_its_equation(channels, stride, groups, caffe):
    block = tiny_model.shake(
        resnet.Bottleneck(
            8,
            4,
            channels,
            stride=stride,
            groups=groups,
            caffe=caffe,
            norm=FrozenBatchNorm,
            rngs=nnx.Rngs(0),
        )
    )
    x = np.random.default_rng(1).normal(size=(2, 7, 6, 8)).astype(np.float32)
    strides = (stride, 1, 1) if caffe else (1, stride, 1)
    want = _steps(block, x, strides, groups)
    np.testing.assert_allclose(apply(block, x), want, atol=1e-4)


def _parameters(model):
    return sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize(
    ("settings", "count"),  # torchvision's, less the classifier
    [
        (dict(stages=(2, 2, 2, 2), bottleneck=False), 11_176_512),
        (dict(stages=(3, 4, 6, 3), bottleneck=False), 21_284_672),
        (dict(stages=(3, 4, 6, 3), bottleneck=True), 23_508_032),
        (dict(stages=(3, 4, 23, 3), bottleneck=True), 42_500_160),
        (
            dict(stages=(3, 4, 23, 3), bottleneck=True, groups=64, group_width=4),
            81_406_272,
        ),
    ],
)
def test_networks_have_the_parameters_of_torchvision(settings, count):
    model = nnx.eval_shape(
        lambda: resnet.ResNet(**settings, norm=FrozenBatchNorm, rngs=nnx.Rngs(0))
    )
    assert _parameters(model) == count


def _small(frozen_stages, recompute_stages=0):
    return resnet.ResNet(
        stages=(1, 1, 1, 1),
        bottleneck=False,
        norm=FrozenBatchNorm,
        width=8,
        frozen_stages=frozen_stages,
        recompute_stages=recompute_stages,
        rngs=nnx.Rngs(0),
    )


@jax.jit
@jax.grad
def _gradient(model, x):
    return sum((m**2).sum() for m in model(x))


def _image():
    x = np.random.default_rng(0).normal(size=(1, 32, 64, 3))
    return jnp.asarray(x, jnp.float32)


@pytest.fixture(scope="module")
def free_gradients():
    """Of a network where everything learns."""
    return nnx.to_pure_dict(nnx.state(_gradient(_small(-1), _image()), nnx.Param))


@pytest.mark.parametrize(("frozen_stages", "modules"), [(0, 2), (2, 4), (4, 6)])
def test_frozen_stages_get_no_gradient_and_others_the_same(
    free_gradients, frozen_stages, modules
):
    model = _small(frozen_stages)
    assert len(model.frozen_paths) == modules
    got = nnx.to_pure_dict(nnx.state(_gradient(model, _image()), nnx.Param))
    for name, want in free_gradients.items():
        pairs = zip(jax.tree.leaves(got[name]), jax.tree.leaves(want), strict=True)
        for one, other in pairs:
            assert np.abs(other).max() > 0
            other = 0 * other if name in model.frozen_paths else other
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("frozen_stages", "again"), [(-1, 4), (1, 3)])
def test_stages_that_are_made_again_have_the_same_gradient(
    free_gradients, frozen_stages, again, monkeypatch
):
    model, stages = _small(frozen_stages, again), []

    def counted(stage, x):
        stages.append(stage)
        return recomputed(stage, x)

    monkeypatch.setattr(resnet, "recomputed", counted)
    jax.eval_shape(lambda x: model(x), _image())
    assert len(stages) == again - max(frozen_stages, 0)
    maps, want = (apply(m, _image()) for m in (model, _small(frozen_stages)))
    jax.tree.map(np.testing.assert_array_equal, maps, want)
    got = nnx.to_pure_dict(nnx.state(_gradient(model, _image()), nnx.Param))
    for name, want in free_gradients.items():
        want = jax.tree.map(lambda a, n=name: a * (n not in model.frozen_paths), want)
        for one, other in zip(*map(jax.tree.leaves, (got[name], want)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


def test_number_of_stages_that_are_made_again_is_checked():
    with pytest.raises(InputError, match=r"recompute_stages: must be in 0\.\.4, is 5"):
        _small(-1, 5)


def test_freezing_does_not_change_the_maps():
    free, frozen = _small(-1), _small(2)
    got, want = (apply(model, _image()) for model in (frozen, free))
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert [m.shape for m in got] == [
        (1, 32 // s, 64 // s, c)
        for s, c in zip((4, 8, 16, 32), (8, 16, 32, 64), strict=True)
    ]
    assert frozen.channels == (8, 16, 32, 64)
    assert free.frozen_paths == ()


# Regular expressions from names of torch to our paths.
NAMES = (
    (
        r"backbone\.(layer\d)\.(\d+)\.downsample\.([01])",
        r"backbone/\1/\2/downsample/\3",
    ),
    (r"backbone\.(layer\d)\.(\d+)\.(conv\d|bn\d)", r"backbone/\1/\2/\3"),
    (r"backbone\.(conv1|bn1)", r"backbone/\1"),
    (r"neck\.lateral_convs\.(\d)\.conv", r"fpn/laterals/\1"),
    (r"neck\.fpn_convs\.(\d)\.conv", r"fpn/outputs/\1"),
)
FIELDS = {"running_mean": "mean", "running_var": "var", "bias": "bias"}


def _our_path(key, shape):
    stem, field = key.rsplit(".", 1)
    weight = "kernel" if len(shape) == 4 else "scale"
    for pattern, path in NAMES:
        if re.fullmatch(pattern, stem):
            return re.sub(pattern, path, stem) + "/" + FIELDS.get(field, weight)
    raise KeyError(key)


class Pyramid(nnx.Module):
    """C2..C5 and P2..P6 of a ResNet-50."""

    def __init__(self, caffe):
        rngs = nnx.Rngs(0)
        self.backbone = resnet.ResNet(
            stages=(3, 4, 6, 3),
            bottleneck=True,
            caffe=caffe,
            frozen_stages=1,
            norm=FrozenBatchNorm,
            rngs=rngs,
        )
        self.fpn = FeaturePyramid(
            self.backbone.channels, 256, strides=self.backbone.strides, rngs=rngs
        )

    def __call__(self, x):
        maps = self.backbone(x)
        return (*maps, *self.fpn(maps))


@pytest.fixture(scope="module")
def torch_weights(golden):
    """Our path -> array, for the weights that the reference was computed with."""
    parity = golden / "parity"
    rule = runpy.run_path(str(parity / "rule.py"))
    names = parity / "keys/original_masktrackrcnn_r50_fpn.json"
    keys = json.loads(names.read_text())["keys"]
    wanted = {
        k: tuple(shape)
        for k, shape in keys.items()
        if k.startswith(("backbone.", "neck.")) and not k.endswith("tracked")
    }
    weights = {}
    for key, shape in wanted.items():
        array = rule["weight"](key, shape, keys)
        if len(shape) == 4:
            array = array.transpose(2, 3, 1, 0)  # OIHW to HWIO
        weights[_our_path(key, shape)] = array
    return weights


@pytest.mark.parametrize("style", ["pytorch", "caffe"])
def test_resnet50_pyramid_equals_mmdet(golden, torch_weights, style):
    arrays = np.load(golden / f"parity/resnet50_fpn_{style}.npz")
    model = nnx.eval_shape(lambda: Pyramid(style == "caffe"))
    given = dict(torch_weights)
    state = nnx.state(model)
    nnx.replace_by_pure_dict(
        state,
        jax.tree_util.tree_map_with_path(
            lambda path, _: given.pop("/".join(str(p.key) for p in path)),
            nnx.to_pure_dict(state),
        ),
    )
    nnx.update(model, state)
    assert not given

    names = ("c2", "c3", "c4", "c5", "p2", "p3", "p4", "p5", "p6")
    # 5 times what the reference itself is off in float32; see the manifest.
    bars = dict(zip(names, 5 * arrays["fp32_minus_fp64_max"], strict=True))
    for image, prefix in (("img", ""), ("img_odd", "odd_")):
        x = jnp.asarray(arrays[image].transpose(0, 2, 3, 1))
        for name, got in zip(names, apply(model, x), strict=True):
            if prefix + name in arrays:
                want = arrays[prefix + name].transpose(0, 2, 3, 1)
                np.testing.assert_allclose(got, want, rtol=0, atol=bars[name])
