import json

import numpy as np
import parity
import pytest

from stan_jax.errors import InputError
from stan_jax.published import detectors, names, openmmlab, tensors

# State dict of the references -> family, preset, backbone, classes, absent parts.
KNOWN = {
    "original_masktrackrcnn_r50_fpn": ("original", "original", "resnet50", 40, []),
    "mmdet3_masktrack_rcnn_r50_fpn": ("mmdet", "openmmlab", "resnet50", 40, []),
    "mmtracking_masktrack_rcnn_r50_fpn": ("mmdet", "openmmlab", "resnet50", 40, []),
    "mmdet_mask_rcnn_r50_fpn_detector_only": (
        "mmdet",
        "openmmlab",
        "resnet50",
        40,
        ["track_head"],
    ),
    "torchvision_maskrcnn_resnet50_fpn_coco91": (
        "torchvision",
        "torchvision",
        "resnet50",
        90,
        ["track_head"],
    ),
    "detectron2_mask_rcnn_R_50_FPN": (
        "detectron2",
        "openmmlab",
        "resnet50",
        80,
        ["track_head"],
    ),
    "torchvision_resnet50": ("torchvision-resnet", "original", "resnet50", 0, []),
}
MMDET = "mmdet3_masktrack_rcnn_r50_fpn"


@pytest.fixture(scope="module")
def folder(golden):
    return parity.Folder(golden / "parity", 0)


@pytest.fixture
def weights(folder):
    return lambda keys=MMDET: folder.weights(keys, {})


@pytest.mark.parametrize("keys", KNOWN)
def test_every_published_family_is_known_and_wholly_used(weights, keys):
    given = weights(keys)
    found = detectors.convert(keys, given)
    family, preset, backbone, classes, absent = KNOWN[keys]
    assert (found.family, found.preset) == (family, preset)
    assert (found.settings["backbone"], found.classes) == (backbone, classes)
    assert sorted({path.split("/")[0] for path in found.missing}) == absent
    assert all(
        "num_batches_tracked" in name or name.startswith("fc.")
        for name in found.skipped
    )
    used = {**found.params, **found.statistics}
    assert len(used) + len(found.skipped) == len(given)
    lost = 0 if family != "torchvision" else 4 * 1024 + 4 + 256 + 1  # the background
    size = sum(x.size for name, x in given.items() if name not in found.skipped)
    assert sum(x.size for x in used.values()) == size - lost


def _scaled(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}


def _small(backbone, **changes):
    """Settings of a small detector on a whole backbone."""
    sizes = dict(channels=8, box_channels=6, mask_channels=5, mask_depth=4)
    settings = dict(
        backbone=backbone,
        backbone_args=dict(caffe=False),
        norm="frozen_batch",
        anchor_scale=8.0,
        sta=None,
        embed_channels=7,
        **sizes,
        background_columns=False,
        conventions=detectors.PRESETS["openmmlab"].conventions._asdict(),
    )
    return settings | changes


@pytest.mark.parametrize(
    "backbone", ["resnet18", "resnet34", "resnet101", "resnext101_64x4d"]
)
def test_depth_widths_and_groups_are_read_off_the_shapes(backbone):
    params, statistics = detectors.shapes(_small(backbone), 3)
    theirs, own = names.back(_scaled(params | statistics), openmmlab.MASKTRACK)
    assert own == []
    found = detectors.convert("x", theirs)
    for key in ("backbone", "channels", "box_channels", "mask_channels", "mask_depth"):
        assert found.settings[key] == _small(backbone)[key], key
    assert found.settings["embed_channels"] == 7
    assert found.classes == 3


@pytest.mark.parametrize("family", ["original", "mmdet", "torchvision"])
def test_import_of_an_export_has_the_same_bits(family):
    columns = family == "original"
    changes = dict(background_columns=columns, sta=dict(key_channels=3, strides=(16,)))
    params, statistics = detectors.shapes(_small("resnet18", **changes), 3)
    ours = _scaled(params | statistics)
    theirs, own = names.back(ours, detectors.FAMILIES[family].renames)
    assert any(path.startswith("sta/") for path in own)
    wanted = {path: x.shape for path, x in ours.items()}
    found = names.translate("x", theirs, detectors.FAMILIES[family].renames, wanted)
    assert not found.missing
    for path, array in ours.items():
        np.testing.assert_array_equal(found.arrays[path], array, err_msg=path)


def test_older_names_of_torchvision_are_the_same_weights(weights):
    new = weights("torchvision_maskrcnn_resnet50_fpn_coco91")
    old = {}
    for name, x in new.items():
        name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        for blocks in ("inner_blocks", "layer_blocks"):
            for i in range(4):
                name = name.replace(f"{blocks}.{i}.0.", f"{blocks}.{i}.")
        for i in range(4):
            name = name.replace(f"mask_head.{i}.0.", f"mask_head.mask_fcn{i + 1}.")
        old[name] = x
    want, got = (detectors.convert("x", given) for given in (new, old))
    assert got.family == want.family
    for path, array in want.params.items():
        np.testing.assert_array_equal(got.params[path], array)


def test_published_torchvision_weights_are_read_with_eps_0(weights):
    given = weights("torchvision_maskrcnn_resnet50_fpn_coco91")
    given = {k: x for k, x in given.items() if "num_batches_tracked" not in k}
    found = detectors.convert("x", given)
    assert found.family == "torchvision-coco"
    want = given["backbone.body.bn1.running_var"]
    np.testing.assert_allclose(
        found.statistics["backbone/bn1/var"] + 1e-5, want, rtol=1e-6
    )


