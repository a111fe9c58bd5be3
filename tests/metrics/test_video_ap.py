import itertools

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from stan_jax.masks import codec, run_lengths
from stan_jax.metrics import overlap, video_ap
from stan_jax.metrics.video_ap import PredictedTrack, TrueTrack, VideoAp

RANGES = np.array([[0, 1e10], [0, 12], [12, 20], [20, 1e10]])


def masks(bitmaps):
    """bitmaps: one bool array or None per frame."""
    return run_lengths.read([None if b is None else codec.encode(b) for b in bitmaps])


def blob(rng, frames, hw=(6, 8)):
    """A box that wanders, sometimes out of sight."""
    y, x = rng.integers(0, 4, 2)
    h, w = rng.integers(2, 5, 2)
    shown = []
    for _ in range(frames):
        y, x = np.clip([y, x] + rng.integers(-1, 2, 2), 0, 5)
        bitmap = np.zeros(hw, bool)
        bitmap[y : y + h, x : x + w] = True
        shown.append(None if rng.random() < 0.2 else bitmap)
    return shown


def noisy(rng, shown):
    """The same object, found badly."""
    share = rng.choice([0, 0.02, 0.06])
    other = [None if b is None else b ^ (rng.random(b.shape) < share) for b in shown]
    return [None if rng.random() < 0.2 else b for b in other]


def random_videos(rng, videos=4, categories=2):
    """[(id, true tracks, found tracks)], tracks as records with bitmaps for masks.

    Few shapes, so that ids, scores and IoUs tie, and IoUs lie on thresholds.
    """
    out = []
    for video_id in rng.permutation(videos) + 1:
        frames = int(rng.integers(1, 5))
        shapes = [blob(rng, frames) for _ in range(2)]
        truth = [
            TrueTrack(
                id=int(rng.integers(3) * rng.integers(1, 100)),  # 0 reads "no match"
                category_id=int(rng.integers(categories)),
                crowd=bool(rng.random() < 0.25),
                area=float(rng.integers(1, 30)),
                masks=shapes[rng.integers(2)],
            )
            for _ in range(rng.integers(0, 6))
        ]
        found = [
            PredictedTrack(
                score=float(rng.integers(1, 6)) / 4,
                category_id=int(rng.integers(categories)),
                masks=noisy(rng, shapes[rng.integers(2)]),
            )
            for _ in range(rng.integers(0, 9))
        ]
        longer = blob(rng, frames + 1)
        out.append((int(video_id), truth, [*found, PredictedTrack(1.0, 0, longer)]))
    return out


def measure(videos, categories=(0, 1), class_agnostic=False):
    score = VideoAp(list(categories), class_agnostic)
    for video_id, *tracks in videos:
        packed = [[t._replace(masks=masks(t.masks)) for t in side] for side in tracks]
        score.add_video(video_id, *packed)
    return score.finish()


def same(a, b):
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


# The rules once more, as plain loops over bitmaps.


def loop_iou(found, truth):
    common = union = 0
    for d, g in zip(found, truth, strict=False):
        common += 0 if d is None or g is None else (d & g).sum()
        union += sum(b.sum() for b in (d, g) if b is not None)
    union -= common
    return common / union if union else 0.0


def loop_video(truth, found, threshold, low, high):
    """[(score, right, ignored)] by falling score, and how many tracks count."""
    ignored = [t.crowd or not low <= t.area <= high for t in truth]
    taken, rows = set(), []
    for d in sorted(found, key=lambda d: -d.score)[:4]:
        areas = [b.sum() for b in d.masks if b is not None and b.any()]
        best = None
        for wanted in (False, True):  # counted tracks first, ignored ones after
            for i, g in enumerate(truth):
                overlap = loop_iou(d.masks, g.masks)
                if ignored[i] != wanted or overlap < threshold:
                    continue
                if i in taken and not g.crowd:
                    continue
                if best is None or overlap >= best[0]:
                    best = overlap, i
            if best:
                break
        area = np.mean(areas) if areas else 0
        right = best is not None and truth[best[1]].id != 0  # id 0: "no match"
        aside = not right and not low <= area <= high
        if best:
            taken.add(best[1])
            aside |= ignored[best[1]]
        rows.append((d.score, right, aside))
    return rows, ignored.count(False)


