import numpy as np
import pytest
import tiny_import

from stan_jax import presets
from stan_jax.errors import InputError
from stan_jax.pretrained import start, store
from stan_jax.published import class_names, detectors, names, tensors


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A folder that an import has made."""
    folder = tmp_path_factory.mktemp("out")
    tiny_import.save(folder)
    return folder


def test_saved_import_holds_the_weights_and_all_that_they_mean(out):
    found = tiny_import.imported()
    about, saved = start.open_folder(out)
    assert about.categories == tuple(tiny_import.CLASSES)
    assert about.origin == "x.pth, mmdet"
    preset = presets.get("openmmlab")
    assert about.conventions == preset.conventions
    assert about.settings.thresholds == preset.thresholds
    assert about.settings.association == preset.association
    for side in ("params", "statistics"):
        for path, array in getattr(found, side).items():
            np.testing.assert_array_equal(saved[f"{side}/{path}"], array)
    assert [path.name for path in out.iterdir()] == ["checkpoints"]


def test_folder_that_holds_checkpoints_is_not_written_over(out):
    with pytest.raises(InputError, match="holds checkpoints already"):
        tiny_import.save(out)


@pytest.mark.parametrize("family", store.EXPORTS)
@pytest.mark.parametrize("background", [False, True])
def test_exported_weights_come_back_bit_for_bit(tmp_path, family, background):
    sta = dict(key_channels=3, strides=(16,))
    changes = dict(sta=sta, background_columns=background)
    found = tiny_import.save(tmp_path / "run", **changes)
    lines = store.export(tmp_path / "run", tmp_path / "x.safetensors", family)
    own = dict(mmdet="sta", torchvision="sta, track_head")[family]
    assert f"under our own names, after stan.: {own}" in lines
    assert any("background" in x for x in lines) == background
    again = detectors.load(tmp_path / "x.safetensors", family)
    want = start.open_folder(tmp_path / "run")[0]
    assert again.settings["sta"] == want.model["sta"]
    assert again.categories == tiny_import.CLASSES
    # They are still read as they were trained, whoever's names they have.
    assert again.preset == "openmmlab"
    assert again.settings["conventions"] == found.settings["conventions"]
    for path, array in (found.params | found.statistics).items():
        back = (again.params | again.statistics)[path]
        if background:
            array = array[..., : back.shape[-1]]
        np.testing.assert_array_equal(back, array, err_msg=path)


def test_backbone_alone_is_not_exported_as_a_detector(tmp_path):
    found = tiny_import.imported()
    side = {k: x for k, x in found.params.items() if k.startswith("backbone/")}
    store.save(tmp_path, "x", found._replace(params=side, statistics={}), [])
    with pytest.raises(InputError, match="holds no whole detector, which mmdet means"):
        store.export(tmp_path, tmp_path / "x", "mmdet")


def test_export_refuses_what_the_family_cannot_say(tmp_path):
    with pytest.raises(InputError, match="must be one of mmdet, torchvision, is 'd2'"):
        store.export(tmp_path, tmp_path / "x", "d2")
    with pytest.raises(InputError, match="no complete checkpoint"):
        store.export(tmp_path, tmp_path / "x", "mmdet")
    tiny_import.save(tmp_path / "run", backbone_args=dict(caffe=True))
    with pytest.raises(InputError, match="caffe=True, which torchvision cannot name"):
        store.export(tmp_path / "run", tmp_path / "x", "torchvision")


def test_export_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(InputError, match="cannot be written: No such file"):
        tensors.write(tmp_path / "no/x.safetensors", {"a": np.zeros(9)})


def test_class_lists_have_their_lengths_and_choices_are_checked(tmp_path):
    lengths = {name: len(found) for name, found in class_names.LISTS.items()}
    assert lengths == dict(ytvis2019=40, ytvis2021=40, ovis=25, coco=80, coco91=90)
    assert class_names.LISTS["coco91"][83] == "book"
    found = tiny_import.imported()._replace(classes=40)
    assert detectors.class_list("auto", found)[0] == "person"
    assert detectors.class_list("ytvis2021", found)[0] == "airplane"
    two = found._replace(classes=2)
    assert detectors.class_list("auto", two) == ["class 1", "class 2"]
    assert detectors.class_list("auto", two._replace(categories=["a", "b"])) == [
        "a",
        "b",
    ]
    with pytest.raises(InputError, match="names 25 classes, the weights have 40"):
        detectors.class_list("ovis", found)
    with pytest.raises(InputError, match="must be auto, .*, is 'lvis'"):
        detectors.class_list("lvis", found)


def test_names_of_ours_in_a_file_must_have_a_place():
    with pytest.raises(InputError, match="stan.sta.gamma fits 0 lines"):
        names.translate("x", {"stan.sta.gamma": np.zeros(1)}, (), {"rpn/x": (1,)})
