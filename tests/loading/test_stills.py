"""Pairs of a still image: it moves, its masks with it, the same in every run."""

import itertools
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stan_jax.annotations import youtube_vis
from stan_jax.errors import InputError
from stan_jax.loading import batches, clips, sources
from stan_jax.masks import codec
from stan_jax.ops import canvas
from tests import tiny_sets

PLAIN: dict[str, Any] = dict(
    batch=4,
    canvas=(48, 64),
    gap="any",
    flip=0.5,
    seed=3,
    max_objects=4,
    num_threads=0,
    still_motion=1.0,
)
HW = (48, 64)
BOXES = [(4, 6, 20, 30), (30, 20, 62, 44), (58, 0, 64, 5)]  # the last in a corner


def a_set(folder, *, hw=HW, boxes=BOXES, number=5, suffix=".png", scale=1):
    """Stills on which object m is what is bright in channel m, in COCO format."""
    folder.mkdir(parents=True)
    images, rows = [], []
    for i in range(number):
        pixels = np.zeros((hw[0] * scale, hw[1] * scale, 3), np.uint8)
        for m, box in enumerate(boxes):
            big = [side * scale for side in box]
            mask = tiny_sets.box_mask(*pixels.shape[:2], (big[0], big[1], *big[2:]))
            if scale == 1:
                mask[:, ::7] = False  # no plain boxes
            pixels[mask, m] = 255
            row = {"id": len(rows), "image_id": i, "category_id": 1 + m}
            rows.append(row | {"segmentation": codec.encode(mask)})
        Image.fromarray(pixels).save(folder / f"{i}{suffix}", quality=95)
        images.append({"id": i, "file_name": f"{i}{suffix}"})
        images[-1] |= dict(zip(("height", "width"), pixels.shape, strict=False))
    categories = [{"id": 1 + m, "name": f"c{m}"} for m in range(3)]
    content = {"images": images, "annotations": rows, "categories": categories}
    path = folder / "coco.json"
    path.write_text(json.dumps(content))
    return sources.load(path, folder)


def _take(dataset, count, **change):
    iterator = batches.pairs([(dataset, 1.0)], **{**PLAIN, **change})
    found = list(itertools.islice(iterator, count))
    iterator.close()
    return found


def _same(a, b) -> None:
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y, strict=True)


@pytest.mark.parametrize("frames", [2, 4])
def test_masks_and_boxes_are_those_of_what_the_frames_show(tmp_path, frames):
    dataset = a_set(tmp_path / "set")
    gone = 0
    for pair in _take(dataset, 8, frames=frames):
        assert pair.frames.shape == (4, frames, *HW, 3)
        assert (pair.seen == frames - 1).all()
        assert (pair.size_hw == HW).all()
        assert (pair.labels == [0, 1, 2, 0]).all()
        for b, f, m in np.ndindex(4, 2, 3):
            bright = pair.frames[b, frames - 2 + f, ..., m] > 127
            assert pair.present[b, f, m] == bright.any()
            gone += not bright.any()
            if bright.any():
                box = clips.tight_box(bright)
                np.testing.assert_array_equal(pair.boxes[b, f, m], box)
            if f == 1:
                np.testing.assert_array_equal(pair.masks[b, m], bright)
        assert pair.present[:, 1].any(1).all()
    assert gone > 5  # the corner is seldom inside the window


def test_frames_of_a_still_follow_one_another(tmp_path):
    """The middle of a slow path lies between its ends."""
    dataset = a_set(tmp_path / "set", boxes=[(20, 14, 44, 34)])
    middles = []
    for pair in _take(dataset, 6, frames=5, flip=0.0):
        for frames in np.asarray(pair.frames):
            assert len({frame.tobytes() for frame in frames}) == 5
            boxes = [clips.tight_box(frame[..., 0] > 127) for frame in frames]
            middles.append([(box[:2] + box[2:]) / 2 for box in boxes])
    steps = np.abs(np.diff(middles, axis=1)).max((1, 2))
    whole = np.abs(np.array(middles)[:, -1] - np.array(middles)[:, 0]).max(1)
    assert np.median(whole) > 5
    assert (steps < 0.6 * whole + 4).all()


def test_stills_of_any_size_fit_the_canvas_and_keep_masks_on_objects(tmp_path):
    dataset = a_set(tmp_path / "set", scale=4, suffix=".jpg", boxes=BOXES[:2])
    for pair in _take(dataset, 4, scales_hw=((24, 32), (40, 54))):
        for b in range(4):
            h, w = pair.size_hw[b]
            assert (h, w) in ((24, 32), (40, 53))
            assert not pair.frames[b, :, h:].any()
            assert not pair.frames[b, :, :, w:].any()
            for m in np.flatnonzero(pair.present[b, 1]):
                box, mask = pair.boxes[b, 1, m], pair.masks[b, m]
                np.testing.assert_array_equal(box, clips.tight_box(mask))
                bright = pair.frames[b, 1, ..., m] > 127
                assert (bright & mask).sum() > 0.9 * (bright | mask).sum()