def test_detectron2_stem_takes_frames_as_ours(weights):
    given = weights("detectron2_mask_rcnn_R_50_FPN")
    found = detectors.convert("x", given)
    assert found.settings["backbone_args"] == dict(caffe=True)
    stem = given["backbone.bottom_up.stem.conv1.weight"]
    want = stem.transpose(2, 3, 1, 0)[:, :, 2, :] * np.float32(58.395)  # red comes last
    np.testing.assert_array_equal(found.params["backbone/conv1/kernel"][:, :, 0], want)


# ------------------------------------------------------------------------- bad input


def _prefixed(x):
    return {f"module.{k}": v for k, v in x.items()}


def test_prefix_optimizer_and_ema_are_left_out(weights, tmp_path):
    given = _prefixed(weights())
    given |= {"ema_detector_backbone_conv1_weight": np.ones(3, np.float32)}
    tensors.write(tmp_path / "x.safetensors", given)
    found = detectors.load(tmp_path / "x.safetensors")
    plain = detectors.convert("x", weights())
    assert found.skipped["ema_detector_backbone_conv1_weight"] == "a running mean (EMA)"
    np.testing.assert_array_equal(
        found.params["rpn/conv/kernel"], plain.params["rpn/conv/kernel"]
    )


def test_half_precision_becomes_float32(weights, tmp_path):
    given = {
        k: x.astype(np.float16) if x.dtype == np.float32 else x
        for k, x in weights().items()
    }
    tensors.write(tmp_path / "x.safetensors", given)
    found = detectors.load(tmp_path / "x.safetensors")
    kernel = found.params["rpn/logits/kernel"]
    assert kernel.dtype == np.float32
    want = given["detector.rpn_head.rpn_cls.weight"].astype(np.float32)
    np.testing.assert_array_equal(kernel, want.transpose(2, 3, 1, 0))


FC = "detector.roi_head.bbox_head.fc_cls.bias"


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (lambda w: w.pop("detector.backbone.layer3.5.conv2.weight"), "nothing gives"),
        (lambda w: w.pop(FC), "lacks box_head/logits/bias: is it whole"),
        (lambda w: w.update(more=np.zeros(2, np.float32)), "more fits 0 lines"),
        (
            lambda w: w.update({"detector.rpn_head.rpn_cls.bias": np.zeros(3, int)}),
            "rpn_cls.bias holds int64, must hold floats",
        ),
        (
            lambda w: w.update({FC: np.full(41, np.nan, np.float32)}),
            "fc_cls.bias holds values that are not finite",
        ),
        (
            lambda w: w.update(
                {"detector.neck.fpn_convs.1.conv.weight": np.zeros((9, 9), np.float32)}
            ),
            r"fpn_convs.1.conv.weight is \(9, 9\), fpn/outputs/1/kernel is",
        ),
        (
            lambda w: w.update({"roi_head.bbox_head.fc_cls.bias": w[FC]}),
            "second tensor for box_head/logits/bias",
        ),
        (
            lambda w: [
                w.pop(k) for k in list(w) if k.startswith("detector.backbone.layer3.5")
            ],
            r"has a ResNet of \(3, 4, 5, 3\) blocks",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_name(weights, spoil, rule):
    given = weights()
    spoil(given)
    with pytest.raises(InputError, match=rule):
        detectors.convert("x.pth", given)


def test_all_that_is_wrong_is_one_error(weights):
    given = weights()
    del given["detector.rpn_head.rpn_cls.bias"]
    given["more"] = np.zeros(2, np.float32)
    with pytest.raises(InputError, match="more fits 0 lines.*nothing gives rpn/logits"):
        detectors.convert("x", given)


def test_file_of_another_family_than_named_is_refused(weights):
    with pytest.raises(InputError, match="names of mmdet, .* use --family mmdet"):
        detectors.convert("x", weights(), "torchvision")
    with pytest.raises(InputError, match="must be auto or one of .*, is 'mmdet2'"):
        detectors.convert("x", weights(), "mmdet2")
    assert detectors.convert("x", weights(), "mmtracking").classes == 40


def test_v2_of_torchvision_and_foreign_files_are_refused(weights, golden):
    with pytest.raises(InputError, match="lacks fpn/laterals/0/bias"):
        detectors.convert("x", weights("torchvision_maskrcnn_resnet50_fpn_v2_coco91"))
    with pytest.raises(InputError, match="of no known family .*; it holds a, b"):
        detectors.convert("x", {"a": np.zeros(1), "b": np.zeros(1)})


def test_name_that_fits_two_lines_is_an_error():
    renames = (names.Rename("a.{i}", "x/{i}"), names.Rename("a.1", "y"))
    with pytest.raises(InputError, match="a.1 fits 2 lines of the table, not 1"):
        names.translate("f", {"a.1": np.zeros(1)}, renames, {"x/1": (1,)})


def test_tables_have_one_line_for_each_name_of_their_files(folder):
    """No name of a published file fits two lines, whatever order they stand in."""
    for keys, (family, *_) in KNOWN.items():
        shapes = json.loads((folder.path / f"keys/{keys}.json").read_text())["keys"]
        patterns = [
            names._pattern(r.source) for r in detectors.FAMILIES[family].renames
        ]
        for name in shapes:
            assert sum(bool(p.fullmatch(name)) for p in patterns) == 1, name
