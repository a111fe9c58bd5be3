"""Start a model from a seed, a backbone, a detector or a run."""

import json
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_import
from flax import nnx

from stan_jax import presets
from stan_jax.errors import InputError
from stan_jax.model import parameters, stan
from stan_jax.model.build import build
from stan_jax.model.parameters import Parameters
from stan_jax.pretrained import record, store
from stan_jax.pretrained.start import start
from stan_jax.published import detectors


def _model(kind="mobilenet_v2", norm="frozen_batch", **args):
    """Structure, untrained arrays and record of a small detector on a backbone."""
    settings = dict(
        backbone=kind,
        backbone_args=args,
        norm=norm,
        anchor_scale=8.0,
        sta=None,
        **detectors.SMALLEST,
    )
    model = build(num_classes=2, **settings, rngs=nnx.Rngs(0))
    ours = record.from_preset(settings, "none", ["cat", "dog"], "")
    return *parameters.split(model), ours


@pytest.fixture(scope="module")
def light():
    return _model()


@pytest.fixture(scope="module")
def resnet():
    return _model("resnet50")


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


def _load(path, model, **how):
    """The model's arrays, and its backbone with them, as `start` gives them."""
    structure, fresh, ours = model
    values, lines = start(path, fresh, ours, **how)
    others = "box_head, fpn, mask_head, rpn, track_head"
    assert lines == [f"started from {path}", f"begin anew: {others}"]
    return values, parameters.merge(structure, values).backbone


def test_mobilenet_gives_the_reference_output(light, weights, shared_data):
    reference = np.load(shared_data / "pretrained/reference_outputs.npz")
    _, backbone = _load(weights, light, only="backbone")
    images = jnp.asarray(reference["images"])
    size_hw = jnp.full((2, 2), 224)
    maps = jax.jit(lambda m, x: m(stan.normalise(x, size_hw)))(backbone, images)
    want = reference["mobilenet_s32"]
    assert np.abs(want).max() > 1
    np.testing.assert_allclose(maps[3], want, atol=1e-4)


def test_every_array_of_mobilenet_but_the_head_finds_its_place(light, weights):
    loaded, _ = _load(weights, light)
    assert jax.tree.structure(loaded) == jax.tree.structure(light[1])
    arrays = np.load(weights)
    given = [arrays[k] for k in arrays.files if not k.startswith("head.")]
    got = jax.tree.leaves([side["backbone"] for side in loaded])
    rest = [{k: x for k, x in side.items() if k != "backbone"} for side in loaded]
    fresh = [{k: x for k, x in side.items() if k != "backbone"} for side in light[1]]
    jax.tree.map(np.testing.assert_array_equal, rest, fresh)

    def fingerprint(leaves):
        return sorted((x.shape, float(x.astype(np.float64).sum())) for x in leaves)

    assert fingerprint(got) == fingerprint(given)
    assert {x.dtype for x in got} == {np.dtype(np.float32)}
    norm = loaded.statistics["backbone"]["blocks"][4]["depthwise"]["bn"]
    np.testing.assert_array_equal(norm["var"], arrays["block4.depthwise.bn.var"])


def test_torchvision_resnet_gives_the_reference_maps(
    golden, resnet, torch_names, tmp_path
):
    path = _save(tmp_path / "resnet50.npz", torch_names)
    _, backbone = _load(path, resnet)
    arrays = np.load(golden / "parity/resnet50_fpn_pytorch.npz")
    maps = backbone(jnp.asarray(arrays["img"].transpose(0, 2, 3, 1)))
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
                array[:, ::-1]
                / np.array(stan.STD, np.float32)[::-1][None, :, None, None]
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
    path = _save(tmp_path / "R-50.npz", _msra(torch_names))
    values, backbone = _load(path, _model("resnet50", caffe=True))
    frame = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    x = stan.normalise(jnp.asarray(frame), jnp.array([[32, 32]]))
    got = backbone.bn1(backbone.conv1(x))
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
        values.params["backbone"]["layer3"][5]["conv2"]["kernel"],
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
    ("kind", "args", "rule"),
    [
        ("mobilenet_v2", {}, "model.backbone was 'resnet50', is 'mobilenet_v2'"),
        ("resnet50", {"norm": "group"}, "model.norm was 'frozen_batch', is 'group'"),
        ("resnet34", {}, "model.backbone was 'resnet50', is 'resnet34'"),
        ("resnet101", {}, "model.backbone was 'resnet50', is 'resnet101'"),
        ("resnet50", {"caffe": True}, "model.backbone_args.caffe was False, is True"),
    ],
)
def test_file_that_does_not_go_with_the_model_is_refused(
    torch_names, tmp_path, kind, args, rule
):
    path = _save(tmp_path / "resnet50.npz", torch_names)
    with pytest.raises(InputError, match=f"{rule}.*set it so"):
        _load(path, _model(kind, **args))


