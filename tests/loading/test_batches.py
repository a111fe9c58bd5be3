"""Order of training pairs and clips: from the seed alone, whoever asks and whenever."""

import itertools
import json
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stan_jax.annotations import youtube_vis
from stan_jax.errors import InputError
from stan_jax.loading import batches, clips, plan
from tests import tiny_sets

PLAIN: dict[str, Any] = dict(
    batch=4, canvas=(24, 40), gap="any", flip=0.5, seed=3, max_objects=4, num_threads=0
)
FOUR = ((24, 40, 5), (40, 24, 4), (24, 40, 3), (20, 40, 1))  # the second is portrait


def _load(folder):
    return youtube_vis.load(folder.path, folder.frames)


def _pairs(*datasets, **change):
    """Batches of datasets (weight 1 if none is given), PLAIN but for some settings."""
    sets = [d if type(d) is tuple else (d, 1.0) for d in datasets]
    return batches.pairs(sets, **{**PLAIN, **change})


def _take(iterator, count: int):
    found = list(itertools.islice(iterator, count))
    iterator.close()
    return found


def _same(a, b) -> None:
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y, strict=True)


def _keys(pair) -> list[tuple[int, int, int]]:
    """Video, reference frame and current frame of every pair of a batch."""
    found = []
    for ref, current in np.asarray(pair.frames):
        (video, t0), (same, t1) = tiny_sets.whose(ref), tiny_sets.whose(current)
        assert video == same
        found.append((video, t0, t1))
    return found


def test_pairs_show_what_the_folder_holds(make_folder):
    dataset = _load(make_folder())
    (pair,) = _take(_pairs(dataset, flip=0.0), 1)
    assert pair.frames.shape == (4, 2, 24, 40, 3)
    assert pair.masks.shape == (4, 4, 24, 40)
    for b, (video, t0, t1) in enumerate(_keys(pair)):
        assert pair.labels[b].tolist() == [video % 2, 0, 0, 0]
        assert pair.present[b].tolist() == [[True, False, False, False]] * 2
        want = [[t, 4, t + 8, 14] for t in (t0, t1)]
        assert pair.boxes[b, :, 0].tolist() == want
        mask = tiny_sets.box_mask(24, 40, (t1, 4, t1 + 8, 14))
        np.testing.assert_array_equal(pair.masks[b, 0], mask)


def test_more_frames_lead_up_to_the_previous_one_and_leave_the_rest_as_it_is(
    make_folder,
):
    dataset = _load(make_folder(videos=FOUR))
    for plain, longer in zip(
        _take(_pairs(dataset, gap="previous"), 6),
        _take(_pairs(dataset, gap="previous", frames=4), 6),
        strict=True,
    ):
        _same(longer._replace(frames=longer.frames[:, 2:], seen=plain.seen), plain)
        for b, (video, t0, t1) in enumerate(_keys(plain)):
            want = [] if t0 == t1 else list(range(t0))[-2:]
            assert longer.seen[b] == 1 + len(want)
            blank = 2 - len(want)
            assert not longer.frames[b, :blank].any()
            got = [tiny_sets.whose(frame) for frame in longer.frames[b, blank:2]]
            assert got == [(video, t) for t in want]


def test_pairs_restored_give_the_very_next_batch(make_folder):
    dataset = _load(make_folder(videos=FOUR))
    first = _pairs(dataset, num_threads=2)
    for _ in range(5):
        next(first)
    state = json.loads(json.dumps(first.get_state()))
    want = _take(first, 4)
    for num_threads in (0, 2):
        other = _pairs(dataset, num_threads=num_threads, prefetch=1)
        next(other)
        other.set_state(state)
        for a, b in zip(want, _take(other, 4), strict=True):
            _same(a, b)


def test_pairs_rewind_after_reading_ahead(make_folder):
    dataset = _load(make_folder())
    iterator = _pairs(dataset, num_threads=2)
    start = iterator.get_state()
    want = list(itertools.islice(iterator, 3))
    iterator.set_state(start)
    for a, b in zip(want, _take(iterator, 3), strict=True):
        _same(a, b)


def test_pairs_do_not_depend_on_threads(make_folder):
    dataset = _load(make_folder(videos=FOUR))
    made = [_take(_pairs(dataset, num_threads=n), 6) for n in (0, 1, 3)]
    for other in made[1:]:
        for a, b in zip(made[0], other, strict=True):
            _same(a, b)


