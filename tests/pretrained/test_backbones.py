import json
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stan_jax.errors import InputError
from stan_jax.model import stan
from stan_jax.model.layers import FrozenBatchNorm, GroupNorm
from stan_jax.pretrained import backbones


def _split(kind="mobilenet_v2", norm=FrozenBatchNorm, **args):
    model = stan.BACKBONES[kind](norm=norm, rngs=nnx.Rngs(0), **args)
    structure, params, frozen = nnx.split(model, nnx.Param, ...)
    return structure, nnx.to_pure_dict(params), nnx.to_pure_dict(frozen)


@pytest.fixture(scope="module")
def light():
    return _split()


@pytest.fixture(scope="module")
def resnet():
    return _split("resnet50")


@pytest.fixture(scope="module")
def weights(shared_data):
    return shared_data / "pretrained/mobilenetv2_imagenet.npz"


@pytest.fixture(scope="module")
def torch_names(golden):
    """Name -> array of a torchvision ResNet-50, by the rule of the references."""
    parity = golden / "parity"
    weight = runpy.run_path(str(parity / "rule.py"))["weight"]
    file = parity / "keys/torchvision_resnet50.json"
    keys = json.loads(file.read_text())["keys"]
    prefixed = [f"backbone.{key}" for key in keys]  # as the references are named
    return {
        key: weight(f"backbone.{key}", tuple(shape), prefixed)
        for key, shape in keys.items()
        if not key.endswith("num_batches_tracked")
    } | {key: np.int64(7) for key in keys if key.endswith("num_batches_tracked")}


def _save(path, arrays):
    np.savez(path, **arrays)
    return path


def _load(path, state, kind="mobilenet_v2", caffe=False):
    return backbones.load(path, *state[1:], kind=kind, caffe=caffe)


def test_mobilenet_gives_the_reference_output(light, weights, shared_data):
    reference = np.load(shared_data / "pretrained/reference_outputs.npz")
    model = nnx.merge(light[0], *_load(weights, light))
    images = jnp.asarray(reference["images"])
    size_hw = jnp.full((2, 2), 224)
    maps = jax.jit(lambda m, x: m(stan.normalise(x, size_hw)))(model, images)
    want = reference["mobilenet_s32"]
    assert np.abs(want).max() > 1
    np.testing.assert_allclose(maps[3], want, atol=1e-4)


def test_every_array_of_mobilenet_but_the_head_finds_its_place(light, weights):
    loaded = _load(weights, light)
    assert jax.tree.structure(loaded) == jax.tree.structure(light[1:])
    arrays = np.load(weights)
    given = [arrays[k] for k in arrays.files if not k.startswith("head.")]
    got = jax.tree.leaves(loaded)

    def fingerprint(leaves):
        return sorted((x.shape, float(x.astype(np.float64).sum())) for x in leaves)

    assert fingerprint(got) == fingerprint(given)
    assert {x.dtype for x in got} == {np.dtype(np.float32)}
    norm = loaded[1]["blocks"][4]["depthwise"]["bn"]
    np.testing.assert_array_equal(norm["var"], arrays["block4.depthwise.bn.var"])


def test_torchvision_resnet_gives_the_reference_maps(
    golden, resnet, torch_names, tmp_path
):
    path = _save(tmp_path / "resnet50.npz", torch_names)
    model = nnx.merge(resnet[0], *_load(path, resnet, "resnet50"))
    arrays = np.load(golden / "parity/resnet50_fpn_pytorch.npz")
    maps = model(jnp.asarray(arrays["img"].transpose(0, 2, 3, 1)))
    bars = 5 * arrays["fp32_minus_fp64_max"]
    for name, got, bar in zip(("c2", "c3", "c4", "c5"), maps, bars, strict=False):
        if name in arrays:
            want = arrays[name].transpose(0, 2, 3, 1)
            np.testing.assert_allclose(got, want, rtol=0, atol=bar)