def test_file_of_no_known_family_is_refused(light, tmp_path):
    path = _save(tmp_path / "x.npz", {"features.0.weight": np.zeros(2)})
    with pytest.raises(InputError, match="torchvision.*it holds features.0.weight"):
        _load(path, light)


def test_forcing_does_not_make_other_arrays_fit(torch_names, tmp_path):
    path = _save(tmp_path / "resnet50.npz", torch_names)
    with pytest.raises(InputError, match="bn1/mean is absent here"):
        _load(path, _model("resnet50", norm="group"), force=True)
    _load(path, _model("resnet50", caffe=True), force=True)


def test_seed_starts_all_but_what_stands_on_a_trained_backbone(light):
    group = _model("resnet18", norm="group")
    values, lines = start("", *group[1:])
    assert values is group[1]
    assert lines == []
    with pytest.raises(InputError, match="model.norm: 'frozen_batch' stands on .*init"):
        start("", *light[1:])


def test_only_takes_a_backbone_or_everything(light, weights, tmp_path):
    with pytest.raises(InputError, match="init_only: must be '' or 'backbone', is 'r"):
        start(weights, *light[1:], only="rpn")
    with pytest.raises(InputError, match="nowhere: cannot be read: No such"):
        start(tmp_path / "nowhere", *light[1:])


# ---- detectors: a folder of `stan import`


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported")
    tiny_import.save(folder)
    return folder


def _fresh(classes, **changes):
    """The untrained arrays and the record of a model like the imported one."""
    settings = tiny_import.settings(**changes)
    params, statistics = detectors.shapes(settings, len(classes))
    sides = (tiny_import.arrays(side, 9) for side in (params, statistics))
    ours = record.from_preset(settings, "openmmlab", classes, "")
    return Parameters(*map(_nested, sides)), ours


def _nested(table):
    tree = {}
    for path, array in table.items():
        *parents, name = path.split("/")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = array
    return tree


def _begin(folder, fresh, ours, **how):
    """What each array is afterwards, by path, and the lines."""
    values, lines = start(folder, fresh, ours, **how)
    return parameters.by_path(values), lines


def test_same_classes_take_everything(imported):
    got, lines = _begin(imported, *_fresh(tiny_import.CLASSES))
    found = tiny_import.imported()
    for side in ("params", "statistics"):
        for path, array in getattr(found, side).items():
            np.testing.assert_array_equal(got[f"{side}/{path}"], array)
    assert len(lines) == 1


def test_heads_take_the_columns_of_classes_that_both_name(imported):
    fresh, ours = _fresh(["cat", "Person", "dog", "giant_panda"])
    got, lines = _begin(imported, fresh, ours)
    saved, fresh = tiny_import.imported().params, parameters.by_path(fresh)
    order = [None, 0, 2, 1]  # of ours among theirs
    for path, width in (
        ("box_head/logits", 1),
        ("box_head/deltas", 4),
        ("mask_head/logits", 1),
    ):
        for part in ("kernel", "bias"):
            name = f"{path}/{part}"
            new, old = got[f"params/{name}"], saved[name]
            for here, there in enumerate(order):
                columns = slice(here * width, (here + 1) * width)
                if there is None:
                    want = fresh[f"params/{name}"][..., columns]
                else:
                    want = old[..., there * width : (there + 1) * width]
                np.testing.assert_array_equal(new[..., columns], want)
    # The background, which every detector knows, is the last column.
    np.testing.assert_array_equal(
        got["params/box_head/logits/kernel"][..., 4],
        saved["box_head/logits/kernel"][..., 3],
    )
    assert "classes that both name: 3 of 4; others anew" in lines


def test_columns_of_the_background_may_be_on_one_side_only(imported):
    fresh, ours = _fresh(tiny_import.CLASSES, background_columns=True)
    got, _ = _begin(imported, fresh, ours)
    fresh = parameters.by_path(fresh)
    for name, width in (("box_head/deltas/bias", 4), ("mask_head/logits/bias", 1)):
        new, old = got[f"params/{name}"], tiny_import.imported().params[name]
        np.testing.assert_array_equal(new[: 3 * width], old)
        np.testing.assert_array_equal(
            new[3 * width :], fresh[f"params/{name}"][3 * width :]
        )


def test_attention_begins_anew_and_leaves_the_rest(imported):
    sta = dict(key_channels=3, strides=(16,))
    fresh, ours = _fresh(tiny_import.CLASSES, sta=sta)
    got, lines = _begin(imported, fresh, ours)
    assert "begin anew: sta" in lines
    np.testing.assert_array_equal(
        got["params/sta/embed/kernel"],
        parameters.by_path(fresh)["params/sta/embed/kernel"],
    )
    np.testing.assert_array_equal(
        got["params/rpn/conv/kernel"], tiny_import.imported().params["rpn/conv/kernel"]
    )


