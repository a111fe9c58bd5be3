import pickle

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from stan_jax.errors import InputError
from stan_jax.masks import codec, run_lengths


def packed(counts, hw):
    return coco_mask.frPyObjects({"size": list(hw), "counts": counts}, *hw)


def masks_of_many_kinds():
    rng = np.random.default_rng(0)
    for h, w in [(1, 1), (1, 7), (5, 1), (6, 9), (40, 30), (720, 1280)]:
        for share in (0.0, 0.02, 0.5, 0.98, 1.0):
            yield rng.random((h, w)) < share
    blob = np.zeros((720, 1280), bool)
    blob[100:700, 3:1270] = True
    yield blob


def test_areas_are_the_numbers_of_pixels():
    masks = list(masks_of_many_kinds())
    got = run_lengths.read([codec.encode(mask) for mask in masks])
    np.testing.assert_array_equal(got.areas, [mask.sum() for mask in masks])
    np.testing.assert_array_equal(got.sizes, [mask.shape for mask in masks])
    assert not got.broken.any()


def test_runs_are_those_of_the_mask():
    for mask in masks_of_many_kinds():
        pixels = mask.T.ravel().astype(int)
        edges = np.flatnonzero(np.diff(pixels, prepend=0)).tolist()
        want = np.diff([0, *edges, pixels.size])
        texts = [b"1", *[codec.encode(mask)["counts"].encode()] * 2]
        ends = np.cumsum([len(text) for text in texts])
        runs, first, stop = codec.decode_many(b"".join(texts), ends, InputError)
        np.testing.assert_array_equal(first, [0, 1, 1 + len(want)])
        np.testing.assert_array_equal(stop, [*first[1:], len(runs)])
        np.testing.assert_array_equal(runs, [1, *want, *want])


@pytest.mark.parametrize("absent", [None, [], {}, ""])
def test_absent_masks_take_part_in_nothing(absent):
    shown = codec.encode(np.eye(3, dtype=bool))
    got = run_lengths.read([absent, shown, absent])
    np.testing.assert_array_equal(got.areas, [0, 3, 0])
    np.testing.assert_array_equal(got.sizes, [[0, 0], [3, 3], [0, 0]])
    assert got.texts == [None, shown["counts"], None]
    assert run_lengths.read([]).texts == []


@pytest.mark.parametrize(
    ("counts", "broken"),
    [
        ([0, 6], False),
        ([6], False),
        ([2, 3, 1], False),
        ([2, 0, 4], True),
        ([0, 0, 6], True),
        ([3, 3, 0], True),
    ],
)
def test_runs_of_length_zero_are_seen_except_the_first(counts, broken):
    good = packed([1, 5], (2, 3))
    got = run_lengths.read([good, packed(counts, (2, 3)), good])
    np.testing.assert_array_equal(got.broken, [False, broken, False])
    np.testing.assert_array_equal(got.areas, [5, sum(counts[1::2]), 5])


@pytest.mark.parametrize(
    ("segmentation", "rule"),
    [
        (packed([5], (2, 3)), "= 6, but 1 runs, the least 5, add up to 5"),
        (packed([2, 5], (2, 3)), "add up to 7"),
        ({"size": [2, 3], "counts": "4O3"}, "the least -1, add up to 6"),
        (packed([0] * 6 + [6], (2, 2)), "add up to 6"),
        (packed([4, *[0] * 9], (2, 2)), "10 runs"),
        ({"size": [2, 3], "counts": "P"}, "not compressed run lengths"),
        ({"size": [2, 3], "counts": "6~"}, "not compressed run lengths"),
        ({"size": [2, 3], "counts": "6 "}, "not compressed run lengths"),
        ({"size": [2, 3], "counts": "6" + "P" * 7 + "0"}, "not compressed"),
        ({"size": [2, 3], "counts": "\N{SNOWMAN}"}, "must be"),
        ({"size": [2, 3], "counts": ""}, "at least one run"),
        ({"size": [0, 3], "counts": "0"}, "positive size"),
        ({"size": [2], "counts": "6"}, "must be"),
        ({"size": [2, 3], "counts": [0, 6]}, "must be"),
        ({"counts": "6"}, "must be"),
        ([[1, 1, 2, 2, 3, 1]], "must be"),
        ("abc", "must be"),
        (7, "must be"),
    ],
)
def test_masks_that_would_hang_or_crash_are_refused_by_name(segmentation, rule):
    def broken(*masks):
        return run_lengths.read(masks, "r.json", "result 4").broken

    good = packed([2, 4], (2, 3))
    with pytest.raises(InputError, match="r.json: result 4, frame 2: ") as caught:
        broken(good, None, segmentation, good)
    assert rule in caught.value.rule


def test_many_tracks_are_read_as_one_by_one(monkeypatch):
    masks = [None, *map(codec.encode, masks_of_many_kinds())]
    tracks = [masks[:3], [], masks[3:], [None], masks[5:6]]
    one = [run_lengths.read(track) for track in tracks]
    for size in (1, 40, 10**9):  # characters decoded at once
        monkeypatch.setattr(run_lengths, "CHARACTERS", size)
        many = run_lengths.read_many(tracks, "", [""] * len(tracks))
        copies = [pickle.loads(pickle.dumps(track)) for track in many]
        for a, b, c in zip(one, many, copies, strict=True):
            assert [*a.texts] == [*b.texts] == [*c.texts]
            for name in ("sizes", "areas", "broken"):
                np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
                np.testing.assert_array_equal(getattr(a, name), getattr(c, name))


@pytest.mark.parametrize("size", [1, 10**9])
def test_errors_of_many_tracks_name_the_right_one(monkeypatch, size):
    monkeypatch.setattr(run_lengths, "CHARACTERS", size)
    good, bad = packed([2, 4], (2, 3)), packed([2, 3], (2, 3))
    tracks = [[good] * 3, [], [None, good, bad, good], [good]]
    with pytest.raises(InputError, match="^f: r2, frame 2: counts must add up"):
        run_lengths.read_many(tracks, "f", ["r0", "r1", "r2", "r3"])


def test_long_numbers_are_read_and_too_long_ones_refused():
    # A run of 7 digits that says 6, and one of 8.
    text = "V" + "P" * 5 + "0"
    assert run_lengths.read([{"size": [2, 3], "counts": text}]).areas == [0]
    with pytest.raises(InputError, match="above 2"):
        run_lengths.read([{"size": [2, 3], "counts": "V" + "P" * 6 + "0"}])