def loop_curve(videos, category, threshold, low, high, limit):
    rows, total = [], 0
    for _, truth, found in sorted(videos):
        one, count = loop_video(
            [t for t in truth if t.category_id == category],
            [d for d in found if d.category_id == category],
            threshold,
            low,
            high,
        )
        rows, total = rows + one[:limit], total + count
    if not total:
        return -np.ones(101), -1.0
    points, right, wrong = [], 0, 0
    for _, hit, ignored in sorted(rows, key=lambda r: -r[0]):
        right, wrong = right + (hit and not ignored), wrong + (not hit and not ignored)
        points.append((right / total, right / (right + wrong + 2.0**-52)))
    precision = [
        max((p for r, p in points if r >= recall), default=0.0)
        for recall in np.linspace(0, 1, 101)
    ]
    return np.array(precision), right / total


@pytest.mark.parametrize("seed", range(10))
def test_curves_equal_the_rules_written_as_loops(monkeypatch, seed):
    monkeypatch.setattr(video_ap, "areas", lambda sides: RANGES)
    monkeypatch.setattr(video_ap, "LIMITS", (1, 2, 4))
    videos = random_videos(np.random.default_rng(seed))
    got = measure(videos)
    for t, threshold in enumerate(np.linspace(0.5, 0.95, 10)[::3]):
        for k in range(2):
            for a, (low, high) in enumerate(RANGES):
                for m, limit in enumerate((1, 2, 4)):
                    p, r = loop_curve(videos, k, threshold, low, high, limit)
                    at = (3 * t, k, a, m)
                    assert got["recall"][at] == r, at
                    np.testing.assert_array_equal(
                        got["precision"][3 * t, :, k, a, m], p
                    )
    known = got["precision"][..., 0, 2][got["precision"][..., 0, 2] > -1]
    assert got["AP"] == pytest.approx(known.mean() if known.size else -1)


def test_iou_equals_counting_pixels_frame_by_frame():
    rng = np.random.default_rng(0)
    found = [blob(rng, n) for n in (3, 5, 4, 0, 4)] + [[None] * 4]
    truth = [blob(rng, n) for n in (4, 4, 2)] + [[None] * 3]
    got = overlap.iou([masks(d) for d in found], [masks(g) for g in truth])
    want = [[loop_iou(d, g) for g in truth] for d in found]
    np.testing.assert_array_equal(got, want)
    assert np.count_nonzero(got) > 4


def test_iou_of_the_other_side_is_the_transpose_and_of_itself_one():
    rng = np.random.default_rng(1)
    tracks = [masks(blob(rng, 4)) for _ in range(5)]
    got = overlap.iou(tracks, tracks)
    np.testing.assert_array_equal(got, got.T)
    np.testing.assert_array_equal(np.diag(got), 1)


def test_iou_leaves_frames_of_another_size_out_of_both_sums():
    rng = np.random.default_rng(2)
    a, b = blob(rng, 3), blob(rng, 3)
    a = [np.ones((6, 8), bool), *a]
    b = [np.ones((8, 6), bool), *b]  # same number of pixels, but turned
    got = overlap.iou([masks(a)], [masks(b)])
    assert got.item() == loop_iou(a[1:], b[1:])


@pytest.mark.parametrize("least", [0.0, 0.5])
def test_iou_stops_where_both_masks_have_a_run_of_no_length(least):
    # As the official loop does: of 3 and 8 pixels only the first 2 are looked at.
    a, b = (
        run_lengths.read([coco_mask.frPyObjects({"size": [2, 5], "counts": c}, 2, 5)])
        for c in ([2, 2, 0, 1, 5], [2, 2, 0, 6])
    )
    assert overlap.iou([a], [b], least).item() == 1
    c = run_lengths.read([codec.encode(np.arange(10).reshape(5, 2).T > 3)])
    assert overlap.iou([b], [c]).item() == 6 / 8


