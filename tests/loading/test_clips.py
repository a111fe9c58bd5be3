"""Geometry of a training pair: what happens to pixels, masks and boxes."""

import numpy as np
import pytest

from stan_jax.loading import clips
from stan_jax.ops import canvas
from tests.tiny_sets import box_mask


@pytest.mark.parametrize(
    ("t", "rule", "want"),
    [
        (4, "any", [0, 2, 5, 9]),
        (4, 1, [5]),
        (4, 2, [2, 5]),
        (4, 100, [0, 2, 5, 9]),
        (9, 3, [9]),  # nobody near: itself
        (4, "previous", [2]),
        (5, "previous", [4]),
        (0, "previous", [0]),  # nobody before: itself
    ],
)
def test_references_follow_the_gap_rule(t, rule, want):
    usable = np.array([0, 2, 4, 5, 9])
    assert clips.references(usable, t, rule).tolist() == want


@pytest.mark.parametrize("rule", ["any", "previous", 3])
def test_references_of_a_lone_frame_are_the_frame_itself(rule):
    assert clips.references(np.array([7]), 7, rule).tolist() == [7]


def test_reference_frame_is_uniform_and_follows_its_generator():
    usable = np.array([0, 2, 4, 5, 9])
    rng, again = np.random.default_rng(0), np.random.default_rng(0)
    drawn = [clips.reference_frame(rng, usable, 4, "any") for _ in range(4000)]
    assert drawn == [clips.reference_frame(again, usable, 4, "any") for _ in drawn]
    frames, counts = np.unique(drawn, return_counts=True)
    assert frames.tolist() == [0, 2, 5, 9]
    assert np.abs(counts - 1000).max() < 4 * np.sqrt(1000)


@pytest.mark.parametrize(
    ("t", "reference", "want"),
    [
        (6, 5, [4, 3, 2]),
        (6, 3, [2, 1, 0]),
        (3, 2, [1, 0]),  # the video begins
        (6, 8, [9]),  # of a reference that comes later: on to the end
        (4, 4, []),
    ],
)
def test_older_frames_lead_up_to_the_reference(t, reference, want):
    assert clips.older_frames(t, reference, 10, 3) == want
    assert clips.older_frames(t, reference, 10, 0) == []


