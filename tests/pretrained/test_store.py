import json

import numpy as np
import pytest

from stan_jax.errors import InputError
from stan_jax.model.stan import architecture
from stan_jax.pretrained import checkpoint, detectors, names, store, tensors

CLASSES = ["person", "giant panda", "dog"]


def _settings(**changes):
    return dict(
        backbone="resnet18",
        backbone_args=dict(caffe=False),
        norm="frozen_batch",
        anchor_scale=8.0,
        sta=None,
        channels=8,
        box_channels=6,
        mask_channels=5,
        mask_depth=4,
        embed_channels=7,
        **detectors.PRESETS["openmmlab"]["model"],
    ) | dict(changes)


def _arrays(shapes, seed):
    rng = np.random.default_rng(seed)
    return {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}


def _imported(seed=0, **changes):
    params, frozen = (
        _arrays(x, seed) for x in detectors.shapes(_settings(**changes), len(CLASSES))
    )
    return detectors.Imported(
        "mmdet", "openmmlab", _settings(**changes), 3, params, frozen, {}, []
    )


def _fresh(classes, **changes):
    params, frozen = detectors.shapes(_settings(**changes), len(classes))
    table = {f"params/{k}": s for k, s in params.items()}
    table |= {f"frozen/{k}": s for k, s in frozen.items()}
    return _arrays(table, 9), architecture(_settings(**changes), classes)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A folder that an import has made."""
    folder = tmp_path_factory.mktemp("out")
    store.save(folder, "x.pth", _imported(), CLASSES)
    return folder


def test_saved_import_holds_the_same_weights_twice(out):
    found = _imported()
    about, saved = checkpoint.read(out / "checkpoints")
    assert about["categories"] == CLASSES
    plain = tensors.read(out / "weights.safetensors")
    for path, array in (found.params | found.frozen).items():
        side = "params" if path in found.params else "frozen"
        np.testing.assert_array_equal(saved[f"{side}/{path}"], array)
        np.testing.assert_array_equal(plain[path], array)
    assert json.loads((out / "import.json").read_text())["preset"] == "openmmlab"


def test_folder_that_holds_checkpoints_is_not_written_over(out):
    with pytest.raises(InputError, match="holds checkpoints already"):
        store.save(out, "x.pth", _imported(), CLASSES)


def test_same_classes_take_everything(out):
    fresh, fingerprint = _fresh(CLASSES)
    got, lines = store.begin(out, fresh, fingerprint)
    found = _imported()
    for path, array in (found.params | found.frozen).items():
        side = "params" if path in found.params else "frozen"
        np.testing.assert_array_equal(got[f"{side}/{path}"], array)
    assert len(lines) == 1


def test_heads_take_the_columns_of_classes_that_both_name(out):
    fresh, fingerprint = _fresh(["cat", "Person", "dog", "giant_panda"])
    got, lines = store.begin(out, fresh, fingerprint)
    saved = _imported().params
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


def test_columns_of_the_background_may_be_on_one_side_only(out):
    fresh, fingerprint = _fresh(CLASSES, background_columns=True)
    got, _ = store.begin(out, fresh, fingerprint)
    for name, width in (("box_head/deltas/bias", 4), ("mask_head/logits/bias", 1)):
        new, old = got[f"params/{name}"], _imported().params[name]
        np.testing.assert_array_equal(new[: 3 * width], old)
        np.testing.assert_array_equal(
            new[3 * width :], fresh[f"params/{name}"][3 * width :]
        )


def test_attention_begins_anew_and_leaves_the_rest(out):
    sta = dict(key_channels=3, strides=(16,))
    fresh, fingerprint = _fresh(CLASSES, sta=sta)
    got, lines = store.begin(out, fresh, fingerprint)
    assert "begin anew: sta" in lines
    np.testing.assert_array_equal(
        got["params/sta/embed/kernel"], fresh["params/sta/embed/kernel"]
    )
    np.testing.assert_array_equal(
        got["params/rpn/conv/kernel"], _imported().params["rpn/conv/kernel"]
    )


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        (
            dict(conventions=detectors.PRESETS["original"]["model"]["conventions"]),
            "conventions.anchors was plain, is legacy.*preset openmmlab: --config=",
        ),
        (dict(conventions=None), "conventions.sampling was 0, is 2"),
        (dict(backbone_args=dict(caffe=True)), "backbone_args was .*False.*True"),
        (dict(anchor_scale=4.0), "anchor_scale was 8.0, is 4.0"),
    ],
)
def test_weights_under_another_preset_are_refused_unless_forced(out, changes, rule):
    fresh, fingerprint = _fresh(CLASSES, **changes)
    with pytest.raises(InputError, match=rule):
        store.begin(out, fresh, fingerprint)
    got, _ = store.begin(out, fresh, fingerprint, force=True)
    np.testing.assert_array_equal(
        got["params/rpn/conv/kernel"], _imported().params["rpn/conv/kernel"]
    )


def test_other_widths_are_refused_with_both_shapes(out):
    fresh, fingerprint = _fresh(CLASSES, channels=16)
    with pytest.raises(InputError, match=r"is \(1, 1, 64, 8\) there, \(1, 1, 64, 16\)"):
        store.begin(out, fresh, fingerprint)


def test_file_in_place_of_a_folder_is_told_from_one(out):
    fresh, fingerprint = _fresh(CLASSES)
    with pytest.raises(InputError, match="must be a folder; `stan import .* FOLDER`"):
        store.begin(out / "weights.safetensors", fresh, fingerprint)


def test_other_widths_of_a_head_are_refused_too(out):
    fresh, fingerprint = _fresh([*CLASSES, "cat"], box_channels=12)
    with pytest.raises(InputError, match=r"box_head/deltas/kernel is \(6, 12\) there"):
        store.begin(out, fresh, fingerprint)


def test_attention_that_is_read_otherwise_is_refused(tmp_path):
    sta = dict(key_channels=3, strides=(16,))
    store.save(tmp_path, "x", _imported(sta=sta), CLASSES)
    fresh, fingerprint = _fresh(CLASSES, sta=sta | dict(scale=0.5))
    with pytest.raises(InputError, match="sta was .*set model so"):
        store.begin(tmp_path, fresh, fingerprint)


def test_attention_that_is_read_alike_is_taken_over(tmp_path):
    found = _imported(sta=dict(key_channels=3, strides=(16,)))
    store.save(tmp_path, "x", found, CLASSES)
    fresh, fingerprint = _fresh(CLASSES, sta=dict(key_channels=3, strides=(16,)))
    got, lines = store.begin(tmp_path, fresh, fingerprint)
    np.testing.assert_array_equal(
        got["params/sta/value/kernel"], found.params["sta/value/kernel"]
    )
    assert len(lines) == 1


def test_backbone_alone_starts_any_preset(tmp_path):
    found = _imported()
    keep = lambda side: {k: x for k, x in side.items() if k.startswith("backbone/")}  # noqa: E731
    found = found._replace(
        params=keep(found.params), frozen=keep(found.frozen), classes=0
    )
    store.save(tmp_path, "r18.pth", found, [])
    original = detectors.PRESETS["original"]["model"]["conventions"]
    fresh, fingerprint = _fresh(CLASSES, conventions=original)
    got, lines = store.begin(tmp_path, fresh, fingerprint)
    np.testing.assert_array_equal(
        got["params/backbone/conv1/kernel"], found.params["backbone/conv1/kernel"]
    )
    assert lines[-1] == "begin anew: box_head, fpn, mask_head, rpn, track_head"


@pytest.mark.parametrize("family", store.EXPORTS)
@pytest.mark.parametrize("background", [False, True])
def test_exported_weights_come_back_bit_for_bit(tmp_path, family, background):
    sta = dict(key_channels=3, strides=(16,))
    found = _imported(sta=sta, background_columns=background)
    store.save(tmp_path / "run", "x", found, CLASSES)
    lines = store.export(tmp_path / "run", tmp_path / "x.safetensors", family)
    own = dict(mmdet="sta", torchvision="sta, track_head")[family]
    assert f"under our own names, after stan.: {own}" in lines
    assert any("background" in x for x in lines) == background
    again = detectors.load(tmp_path / "x.safetensors", family)
    assert again.settings["sta"] == dict(key_channels=3, strides=[16])
    assert again.categories == CLASSES
    # They are still read as they were trained, whoever's names they have.
    assert again.preset == "openmmlab"
    assert again.settings["conventions"] == found.settings["conventions"]
    for path, array in (found.params | found.frozen).items():
        back = (again.params | again.frozen)[path]
        if background:
            array = array[..., : back.shape[-1]]
        np.testing.assert_array_equal(back, array, err_msg=path)


def test_backbone_alone_is_not_exported_as_a_detector(tmp_path):
    found = _imported()
    side = {k: x for k, x in found.params.items() if k.startswith("backbone/")}
    store.save(tmp_path, "x", found._replace(params=side, frozen={}), [])
    with pytest.raises(InputError, match="holds no whole detector, which mmdet means"):
        store.export(tmp_path, tmp_path / "x", "mmdet")


def test_export_refuses_what_the_family_cannot_say(tmp_path):
    with pytest.raises(InputError, match="must be one of mmdet, torchvision, is 'd2'"):
        store.export(tmp_path, tmp_path / "x", "d2")
    with pytest.raises(InputError, match="no complete checkpoint"):
        store.export(tmp_path, tmp_path / "x", "mmdet")
    found = _imported(backbone_args=dict(caffe=True))
    store.save(tmp_path / "run", "x", found, CLASSES)
    with pytest.raises(InputError, match="caffe=True, which torchvision cannot name"):
        store.export(tmp_path / "run", tmp_path / "x", "torchvision")


def test_export_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(InputError, match="cannot be written: No such file"):
        tensors.write(tmp_path / "no/x.safetensors", {"a": np.zeros(9)})


def test_class_lists_have_their_lengths_and_choices_are_checked(tmp_path):
    lengths = {name: len(found) for name, found in store.class_names.LISTS.items()}
    assert lengths == dict(ytvis2019=40, ytvis2021=40, ovis=25, coco=80, coco91=90)
    assert store.class_names.LISTS["coco91"][83] == "book"
    found = _imported()._replace(classes=40)
    assert store.categories("auto", found)[0] == "person"
    assert store.categories("ytvis2021", found)[0] == "airplane"
    two = found._replace(classes=2)
    assert store.categories("auto", two) == ["class 1", "class 2"]
    assert store.categories("auto", two._replace(categories=["a", "b"])) == ["a", "b"]
    with pytest.raises(InputError, match="names 25 classes, the weights have 40"):
        store.categories("ovis", found)
    with pytest.raises(InputError, match="must be auto, .*, is 'lvis'"):
        store.categories("lvis", found)


def test_names_of_ours_in_a_file_must_have_a_place():
    with pytest.raises(InputError, match="stan.sta.gamma fits 0 lines"):
        names.translate("x", {"stan.sta.gamma": np.zeros(1)}, (), {"rpn/x": (1,)})