def test_iou_gives_up_only_pairs_that_cannot_reach_the_least(monkeypatch):
    compared = []
    real = overlap.coco_mask.iou

    def counting(rles, others, crowd):
        compared.append(len(rles))
        return real(rles, others, crowd)

    monkeypatch.setattr(overlap.coco_mask, "iou", counting)
    reached = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        truth = [blob(rng, 9) for _ in range(3)]
        found = [noisy(rng, g) for g in truth] + [blob(rng, 9) for _ in range(9)]
        found, truth = [masks(d) for d in found], [masks(g) for g in truth]
        whole = overlap.iou(found, truth)
        every = sum(compared)
        compared.clear()
        part = overlap.iou(found, truth, 0.5)
        assert sum(compared) < 0.8 * every  # some were given up
        compared.clear()
        np.testing.assert_array_equal(part, np.where(whole >= 0.5, whole, 0))
        reached += (part > 0).sum()
    assert reached > 10


@pytest.mark.parametrize("least", [0.0, 0.5])
def test_iou_is_of_tracks_of_one_kind_alone(least):
    rng = np.random.default_rng(5)
    truth = [blob(rng, n) for n in (9, 7, 9, 8)]
    found = [masks(noisy(rng, g)) for g in truth * 3]
    truth = [masks(g) for g in truth]
    kinds = rng.integers(0, 3, len(found)).tolist(), [0, 1, 1, 3]
    want = overlap.iou(found, truth, least)
    assert (want > 0).sum() > 8
    want[np.not_equal.outer(*kinds)] = 0
    assert (want > 0).any(axis=1).sum() > 2
    np.testing.assert_array_equal(overlap.iou(found, truth, least, kinds), want)


def test_compare_gives_the_overlap_of_tracks_and_of_the_masks_that_meet():
    rng = np.random.default_rng(4)
    found, truth = [blob(rng, n) for n in (3, 5, 4)], [blob(rng, n) for n in (4, 5)]
    found[0][1] = np.ones((3, 2), bool)  # another size
    sides = [masks(d) for d in found], [masks(g) for g in truth]
    got = overlap.compare(*sides)
    np.testing.assert_array_equal(got.tracks, overlap.iou(*sides))

    def met(rows, columns):
        for t, (m, g), (n, d) in itertools.product(
            range(5),
            enumerate(truth[i] for i in columns),
            enumerate(found[i] for i in rows),
        ):
            one, other = (side[t] if t < len(side) else None for side in (d, g))
            if one is not None and other is not None:
                pixels = 0
                if one.shape == other.shape:
                    pixels = (one & other).sum() / max(1, (one | other).sum())
                yield t, m, n, pixels

    assert list(zip(*got[1:], strict=True)) == list(met(range(3), range(2)))
    part = got.of([2, 0], [1])
    np.testing.assert_array_equal(part.tracks, got.tracks[[2, 0]][:, [1]])
    assert list(zip(*part[1:], strict=True)) == list(met([2, 0], [1]))
    nobody = overlap.compare([], sides[1])
    assert (nobody.tracks.shape, nobody.t.shape) == ((0, 2), (0,))


@pytest.mark.parametrize("pairs", [1, 50, 10**9])
def test_iou_is_the_same_however_many_frames_are_compared_at_once(monkeypatch, pairs):
    rng = np.random.default_rng(3)
    truth = [blob(rng, 7) for _ in range(2)]
    found = [masks(noisy(rng, g)) for g in truth] + [masks(blob(rng, 7))]
    truth = [masks(g) for g in truth]
    want = overlap.iou(found, truth)
    monkeypatch.setattr(overlap, "PAIRS", pairs)
    np.testing.assert_array_equal(overlap.iou(found, truth), want)


def perfect(videos):
    return [
        (v, truth, [PredictedTrack(0.5, t.category_id, t.masks) for t in truth])
        for v, truth, _ in videos
    ]


def visible_videos():
    """Videos in which every true track can be found."""
    return [
        (v, [t._replace(crowd=False, id=1) for t in truth if any_pixel(t)], found)
        for v, truth, found in random_videos(np.random.default_rng(3), videos=6)
    ]


