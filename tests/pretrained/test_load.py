"""The one door: a folder or file becomes a tracker, or one line says why not."""

import numpy as np
import pytest
import tiny_import
import tiny_model
import tiny_workdir

from stan_jax.errors import InputError
from stan_jax.model import parameters
from stan_jax.pretrained import store
from stan_jax.pretrained.load import load, read_record


@pytest.fixture(scope="module")
def model():
    return tiny_model.build(num_classes=3)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, model):
    """As training leaves it, with two steps."""
    return tiny_workdir.save(tmp_path_factory.mktemp("run"), model)


def test_tracker_of_a_folder_is_that_of_its_model(workdir, model):
    tracker = load(workdir)
    assert tracker.categories == tiny_workdir.NAMES
    want = tiny_model.tracker(model, tracker.settings)
    frames = tiny_model.moving(2, 5)
    for a, b in zip(tracker.track(frames), want.track(frames), strict=True):
        assert a.segmentations == b.segmentations
        np.testing.assert_array_equal(a.ids, b.ids)
        np.testing.assert_array_equal(a.scores, b.scores)


def test_a_mean_of_the_parameters_is_what_tracks(tmp_path, model):
    mean = tiny_model.build(seed=5, num_classes=3)
    folder = tiny_workdir.save(tmp_path, model, average=mean)
    got = parameters.by_path(load(folder).parameters)
    want = parameters.by_path(parameters.split(mean)[1])
    raw = parameters.by_path(parameters.split(model)[1])
    assert got.keys() == want.keys()
    for path, array in got.items():
        np.testing.assert_array_equal(array, want[path])
    assert any(not np.array_equal(raw[path], want[path]) for path in raw)


def test_checkpoints_are_chosen_by_step_or_by_score(workdir):
    assert read_record(workdir).step == 20
    assert read_record(workdir, best=True).step == 10
    assert load(workdir, step=10).categories == tiny_workdir.NAMES
    with pytest.raises(InputError, match="step 11: cannot be read .steps here: .10, 2"):
        load(workdir, step=11)


def test_changes_reach_any_depth_of_the_settings(workdir):
    tracker = load(workdir, slots=40, score_threshold=0.5, expire_after=3)
    assert tracker.settings.slots == 40
    assert tracker.settings.thresholds.score_threshold == 0.5
    assert tracker.settings.association.expire_after == 3


def test_import_is_a_tracker_too(tmp_path):
    tiny_import.save(tmp_path)
    tracker = load(tmp_path, detections=5)
    assert tracker.categories == tuple(tiny_import.CLASSES)
    assert tracker.settings.canvas == (384, 640)


def test_backbone_alone_cannot_track(tmp_path):
    found = tiny_import.imported()
    side = {k: x for k, x in found.params.items() if k.startswith("backbone/")}
    store.save(tmp_path, "x", found._replace(params=side, classes=0), [])
    with pytest.raises(InputError, match="holds a backbone alone, which cannot track"):
        load(tmp_path)


def test_detector_without_a_track_head_cannot_track(tmp_path):
    found = tiny_import.imported()
    rest = {k: x for k, x in found.params.items() if not k.startswith("track_head/")}
    store.save(tmp_path, "x", found._replace(params=rest), tiny_import.CLASSES)
    with pytest.raises(InputError, match="holds no track_head: train with it as init"):
        load(tmp_path)


WRONG = {
    "unknown name": (dict(score_thresh=0.3), "score_thresh: is no setting; there are "),
    "too few slots": (dict(slots=3), "slots: must hold 10 detections of a frame, is 3"),
    "portrait canvas": (dict(canvas=(96, 64)), "canvas: must be landscape"),
    "canvas of odd sides": (dict(canvas=(72, 96)), "divide by 32, is 72 x 96"),
    "scale beyond it": (dict(scale_hw=(64, 128)), "hold 64 x 128, is 64 x 96"),
    "unknown dtype": (dict(dtype="int8"), "dtype: must be one of float32, bfloat16"),
    "no frames": (dict(clip_length=0), "clip_length: must be above 0, is 0"),
    "first frame": (dict(first_frame="x"), "first_frame: must be 'self' or 'skip'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_setting_is_one_line_with_the_cure(workdir, name):
    changes, rule = WRONG[name]
    with pytest.raises(InputError, match=rule) as caught:
        load(workdir, **changes)
    assert "\n" not in str(caught.value)


def test_what_is_no_model_is_one_line(workdir, tmp_path):
    (tmp_path / "x.pth").write_bytes(b"hello")
    for source, rule in (
        (tmp_path / "nowhere", "nowhere: cannot be read: No such file"),
        (tmp_path, "holds no complete checkpoint"),
        (tmp_path / "x.pth", "x.pth: must be one of .*.pth"),
    ):
        with pytest.raises(InputError, match=rule) as caught:
            load(source)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="is a file: it has no steps to choose from"):
        load(tmp_path / "x.pth", step=3)
    tiny_import.save(tmp_path / "import")
    with pytest.raises(InputError, match="holds no checkpoint with 'AP'"):
        load(tmp_path / "import", best=True)