def test_pairs_of_the_shards_are_the_rows_of_the_whole(make_folder):
    dataset = _load(make_folder(videos=FOUR))
    whole = _take(_pairs(dataset), 5)
    shards = [_take(_pairs(dataset, shard_index=i, shard_count=2), 5) for i in (0, 1)]
    for want, *parts in zip(whole, *shards, strict=True):
        _same(want, [np.concatenate(field) for field in zip(*parts, strict=True)])


def test_order_and_draws_each_change_with_the_seed(make_folder):
    many = _load(make_folder("many", ((24, 40, 9),)))
    one = _load(make_folder("one", ((24, 40, 1),)))
    for dataset in (many, one):
        # Of one frame the order cannot change, of many frames the draws are fixed.
        how = {"flip": 0.0, "gap": "previous"} if dataset is many else {}
        taken = [_take(_pairs(dataset, seed=seed, **how), 4) for seed in (0, 1, 0)]
        seen = [[p.boxes[:, 1, 0, 0].tolist() for p in run] for run in taken]
        assert seen[0] == seen[2] != seen[1]


def test_every_frame_comes_once_in_an_epoch_in_another_order(make_folder):
    dataset = _load(make_folder(videos=((24, 40, 5), (24, 40, 3))))
    assert batches.num_pairs(dataset) == 8
    taken = _take(_pairs(dataset), 6)
    frames = [(v, t) for pair in taken for v, _, t in _keys(pair)]
    epochs = [frames[i : i + 8] for i in (0, 8, 16)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(epochs[0])
        assert len(set(epoch)) == 8
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_has_one_canvas_and_each_canvas_its_share_and_epochs(make_folder):
    dataset = _load(make_folder(videos=FOUR))
    taken = _take(_pairs(dataset), 13)
    seen, order = Counter(), {False: [], True: []}
    for pair in taken:
        portrait = pair.frames.shape[2:4] == (40, 24)
        assert pair.frames.shape[2:4] == ((40, 24) if portrait else (24, 40))
        videos = {v for v, _, _ in _keys(pair)}
        assert videos <= ({1} if portrait else {0, 2, 3})
        seen[portrait] += 1
        order[portrait] += [(v, t) for v, _, t in _keys(pair)]
    assert seen == {False: 9, True: 4}  # 9 landscape frames and 4 portrait ones
    for frames, epoch in ((order[False], 9), (order[True], 4)):
        for i in range(0, len(frames), epoch):
            assert len(set(frames[i : i + epoch])) == epoch


def test_datasets_mix_by_weight_and_run_through_each(make_folder):
    a = _load(make_folder("a", ((24, 40, 3),)))
    b = _load(make_folder("b", ((20, 40, 4), (20, 40, 4))))
    iterator = _pairs((a, 3.0), (b, 1.0), batch=8)
    taken = _take(iterator, 4)
    heights = np.concatenate([pair.size_hw[:, 0] for pair in taken])
    assert Counter(heights.tolist()) == {24: 24, 20: 8}
    for pair in taken:
        assert Counter(pair.size_hw[:, 0].tolist()) == {24: 6, 20: 2}
    keys = [key for pair in taken for key in _keys(pair)]
    of_b = [(v, t) for (v, _, t), h in zip(keys, heights, strict=True) if h == 20]
    assert len(set(of_b)) == 8


@given(
    weights=st.lists(st.floats(1e-3, 10), min_size=1, max_size=5),
    turns=st.integers(1, 60),
)
def test_turns_are_fair_and_count_up(weights, turns):
    total = sum(Fraction(w) for w in weights)
    shares = [Fraction(w) / total for w in weights]
    had = [0] * len(shares)
    for n in range(turns):
        who, before = plan.turn(n, shares)
        assert before == had[who]
        had[who] += 1
    for count, share in zip(had, shares, strict=True):
        assert abs(count - turns * share) < len(shares)


def test_turn_reaches_far_without_counting():
    who, before = plan.turn(10**15, [Fraction(1, 3), Fraction(2, 3)])
    assert (who, before) == (0, 333_333_333_333_333)


def test_one_draw_of_flip_holds_for_both_frames(make_folder):
    dataset = _load(make_folder(videos=((24, 40, 9),)))
    taken = _take(_pairs(dataset), 25)
    flips = []
    for pair in taken:
        for b, (_, t0, t1) in enumerate(_keys(pair)):
            left = pair.boxes[b, :, 0, 0].tolist()
            assert left in ([t0, t1], [32 - t0, 32 - t1])
            flips.append(left != [t0, t1])
    assert 30 < sum(flips) < 70


def test_one_draw_of_scale_holds_for_both_frames(make_folder):
    dataset = _load(make_folder())
    sizes = ((24, 40), (12, 20), (18, 30))
    iterator = _pairs(dataset, scales_hw=sizes)
    seen = Counter()
    for pair in _take(iterator, 25):
        assert pair.frames.shape[2:4] == (24, 40)
        for b in range(4):
            h, w = pair.size_hw[b]
            seen[int(h), int(w)] += 1
            assert not pair.frames[b, :, h:].any()
            assert not pair.frames[b, :, :, w:].any()
            widths = pair.boxes[b, :, 0, 2] - pair.boxes[b, :, 0, 0]
            np.testing.assert_allclose(widths, 8 * h / 24, atol=1e-5)
    assert set(seen) == set(sizes)
    assert min(seen.values()) > 15


@pytest.mark.parametrize(
    ("gap", "holds"),
    [
        ("any", lambda t0, t1: t0 != t1),
        ("previous", lambda t0, t1: t0 == max(t1 - 1, 0)),
        (2, lambda t0, t1: 0 < abs(t0 - t1) <= 2),
    ],
)
def test_reference_frame_keeps_the_gap_rule(make_folder, gap, holds):
    dataset = _load(make_folder(videos=((24, 40, 7),)))
    taken = _take(_pairs(dataset, gap=gap), 14)
    keys = [key for pair in taken for key in _keys(pair)]
    assert all(holds(t0, t1) for _, t0, t1 in keys)


def _three_objects(folder):
    """Video 0 gets one object that leaves after frame 0, one that comes, a crowd."""
    masks = tiny_sets.moving(24, 40, 3, top=12)
    rows = [tiny_sets.track(200 + i, 10, 3, masks) for i in range(3)]
    rows[0]["segmentations"][1:] = [None, None]
    rows[1]["segmentations"][:2] = [None, None]
    rows[2]["iscrowd"] = 1
    folder.content["annotations"] += rows
    return folder.write()


def test_rows_are_the_objects_of_both_frames_without_crowds(make_folder):
    dataset = _load(_three_objects(make_folder(videos=((24, 40, 3),))))
    taken = _take(_pairs(dataset, flip=0.0), 6)
    seen = set()
    for pair in taken:
        for b, (_, t0, t1) in enumerate(_keys(pair)):
            # Object 200 is in view in frame 0 alone, 201 in frame 2 alone.
            rows = [(100, {0, 1, 2}), (200, {0}), (201, {2})]
            rows = [r for r in rows if r[1] & {t0, t1}]
            want = [[t in times for _, times in rows] for t in (t0, t1)]
            assert pair.present[b, :, : len(rows)].tolist() == want
            assert not pair.present[b, :, len(rows) :].any()
            seen.add((t0, t1))
    assert len(seen) > 3


def test_frames_without_an_object_teach_what_is_none_where_that_is_asked(make_folder):
    folder = make_folder(videos=((24, 40, 3),) * 2)
    folder.content["annotations"][1]["segmentations"][1:] = [None] * 2
    dataset = _load(folder.write())
    total = sum(len(video.file_names) for video in dataset.videos)
    assert batches.num_pairs(dataset) == total - 2
    assert batches.num_pairs(dataset, negatives=True) == total
    found = _take(_pairs(dataset, batch=1, negatives=True), total)
    seen = [(_keys(pair)[0], pair.present[0, 1].any()) for pair in found]
    empty = {(video, t) for (video, _, t), shown in seen if not shown}
    assert empty == {(1, 1), (1, 2)}
    assert len({(video, t) for (video, _, t), _ in seen}) == total


def test_frames_with_nothing_but_crowds_are_left_out(make_folder):
    folder = make_folder()
    folder.content["annotations"][0]["segmentations"][1] = None
    folder.content["annotations"][1]["iscrowd"] = 1
    dataset = _load(folder.write())
    assert batches.num_pairs(dataset) == 2
    taken = _take(_pairs(dataset), 4)
    assert {key for p in taken for key in _keys(p)} == {(0, 0, 2), (0, 2, 0)}


def test_too_many_objects_are_found_before_training(make_folder):
    folder = _three_objects(make_folder(videos=((24, 40, 3),)))
    dataset = _load(folder)
    rule = r"video 10, frames 2 and 0: .* max_objects = 2 objects, these two show 3"
    with pytest.raises(InputError, match=rule) as caught:
        _pairs(dataset, max_objects=2)
    assert caught.value.file == str(folder.path)
    # Frames 0 and 2 never meet under this rule.
    _take(_pairs(dataset, max_objects=2, gap="previous"), 3)


def test_datasets_that_do_not_go_together_are_refused(make_folder):
    one, two = make_folder("one"), make_folder("two")
    two.content["categories"][0]["name"] = "fox"
    sets = [_load(one), _load(two.write())]
    with pytest.raises(InputError, match=r"two/instances.json: categories: .*one"):
        _pairs(*sets)
    two.content["categories"][0]["name"] = "cat"
    two.content["categories"][0]["id"] = 77  # other ids in the same order are fine
    two.content["annotations"][1]["category_id"] = 77
    _pairs(sets[0], _load(two.write())).close()


def test_datasets_without_objects_are_refused(make_folder):
    folder = make_folder()
    folder.content["annotations"] = []
    empty = _load(folder.write())
    with pytest.raises(InputError, match="at least one object that is no crowd"):
        _pairs(empty)
    del folder.content["annotations"]
    with pytest.raises(InputError, match="must have 'annotations'"):
        _pairs(_load(folder.write()))
    with pytest.raises(InputError, match="must name at least one"):
        _pairs()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"batch": 0}, "batch: must be above 0, is 0"),
        ({"shard_count": 3}, "shard_count: must divide the batch of 4, is 3"),
        ({"shard_count": 2, "shard_index": 2}, "shard_index: must be below"),
        ({"gap": "next"}, "gap: must be .* is 'next'"),
        ({"gap": 0}, "gap: must be .* is 0"),
        ({"flip": 1.5}, r"flip: must be in 0..1, is 1.5"),
        ({"seed": -1}, "seed: must be at least 0, is -1"),
        ({"canvas": (40, 24)}, "canvas: must be landscape"),
        ({"scales_hw": ((30, 40),)}, "canvas: .*hold 30 x 40, is 24 x 40"),
        ({"max_objects": 0}, "max_objects: must be above 0, is 0"),
        ({"num_threads": -1}, "num_threads: must be at least 0, is -1"),
    ],
)
def test_settings_are_checked_by_name(make_folder, change, rule):
    dataset = _load(make_folder())
    with pytest.raises(InputError, match=rule):
        _pairs(dataset, **change)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_are_above_zero(make_folder, weight):
    dataset = _load(make_folder())
    with pytest.raises(InputError, match="weight: must be above 0"):
        _pairs((dataset, weight))