def _msra(torch_names):
    """The same network as Caffe names it: norms folded, BGR, not divided by std."""
    found = {}
    letters = {"1": "a", "2": "b", "3": "c"}
    for key, array in torch_names.items():
        part = key.split(".")
        if key.endswith("running_var") or "bn" in key or part[-2] == "1":
            continue
        if part[0] == "conv1":
            found["conv1_w"] = (
                array[:, ::-1] / np.float32(stan.STD)[::-1][None, :, None, None]
            )
        elif part[0] == "fc":
            found["fc1000_w" if part[1] == "weight" else "fc1000_b"] = array
        else:
            stage, block = int(part[0][5:]) + 1, part[1]
            branch = "1" if part[2] == "downsample" else "2" + letters[part[2][4:]]
            found[f"res{stage}_{block}_branch{branch}_w"] = array
    for key, array in list(found.items()):
        if key.endswith("_w") and not key.startswith("fc"):
            stem = "res_conv1_bn" if key == "conv1_w" else key[:-2] + "_bn"
            found[stem + "_s"] = np.full(len(array), 0.5, np.float32)
            found[stem + "_b"] = np.full(len(array), 0.1, np.float32)
    return found


def test_detectron2_resnet_takes_bgr_and_divides_by_no_variance(torch_names, tmp_path):
    state = _split("resnet50", caffe=True)
    path = _save(tmp_path / "R-50.npz", _msra(torch_names))
    params, frozen = _load(path, state, "resnet50", caffe=True)
    model = nnx.merge(state[0], params, frozen)
    frame = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    x = stan.normalise(jnp.asarray(frame), jnp.array([[32, 32]]))
    got = model.bn1(model.conv1(x))
    bgr = (frame - np.float32(stan.MEAN))[..., ::-1]
    kernel = np.load(path)["conv1_w"].transpose(2, 3, 1, 0)
    want = 0.1 + 0.5 * jax.lax.conv_general_dilated(
        bgr,
        kernel,
        (2, 2),
        [(3, 3), (3, 3)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(got, want, atol=1e-4)
    np.testing.assert_array_equal(
        params["layer3"][5]["conv2"]["kernel"],
        np.load(path)["res4_5_branch2b_w"].transpose(2, 3, 1, 0),
    )


def test_all_that_is_wrong_with_a_file_is_named_at_once(light, weights, tmp_path):
    arrays = dict(np.load(weights))
    del arrays["stem.conv"], arrays["block3.project.bn.var"]
    arrays["block17.expand.conv"] = np.zeros(3)
    arrays["block2.depthwise.conv"] = np.zeros((5, 5, 1, 144))
    arrays["classifier.weight"] = np.zeros(2)
    path = _save(tmp_path / "broken.npz", arrays)
    with pytest.raises(InputError) as caught:
        _load(path, light)
    assert caught.value.file == str(path)
    assert caught.value.rule.split("; ") == [
        "block17.expand.conv has no place in the model",
        "block2.depthwise.conv is (5, 5, 1, 144),"
        " backbone/blocks/2/depthwise/kernel is (3, 3, 1, 144)",
        "classifier.weight fits 0 lines of the table, not 1",
        "nothing gives backbone/blocks/3/project/bn/var",
        "nothing gives backbone/stem/conv/kernel",
    ]


@pytest.mark.parametrize(
    ("kind", "args", "caffe", "rule"),
    [
        ("mobilenet_v2", {}, False, "backbone resnet50, the model's is mobilenet_v2"),
        (
            "resnet50",
            {"norm": GroupNorm},
            False,
            "bn1/mean is .* there, absent in the model",
        ),
        ("resnet34", {}, False, "the model's is resnet34"),
        ("resnet101", {}, False, "the model's is resnet101"),
        ("resnet50", {}, True, "needs model.backbone_args.caffe=False"),
    ],
)
def test_file_that_does_not_go_with_the_model_is_refused(
    torch_names, tmp_path, kind, args, caffe, rule
):
    path = _save(tmp_path / "resnet50.npz", torch_names)
    with pytest.raises(InputError, match=rule):
        _load(path, _split(kind, **args), kind, caffe)


def test_file_of_no_known_family_is_refused(light, tmp_path):
    path = _save(tmp_path / "x.npz", {"features.0.weight": np.zeros(2)})
    with pytest.raises(InputError, match="torchvision.*it holds features.0.weight"):
        _load(path, light)
