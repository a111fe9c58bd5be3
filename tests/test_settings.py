"""What train.py refuses before it trains, and how an evaluation is left early."""

from typing import Any

import pytest
import tiny_model
from flax import nnx

import train
from configs import shapes_sta
from stan_jax import inference
from stan_jax.data import shapes, sources, youtube_vis
from stan_jax.errors import InputError
from stan_jax.model.stan import STAN
from stan_jax.training import train_step


@pytest.fixture(scope="module")
def val(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    sizes: dict[str, Any] = dict(height=64, width=96)
    shapes.generate(folder, seed=1, train_videos=1, val_videos=1, frames=3, **sizes)
    return youtube_vis.load(folder / "val/instances.json", folder / "val/JPEGImages")


@pytest.mark.parametrize(
    ("setting", "value", "rule"),
    [
        ("run.log_every", 0, "above 0, is 0"),
        ("run.save_every", 0, "above 0, is 0"),
        ("run.eval_every", -1, "at least 0.*is -1"),
        ("tracking.slots", 3, "model.detections = 10, is 3"),
        ("tracking.first_frame", "none", "'self' or 'skip', is none"),
        ("data.scale_hw", (96, 200), r"canvas of \(96, 160\), is \(96, 200\)"),
    ],
)
def test_setting_that_would_fail_late_is_refused_by_name(setting, value, rule):
    config = shapes_sta.get_config()
    train.check_settings(config)
    section, key = setting.split(".")
    config[section][key] = value
    with pytest.raises(InputError, match=f"^{setting}: must .*{rule}"):
        train.check_settings(config)


@pytest.mark.parametrize("name", ["backbone", "norm"])
def test_unknown_part_of_the_model_is_refused_with_those_there_are(name):
    settings = shapes_sta.get_config().model.to_dict() | {name: "resnet5"}
    with pytest.raises(InputError, match=f"model.{name}: must be one of .*resnet5"):
        STAN(num_classes=2, **settings, rngs=nnx.Rngs(0))


def test_val_of_other_classes_or_without_objects_is_refused(val):
    names = [c.name for c in val.categories]
    train.check_scored(val, names)
    with pytest.raises(InputError, match="categories: must be those trained on"):
        train.check_scored(val, names[::-1])
    with pytest.raises(InputError, match="'annotations' to be scored"):
        train.check_scored(val._replace(annotated=False), names)


def test_signal_ends_an_evaluation_and_leaves_no_results(val, tmp_path):
    parts = train_step.split(tiny_model.build(num_classes=6))
    tracker = inference.Tracker(
        parts,
        parts.params,
        canvas=(64, 96),
        scale_hw=(64, 96),
        clip_length=3,
        slots=8,
        weights=dict(score=1.0, iou=2.0, label=10.0),
    )
    signals = train.Signals()
    example = train.Example(val, [c.name for c in val.categories], 0.5, signals)
    signals.received = "SIGTERM"
    with pytest.raises(train.Stopped):
        inference.evaluate(tracker, val, tmp_path / "r.json", watch=example)
    assert not list(tmp_path.iterdir())


def test_folder_in_place_of_a_json_is_named(tmp_path):
    with pytest.raises(InputError, match="is a folder: name the json in it"):
        sources.load(tmp_path, "JPEGImages")
    with pytest.raises(InputError):
        sources.load("", "JPEGImages")


@pytest.mark.parametrize(
    ("file_name", "name"),
    [("clip/0.jpg", "clip"), ("a/clip/0.jpg", "a-clip"), ("0.jpg", "video-7")],
)
def test_name_of_a_video_fits_a_file_and_tells_folders_apart(file_name, name):
    assert youtube_vis.Video(7, (file_name,), 2, 2, ()).name == name


def test_tracks_that_left_a_full_queue_are_counted_over_videos(val, monkeypatch):
    parts = train_step.split(tiny_model.build(num_classes=6))
    tracker = inference.Tracker(
        parts,
        parts.params,
        canvas=(64, 96),
        scale_hw=(64, 96),
        clip_length=3,
        slots=8,
        weights=dict(score=1.0, iou=2.0, label=10.0),
    )
    first = tracker.start(val.videos[0])
    monkeypatch.setattr(
        tracker, "start", lambda _: first._replace(evicted=first.next_id + 4)
    )
    before = int(first.next_id) + 4
    for _ in range(2):
        assert list(tracker.frames(val, val.videos[0]))
    assert tracker.evicted == 2 * before > 0
