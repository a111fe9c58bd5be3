import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model

from stan_jax import inference
from stan_jax.annotations import youtube_vis
from stan_jax.errors import InputError
from stan_jax.evaluation import youtube_vis_ap
from stan_jax.shapes import generate
from stan_jax.types import Tracks


@pytest.fixture(scope="module")
def tracker():
    model = tiny_model.build(num_classes=6)
    return inference.Tracker(model, **tiny_model.TRACKING)


def make(folder, height, width, frames=4):
    generate.generate(
        folder,
        seed=3,
        train_videos=1,
        val_videos=2,
        frames=frames,
        height=height,
        width=width,
    )
    return youtube_vis.load(
        folder / "val" / "instances.json", folder / "val" / "JPEGImages"
    )


def test_clip_is_traced_once_per_canvas_over_all_videos(tmp_path, tracker):
    wide = make(tmp_path / "wide", 64, 96, frames=7)
    tall = make(tmp_path / "tall", 96, 64, frames=4)
    for i, dataset in enumerate((wide, tall, wide)):
        inference.evaluate(tracker, dataset, tmp_path / f"{i}.json")
    assert tracker.programs == 2


def test_results_and_numbers_agree_with_the_official_reading(tmp_path, tracker):
    dataset = make(tmp_path / "set", 64, 96)
    seen = []
    scores = inference.evaluate(
        tracker, dataset, tmp_path / "r.json", watch=lambda v, f: seen.append((v, f))
    )
    assert [f.index for _, f in seen] == [0, 1, 2, 3] * 2
    assert all(f.masks.shape[1:] == (64, 96) for _, f in seen)
    stats = youtube_vis_ap.evaluate_files(dataset.path, tmp_path / "r.json")
    assert scores == {k: stats[k] for k in inference.OFFICIAL}
    results = json.loads((tmp_path / "r.json").read_text())
    ids = {(v.id, int(i)) for v, f in seen for i in f.ids[f.valid] if f.masks.any()}
    assert 0 < len(results) <= len(ids)
    assert all(len(r["segmentations"]) == 4 for r in results)


def test_dataset_without_annotations_gives_results_and_no_numbers(tmp_path, tracker):
    make(tmp_path / "set", 64, 96)
    path = tmp_path / "set" / "val" / "instances.json"
    content = json.loads(path.read_text())
    del content["annotations"]
    path.write_text(json.dumps(content))
    dataset = youtube_vis.load(path, path.parent / "JPEGImages")
    assert inference.evaluate(tracker, dataset, tmp_path / "r.json") == {}
    assert json.loads((tmp_path / "r.json").read_text())


def test_nothing_found_scores_zero(tmp_path):
    model = tiny_model.build(num_classes=6, score_threshold=2.0)
    blind = inference.Tracker(model, **tiny_model.TRACKING)
    dataset = make(tmp_path / "set", 64, 96)
    scores = inference.evaluate(blind, dataset, tmp_path / "r.json")
    assert scores == dict.fromkeys(inference.OFFICIAL, 0.0)
    assert json.loads((tmp_path / "r.json").read_text()) == []


@pytest.mark.parametrize(
    ("setting", "value", "rule"),
    [
        ("slots", 3, "must hold 6 detections of a frame, is 3"),
        ("first_frame", "none", "must be 'self' or 'skip', is 'none'"),
        ("clip_length", 0, "must be above 0, is 0"),
        ("canvas", (96, 64), "must be landscape and hold 64 x 96, is 96 x 64"),
        ("canvas", (72, 96), "must have sides that divide by 32, is 72 x 96"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_any_video(setting, value, rule):
    settings = tiny_model.TRACKING | {setting: value}
    with pytest.raises(InputError, match=f"^{setting}: {rule}"):
        inference.Tracker(tiny_model.build(), **settings)


def test_scale_that_leaves_the_canvas_is_refused():
    settings = tiny_model.TRACKING | dict(scale_hw=(64, 128))
    with pytest.raises(InputError, match="hold 64 x 128, is 64 x 96"):
        inference.Tracker(tiny_model.build(), **settings)


def test_tracks_that_left_a_full_queue_are_counted_over_videos(
    tmp_path, tracker, monkeypatch
):
    dataset = make(tmp_path / "set", 64, 96)
    first = tracker.start(dataset.videos[0])
    evicted = first.evicted + 4
    monkeypatch.setattr(tracker, "evicted", 0)
    monkeypatch.setattr(tracker, "start", lambda _: first._replace(evicted=evicted))
    for video in dataset.videos:
        assert list(tracker.frames(dataset, video))
    assert tracker.evicted == 2 * 4


def test_broken_frame_leaves_no_results_behind(tmp_path, tracker):
    dataset = make(tmp_path / "set", 64, 96)
    frame = dataset.frames_dir / dataset.videos[1].file_names[2]
    frame.write_bytes(frame.read_bytes()[:200])
    with pytest.raises(InputError, match=frame.name):
        inference.evaluate(tracker, dataset, tmp_path / "r.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set"]


def test_paste_stretches_boxes_and_masks_to_the_video():
    tracks = Tracks(
        boxes=np.float32([[[2, 4, 10, 12], [0, 0, 4, 4]]]),
        labels=np.zeros((1, 2), int),
        scores=np.ones((1, 2), np.float32),
        valid=np.array([[True, False]]),
        masks=np.ones((1, 2, 4, 4), np.float32),
        ids=np.zeros((1, 2), int),
    )
    tracks = jax.tree.map(jax.numpy.asarray, tracks)
    boxes, masks = inference.paste(tracks, np.array([16, 32]), (32, 48))
    np.testing.assert_allclose(boxes[0, 0], [3, 8, 15, 24])
    want = np.zeros((32, 48), bool)
    want[8:24, 3:15] = True
    want[[8, 8, 23, 23], [3, 14, 3, 14]] = False  # bilinear: corners are rounded
    np.testing.assert_array_equal(masks[0, 0], want)
    assert not masks[0, 1].any()


def test_of_rows_with_one_id_the_last_is_shown():
    frame = inference.FrameTracks(
        index=0,
        ids=np.array([3, 4, 3, 3, -1]),
        labels=np.zeros(5, int),
        scores=np.ones(5, np.float32),
        valid=np.array([True, True, True, False, False]),
        boxes=np.zeros((5, 4), np.float32),
        masks=np.ones((5, 2, 2), bool),
    )
    got = inference._last_of_each_id(frame)
    np.testing.assert_array_equal(got, [False, True, True, False, False])


def test_legacy_paste_takes_the_last_pixel_to_the_larger_video():
    """Inclusive 10..19 of 32 becomes 20..38 of 64, not 20..39."""
    tracks = Tracks(
        boxes=jnp.array([[[10.0, 10, 20, 20]]]),
        labels=jnp.zeros((1, 1), int),
        scores=jnp.ones((1, 1)),
        valid=jnp.ones((1, 1), bool),
        masks=jnp.ones((1, 1, 28, 28)),
        ids=jnp.zeros((1, 1), int),
    )
    size = jnp.array([32, 32])
    boxes, masks = inference.paste(tracks, size, (64, 64), legacy=True)
    np.testing.assert_array_equal(boxes[0, 0], [20, 20, 39, 39])
    rows = np.flatnonzero(masks[0, 0].any(1))
    assert (rows[0], rows[-1]) == (20, 38)
    boxes, _ = inference.paste(tracks, size, (64, 64))
    np.testing.assert_array_equal(boxes[0, 0], [20, 20, 40, 40])