@pytest.mark.parametrize("num_threads", [0, 2])
def test_a_frame_that_breaks_while_training_is_named(make_folder, num_threads):
    folder = make_folder(videos=((24, 40, 2),))
    path = folder.frames / "v0/00001.jpg"
    path.write_bytes(path.read_bytes()[:-40])
    iterator = _pairs(_load(folder), num_threads=num_threads)
    with pytest.raises(InputError, match="must be a whole image") as caught:
        next(iterator)
    iterator.close()
    assert caught.value.file == str(path)


BEFORE_FLAGS = (
    "import sys; from stan_jax.annotations import youtube_vis\n"
    "from stan_jax.loading import batches\n"
)
AFTER_FLAGS = "from absl import flags; flags.FLAGS(['x'])\n" + BEFORE_FLAGS
RUN = """
d = youtube_vis.load(sys.argv[1], sys.argv[2])
it = batches.pairs([(d, 1.0)], batch=2, canvas=(24, 40), gap="any", flip=0.5, seed=0,
                   max_objects=4)
print(next(it).frames.shape)
"""


@pytest.mark.parametrize("head", [BEFORE_FLAGS, AFTER_FLAGS])
def test_pairs_run_whether_or_not_absl_flags_were_parsed(make_folder, head):
    """And the program ends by itself, though the iterator was not closed."""
    folder = make_folder()
    command = [sys.executable, "-W", "error", "-c", head + RUN]
    done = subprocess.run(
        [*command, str(folder.path), str(folder.frames)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "(2, 2, 24, 40, 3)\n", done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["davis16_vis", "davis16_mix"])
def test_real_videos_keep_masks_on_objects(shared_data, name):
    folder = shared_data / name / "train"
    dataset = youtube_vis.load(folder / "instances.json", folder / "JPEGImages")
    iterator = _pairs(dataset, canvas=(192, 320), max_objects=6, num_threads=2)
    for pair in _take(iterator, 4):
        assert pair.size_hw.tolist() == [[180, 320]] * 4
        for b, m in np.argwhere(pair.present[:, 1]):
            tight = clips.tight_box(np.asarray(pair.masks)[b, m])
            outside = (pair.boxes[b, 1, m] - tight) * [1, 1, -1, -1]
            assert outside.max() <= 0.5  # half of a pixel twice as large
        assert not np.asarray(pair.masks)[~np.asarray(pair.present)[:, 1]].any()
        assert pair.present.any((1, 2)).all()