def any_pixel(track):
    return any(b is not None and b.any() for b in track.masks)


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_perfect_tracks_score_one(class_agnostic):
    got = measure(perfect(visible_videos()), class_agnostic=class_agnostic)
    # The official formula adds 2.2e-16 below the fraction line.
    assert 1 - 1e-12 < got["AP"] <= 1
    assert got["AR100"] == got["AR_small"] == 1
    assert got["AP_large"] == -1


def test_a_dropped_track_lowers_recall_by_its_share():
    videos = perfect(visible_videos())
    total = sum(len(truth) for _, truth, _ in videos)
    for row, (v, truth, found) in enumerate(videos):
        for i in range(len(found)):
            fewer = [*videos]
            fewer[row] = (v, truth, found[:i] + found[i + 1 :])
            got = measure(fewer, class_agnostic=True)
            assert got["AR100"] == pytest.approx(1 - 1 / total)
            assert got["AP"] < 1 - 0.5 / total


def test_class_agnostic_forgives_wrong_categories_and_only_them():
    videos = [
        (v, truth, [d._replace(category_id=(d.category_id + 1) % 3) for d in found])
        for v, truth, found in perfect(visible_videos())
    ]
    videos = [
        (v, [t._replace(category_id=0) for t in truth], found)
        for v, truth, found in videos
    ]
    relabelled = [
        (v, t, [d._replace(category_id=1) for d in found]) for v, t, found in videos
    ]
    assert measure(relabelled)["AP"] == 0
    assert measure(relabelled, class_agnostic=True)["AP"] > 0.99
    assert measure(relabelled, categories=(0,))["AR100"] == 0


def test_order_of_videos_and_of_untied_tracks_changes_nothing():
    rng = np.random.default_rng(4)
    videos = random_videos(rng, videos=5)
    number = iter(rng.permutation(1000))
    videos = [
        (v, truth, [d._replace(score=next(number) / 1000) for d in found])
        for v, truth, found in videos
    ]
    want = measure(videos)
    assert 0 < want["AP"] < 1
    for _ in range(3):
        shuffled = [videos[i] for i in rng.permutation(len(videos))]
        shuffled = [
            (v, truth, [found[i] for i in rng.permutation(len(found))])
            for v, truth, found in shuffled
        ]
        same(measure(shuffled), want)


def test_only_the_order_of_scores_matters():
    videos = random_videos(np.random.default_rng(5))
    steeper = [
        (v, truth, [d._replace(score=d.score**3 - 7) for d in found])
        for v, truth, found in videos
    ]
    got, want = measure(steeper), measure(videos)
    np.testing.assert_array_equal(got["precision"], want["precision"])
    np.testing.assert_array_equal(got["recall"], want["recall"])


def test_a_worse_wrong_track_never_helps():
    videos = visible_videos()
    before = measure(videos)
    wrong = [[None, np.ones((6, 8), bool)], [np.ones((6, 8), bool), None]]
    more = [
        (v, truth, [*f, *(PredictedTrack(2.0, k, wrong[0]) for k in range(3))])
        for v, truth, f in videos
    ]
    assert measure(more)["AP"] < before["AP"]


def test_sets_with_nothing_to_find_or_nothing_found_have_their_own_numbers():
    empty = measure([])
    assert {empty[name] for name in empty if np.ndim(empty[name]) == 0} == {-1.0}
    nothing_found = [(v, truth, []) for v, truth, _ in visible_videos()]
    got = measure(nothing_found)
    assert (got["AP"], got["AR100"], got["AP_large"]) == (0, 0, -1)
    nothing_to_find = [(1, [], [PredictedTrack(0.5, 0, [np.ones((2, 2), bool)])])]
    assert measure(nothing_to_find)["AP"] == -1


def test_a_video_can_be_added_only_once():
    score = VideoAp([1])
    score.add_video(7, [], [])
    with pytest.raises(ValueError, match="video 7 was already added"):
        score.add_video(7, [], [])