@pytest.mark.parametrize("new_hw", [(3, 4), (5, 9), (2, 2), (7, 9), (10, 20), (1, 1)])
def test_resize_mask_takes_the_pixel_that_opencv_takes(new_hw):
    mask = np.random.default_rng(1).random((7, 9)) < 0.5
    found = clips.resize_mask(mask, new_hw)
    assert found.shape == new_hw
    for y, x in np.ndindex(new_hw):
        want = mask[y * 7 // new_hw[0], x * 9 // new_hw[1]]
        assert found[y, x] == want


def _pair(flip: bool, *, size_hw=(24, 40), canvas_hw=(32, 48), scale_hw=(24, 40)):
    """Object 0 in both frames, 1 in the reference only, 2 in the current only."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (2, *size_hw, 3), np.uint8)
    boxes = [
        [(2, 4, 12, 14), (20, 3, 30, 9), None],
        [(5, 4, 15, 14), None, (0, 0, 7, 24)],
    ]
    masks = [[b and box_mask(*size_hw, b) for b in row] for row in boxes]
    pair = clips.make_pair(
        list(frames),
        masks,
        [4, 2, 9],
        size_hw=size_hw,
        canvas_hw=canvas_hw,
        scale_hw=scale_hw,
        flip=flip,
        max_objects=5,
    )
    return frames, boxes, masks, pair


def test_make_pair_copies_what_needs_no_resizing():
    frames, boxes, masks, pair = _pair(False)
    assert [x.shape for x in pair] == [
        (2, 32, 48, 3),
        (2,),
        (2, 5, 4),
        (2, 5),
        (5,),
        (5, 32, 48),
        (),
    ]
    assert [x.dtype for x in pair] == [
        np.uint8,
        np.int32,
        np.float32,
        bool,
        np.int32,
        bool,
        np.int32,
    ]
    assert pair.seen == 1
    np.testing.assert_array_equal(pair.frames[:, :24, :40], frames)
    assert pair.size_hw.tolist() == [24, 40]
    assert pair.labels.tolist() == [4, 2, 9, 0, 0]
    for f, row in enumerate(boxes):
        for m in range(5):
            box = row[m] if m < 3 else None
            assert pair.present[f, m] == (box is not None)
            assert pair.boxes[f, m].tolist() == list(box or (0, 0, 0, 0))
    for m in range(5):
        full = masks[1][m] if m < 3 else None
        want = np.zeros((32, 48), bool)
        if full is not None:
            want[:24, :40] = full
        np.testing.assert_array_equal(pair.masks[m], want)


@pytest.mark.parametrize("scale_hw", [(24, 40), (12, 20), (32, 48)])
@pytest.mark.parametrize("flip", [False, True])
def test_make_pair_leaves_the_padding_empty(scale_hw, flip):
    _, _, _, pair = _pair(flip, scale_hw=scale_hw)
    h, w = pair.size_hw
    for array in (pair.frames.transpose(0, 3, 1, 2), pair.masks):
        assert not array[..., h:, :].any()
        assert not array[..., :, w:].any()


@pytest.mark.parametrize("scale_hw", [(24, 40), (12, 20), (17, 27)])
def test_make_pair_mirrors_pixels_masks_and_boxes_alike(scale_hw):
    _, _, _, plain = _pair(False, scale_hw=scale_hw)
    _, _, _, flipped = _pair(True, scale_hw=scale_hw)
    h, w = plain.size_hw
    np.testing.assert_array_equal(
        flipped.frames[:, :h, :w], plain.frames[:, :h, :w][:, :, ::-1]
    )
    np.testing.assert_array_equal(
        flipped.masks[:, :h, :w], plain.masks[:, :h, :w][:, :, ::-1]
    )
    mirrored = (w - plain.boxes[..., [2, 1, 0, 3]]) * [1, 0, 1, 0]
    mirrored += plain.boxes * [0, 1, 0, 1]
    want = np.where(plain.present[..., None], mirrored, 0)
    np.testing.assert_allclose(flipped.boxes, want, atol=1e-5)
    np.testing.assert_array_equal(flipped.present, plain.present)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scale_hw", [(12, 20), (17, 27), (31, 48)])
def test_make_pair_boxes_are_scaled_by_the_factor(scale_hw, flip):
    _, boxes, _, pair = _pair(flip, scale_hw=scale_hw)
    factor = canvas.fit(24, 40, (32, 48), scale_hw)[0]
    h, w = pair.size_hw
    for f, m in np.argwhere(pair.present):
        x1, y1, x2, y2 = np.array(boxes[f][m]) * factor
        x1, y1, x2, y2 = min(x1, w), min(y1, h), min(x2, w), min(y2, h)
        want = (w - x2, y1, w - x1, y2) if flip else (x1, y1, x2, y2)
        np.testing.assert_allclose(pair.boxes[f, m], want, atol=1e-5)
    for m in np.flatnonzero(pair.present[1]):
        tight = clips.tight_box(pair.masks[m])
        assert np.abs(tight - pair.boxes[1, m]).max() <= 1


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scale_hw", [(24, 40), (12, 20), (17, 28), (48, 80)])
def test_make_pair_keeps_the_mask_on_the_object(scale_hw, flip):
    mask = box_mask(24, 40, (6, 4, 20, 18))
    frame = np.repeat(mask[:, :, None] * np.uint8(200), 3, axis=2)
    pair = clips.make_pair(
        [frame, frame],
        [[mask], [mask]],
        [0],
        size_hw=(24, 40),
        canvas_hw=(48, 80),
        scale_hw=scale_hw,
        flip=flip,
        max_objects=1,
    )
    bright = np.asarray(pair.frames)[1, :, :, 0] > 100
    differ = bright ^ pair.masks[0]
    inner = clips.tight_box(bright)
    assert np.abs(inner - pair.boxes[1, 0]).max() <= 1
    # They may differ by one row or column along the outline of the object.
    assert differ.sum() <= bright.any(0).sum() + bright.any(1).sum()


def test_make_pair_forgets_an_object_that_resizing_loses():
    seen, lost = np.zeros((24, 40), bool), np.zeros((24, 40), bool)
    seen[4, 6] = lost[5, 7] = True  # halving takes even rows and columns
    frame = np.zeros((24, 40, 3), np.uint8)
    pair = clips.make_pair(
        [frame, frame],
        [[seen, lost], [lost, seen]],
        [1, 2],
        size_hw=(24, 40),
        canvas_hw=(12, 20),
        scale_hw=(12, 20),
        flip=False,
        max_objects=2,
    )
    assert pair.present.tolist() == [[True, False], [False, True]]
    assert pair.boxes[0].tolist() == [[3, 2, 3.5, 2.5], [0, 0, 0, 0]]
    assert pair.masks.sum((1, 2)).tolist() == [0, 1]


def test_make_pair_takes_frames_that_come_reduced():
    ramp = np.linspace(0, 255, 80, dtype=np.uint8)
    full = np.broadcast_to(ramp[None, :, None], (48, 80, 3))
    masks = [[box_mask(48, 80, (8, 8, 24, 24))]] * 2
    made = [
        clips.make_pair(
            [frame, frame],
            masks,
            [0],
            size_hw=(48, 80),
            canvas_hw=(12, 20),
            scale_hw=(12, 20),
            flip=False,
            max_objects=1,
        )
        for frame in (full, canvas.resize_frame(full, (24, 40)))
    ]
    difference = np.int32(made[0].frames) - np.int32(made[1].frames)
    assert np.abs(difference).max() <= 3
    for a, b in zip(made[0][1:], made[1][1:], strict=True):
        np.testing.assert_array_equal(a, b)