def test_pairs_of_stills_are_the_same_however_they_are_asked_for(tmp_path):
    dataset = a_set(tmp_path / "set")
    want = _take(dataset, 6)
    for other in (_take(dataset, 6), _take(dataset, 6, num_threads=2)):
        for a, b in zip(want, other, strict=True):
            _same(a, b)
    shards = [_take(dataset, 6, shard_index=i, shard_count=2) for i in (0, 1)]
    for a, *parts in zip(want, *shards, strict=True):
        _same(a, [np.concatenate(field) for field in zip(*parts, strict=True)])
    first = batches.pairs([(dataset, 1.0)], **PLAIN)
    for _ in range(3):
        next(first)
    state = json.loads(json.dumps(first.get_state()))
    first.close()
    resumed = batches.pairs([(dataset, 1.0)], **PLAIN)
    resumed.set_state(state)
    _same(next(resumed), want[3])
    resumed.close()
    changed = _take(dataset, 6, seed=4)
    assert any((a.boxes != b.boxes).any() for a, b in zip(want, changed, strict=True))


def test_still_that_does_not_move_is_its_own_previous_frame(tmp_path):
    dataset = a_set(tmp_path / "set")
    for pair in _take(dataset, 3, still_motion=0.0, flip=0.0):
        np.testing.assert_array_equal(pair.frames[:, 0], pair.frames[:, 1])
        assert pair.present[:, :, :3].all()
        for b, m in np.ndindex(4, 3):
            shown = pair.frames[b, 1, ..., m] > 127
            np.testing.assert_array_equal(pair.masks[b, m], shown)
    (pixels,) = {
        youtube_vis.read_frame(dataset, video, 0).tobytes() for video in dataset.videos
    }
    pixels = np.frombuffer(pixels, np.uint8).reshape(*HW, 3)
    (pair,) = _take(dataset, 1, still_motion=0.0, flip=0.0, scales_hw=((24, 32),))
    small = canvas.resize_frame(pixels, (24, 32))  # as a frame of a video
    np.testing.assert_array_equal(pair.frames[0, 1, :24, :32], small)
    assert pair.boxes[0, 1, 2].tolist() == [29, 0, 31.5, 2.5]


def test_fine_pattern_of_a_large_still_becomes_grey(tmp_path):
    dataset = a_set(tmp_path / "set", scale=6, number=1, boxes=BOXES[:1])
    stripes = np.zeros((6 * HW[0], 6 * HW[1], 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "set" / "0.png")
    (pair,) = _take(dataset, 1)
    assert np.abs(np.asarray(pair.frames, int)[:, :, 1:-1, 1:-1] - 128).max() < 12


def test_motion_of_stills_changes_no_pair_of_a_video(make_folder, tmp_path):
    folder = make_folder(videos=((48, 64, 4),))
    videos = sources.load(folder.path, folder.frames)
    moving, still = (_take(videos, 4, still_motion=x) for x in (1.0, 0.0))
    for a, b in zip(moving, still, strict=True):
        _same(a, b)


def test_last_frame_shows_an_object_however_far_off_it_lies(tmp_path):
    """Speck in a corner: as a rule no path sees it, and then nothing moves."""
    dataset = a_set(tmp_path / "set", boxes=[(62, 0, 64, 2)])
    for pair in _take(dataset, 6, still_motion=2.0):
        assert pair.present[:, 1, 0].all()
        assert pair.masks[:, 0].any((1, 2)).all()


def test_still_without_objects_moves_where_it_is_asked_for(tmp_path):
    dataset = a_set(tmp_path / "set", boxes=BOXES[:1], number=2)
    bare = dataset.videos[1]._replace(tracks=())
    dataset = dataset._replace(videos=(dataset.videos[0], bare))
    (pair,) = _take(dataset, 1, negatives=True, batch=2)
    assert sorted(pair.present[:, 1].any(1).tolist()) == [False, True]
    assert (pair.frames[:, 0] != pair.frames[:, 1]).any((1, 2, 3)).all()


@pytest.mark.parametrize("motion", [-0.1, 2.1])
def test_motion_beyond_its_range_is_refused_by_name(tmp_path, motion):
    dataset = a_set(tmp_path / "set", number=1)
    with pytest.raises(InputError, match=f"still_motion: must be in 0..2, is {motion}"):
        _take(dataset, 1, still_motion=motion)


def test_crowds_are_no_objects_of_a_pair(tmp_path):
    dataset = a_set(tmp_path / "set", boxes=BOXES[:2])
    videos = tuple(
        v._replace(tracks=(v.tracks[0]._replace(crowd=True), v.tracks[1]))
        for v in dataset.videos
    )
    for pair in _take(dataset._replace(videos=videos), 2):
        assert (pair.labels == [1, 0, 0, 0]).all()
        assert not pair.present[..., 1:].any()


def test_photographs_of_coco_move_with_their_masks(shared_data):
    folder = shared_data / "coco128_seg" / "val"
    dataset = sources.load(folder / "instances.json", folder / "images")
    assert len(dataset.videos) == 21
    assert sum(len(video.tracks) for video in dataset.videos) == 113
    for pair in _take(dataset, 3, canvas=(192, 320), max_objects=40):
        assert pair.present[:, 1].any(1).all()
        for b, m in np.argwhere(pair.present[:, 1]):
            box = clips.tight_box(np.asarray(pair.masks)[b, m])
            np.testing.assert_array_equal(box, pair.boxes[b, 1, m])