def test_of_a_detector_the_backbone_alone_may_be_taken(imported):
    legacy = presets.get("original").conventions._asdict()
    fresh, ours = _fresh(["cat"], conventions=legacy)  # heads read otherwise
    got, lines = _begin(imported, fresh, ours, only="backbone")
    found, fresh = tiny_import.imported(), parameters.by_path(fresh)
    for path, array in got.items():
        side, _, bare = path.partition("/")
        mine = bare.startswith("backbone/")
        want = getattr(found, side)[bare] if mine else fresh[path]
        np.testing.assert_array_equal(array, want)
    assert lines[-1] == "begin anew: box_head, fpn, mask_head, rpn, track_head"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        (
            dict(conventions=presets.get("original").conventions._asdict()),
            "conventions.anchors was plain, is legacy.*preset openmmlab: --config=",
        ),
        (dict(conventions=None), "conventions.sampling was 0, is 2"),
        (dict(backbone_args=dict(caffe=True)), "caffe was False, is True"),
        (dict(anchor_scale=4.0), "anchor_scale was 8.0, is 4.0"),
    ],
)
def test_weights_under_another_preset_are_refused_unless_forced(
    imported, changes, rule
):
    fresh, ours = _fresh(tiny_import.CLASSES, **changes)
    with pytest.raises(InputError, match=rule):
        _begin(imported, fresh, ours)
    got, _ = _begin(imported, fresh, ours, force=True)
    np.testing.assert_array_equal(
        got["params/rpn/conv/kernel"], tiny_import.imported().params["rpn/conv/kernel"]
    )


def test_other_widths_are_refused_with_both_shapes(imported):
    with pytest.raises(InputError, match=r"is \(1, 1, 64, 8\) there, \(1, 1, 64, 16\)"):
        _begin(imported, *_fresh(tiny_import.CLASSES, channels=16))


def test_other_widths_of_a_head_are_refused_too(imported):
    with pytest.raises(InputError, match=r"box_head/deltas/kernel is \(6, 12\) there"):
        _begin(imported, *_fresh([*tiny_import.CLASSES, "cat"], box_channels=12))


def test_attention_that_is_read_otherwise_is_refused(tmp_path):
    sta = dict(key_channels=3, strides=(16,))
    tiny_import.save(tmp_path, sta=sta)
    fresh, ours = _fresh(tiny_import.CLASSES, sta=sta | dict(scale=0.5))
    with pytest.raises(
        InputError, match=r"model.sta.scale was 1.0, is 0.5 \(set it so"
    ):
        _begin(tmp_path, fresh, ours)


def test_attention_that_is_read_alike_is_taken_over(tmp_path):
    sta = dict(key_channels=3, strides=(16,))
    found = tiny_import.save(tmp_path, sta=sta)
    # Spelled with its defaults on one side only, which is the same model.
    fresh, ours = _fresh(tiny_import.CLASSES, sta=sta | dict(scale=1.0))
    got, lines = _begin(tmp_path, fresh, ours)
    np.testing.assert_array_equal(
        got["params/sta/value/kernel"], found.params["sta/value/kernel"]
    )
    assert len(lines) == 1


def test_baseline_leaves_the_attention_of_what_it_starts_from(tmp_path):
    tiny_import.save(tmp_path, sta=dict(key_channels=3, strides=(16,)))
    _, lines = _begin(tmp_path, *_fresh(tiny_import.CLASSES))
    assert lines[-1] == "left out: sta"


def test_backbone_alone_starts_any_preset(tmp_path):
    found = tiny_import.imported()
    keep = lambda side: {k: x for k, x in side.items() if k.startswith("backbone/")}  # noqa: E731
    found = found._replace(
        params=keep(found.params), statistics=keep(found.statistics), classes=0
    )
    store.save(tmp_path, "r18.pth", found, [])
    original = presets.get("original").conventions._asdict()
    got, lines = _begin(tmp_path, *_fresh(tiny_import.CLASSES, conventions=original))
    np.testing.assert_array_equal(
        got["params/backbone/conv1/kernel"], found.params["backbone/conv1/kernel"]
    )
    assert lines[-1] == "begin anew: box_head, fpn, mask_head, rpn, track_head"


def test_part_that_lacks_an_array_is_refused(tmp_path):
    found = tiny_import.imported()
    rest = {k: x for k, x in found.params.items() if k != "rpn/conv/kernel"}
    store.save(tmp_path, "x", found._replace(params=rest), tiny_import.CLASSES)
    with pytest.raises(InputError, match="params/rpn/conv/kernel is absent"):
        _begin(tmp_path, *_fresh(tiny_import.CLASSES))
