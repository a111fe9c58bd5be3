import contextlib
import errno
import json
import os
import resource

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from stan_jax.errors import InputError
from stan_jax.files import replacing
from stan_jax.masks import codec
from stan_jax.results.writer import ResultsWriter, TrackBuilder, TrackResult

# pycocotools 2.0.11 decodes into an array type that numpy 2 complains about.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")


def frame(rng, ids, labels, scores, hw=(6, 9)):
    masks = rng.random((len(ids), *hw)) < 0.5
    return (
        np.array(ids, np.int32),
        np.array(labels, np.int32),
        np.array(scores, np.float32),
        [codec.encode(mask) for mask in masks],
    )


def track(score=0.5, category_id=1, last=1):
    return TrackResult(score, category_id, {last: blob()})


def blob():
    return codec.encode(np.eye(4, 5, dtype=bool))


@pytest.mark.parametrize("hw", [(1, 1), (7, 3), (36, 64)])
def test_rle_decodes_to_the_same_mask(hw):
    mask = np.random.default_rng(0).random(hw) < 0.4
    code = codec.encode(mask)
    assert code["size"] == list(hw)
    assert isinstance(code["counts"], str)
    np.testing.assert_array_equal(coco_mask.decode(code), mask)
    # A view with strides, as a transposed or cropped mask has, gives its own pixels.
    np.testing.assert_array_equal(coco_mask.decode(codec.encode(mask.T)), mask.T)


def test_builder_takes_mean_score_majority_label_and_one_mask_per_frame():
    rng = np.random.default_rng(1)
    builder = TrackBuilder(category_ids=(10, 20, 30))
    shown = {
        0: frame(rng, [7, 3], [2, 1], [0.5, 0.25]),
        1: frame(rng, [7, 3], [1, 0], [0.75, 0.5]),
        3: frame(rng, [3, 7], [1, 2], [0.75, 0.25]),
    }
    for t, rows in shown.items():
        builder.add(t, *rows)
    three, seven = builder.tracks()
    assert (three.score, three.category_id) == (0.5, 20)
    assert (seven.score, seven.category_id) == (0.5, 30)
    for result, identity in ((three, 3), (seven, 7)):
        assert result.dense(5)[2] is result.dense(5)[4] is None
        for t, (ids, _, _, masks) in shown.items():
            assert result.dense(5)[t] == masks[list(ids).index(identity)]


def test_memory_of_tracks_grows_with_what_is_seen_not_with_the_video():
    rng = np.random.default_rng(6)
    builder = TrackBuilder(category_ids=(1,))
    for t in (0, 100_000):
        builder.add(t, *frame(rng, [t], [0], [0.5]))
    assert [set(x.segmentations) for x in builder.tracks()] == [{0}, {100_000}]


def test_builder_gives_the_smallest_label_on_a_tie():
    rng = np.random.default_rng(2)
    builder = TrackBuilder(category_ids=(5, 6, 7))
    builder.add(0, *frame(rng, [0], [2], [0.5]))
    builder.add(1, *frame(rng, [0], [1], [0.9]))
    assert builder.tracks()[0].category_id == 6


def test_builder_has_no_tracks_of_frames_that_show_nothing():
    empty = TrackBuilder(category_ids=(1,))
    empty.add(0, *frame(np.random.default_rng(3), [], [], []))
    assert empty.tracks() == []


def test_builder_counts_empty_masks_in_the_score_but_writes_null():
    rng = np.random.default_rng(4)
    builder = TrackBuilder(category_ids=(1,))
    rows = frame(rng, [0, 1], [0, 0], [0.5, 0.5])
    builder.add(0, *rows)
    ids, labels, _, _ = rows
    nothing = [codec.encode(np.zeros((6, 9), bool))] * 2
    builder.add(1, ids, labels, np.float32([1, 1]), nothing)
    assert [t.score for t in builder.tracks()] == [0.75, 0.75]
    assert builder.tracks()[0].dense(2)[1] is None
    never = TrackBuilder(category_ids=(1,))
    never.add(0, ids, labels, rows[2], nothing)
    assert never.tracks() == []


def test_builder_refuses_an_id_twice_in_a_frame_and_frames_out_of_order():
    rng = np.random.default_rng(5)
    builder = TrackBuilder(category_ids=(1,))
    with pytest.raises(ValueError, match="a track stands twice in frame 1: .4 4."):
        builder.add(1, *frame(rng, [4, 4], [0, 0], [0.5, 0.5]))
    with pytest.raises(ValueError, match="frame 0 comes after frame 1"):
        builder.add(0, *frame(rng, [4], [0], [0.5]))


@pytest.mark.parametrize("counts", [[], [0], [2], [0, 2, 0, 1]])
def test_writer_writes_a_json_list_of_all_tracks(tmp_path, counts):
    path = tmp_path / "results.json"
    with ResultsWriter(path) as writer:
        for video_id, count in enumerate(counts, 1):
            tracks = [track(0.1 * k) for k in range(count)]
            writer.add_video(video_id, tracks, length=2)
            assert not path.exists()
    rows = json.loads(path.read_text())
    assert [r["video_id"] for r in rows] == list(
        np.repeat(np.arange(1, len(counts) + 1), counts)
    )
    assert all(r["segmentations"] == [None, blob()] for r in rows)
    assert os.listdir(tmp_path) == ["results.json"]


def test_writer_keeps_the_old_file_when_the_block_fails(tmp_path):
    path = tmp_path / "results.json"
    path.write_text("old")

    def videos():
        yield 1, [track()]
        raise RuntimeError("model")

    with pytest.raises(RuntimeError, match="model"):
        write(path, videos())
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["results.json"]


@contextlib.contextmanager
def full_disk(room):
    """No file may grow beyond `room` bytes: writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write(path, videos):
    with ResultsWriter(path) as writer:
        for video_id, tracks in videos:
            writer.add_video(video_id, tracks, length=2)


@pytest.mark.parametrize(
    ("room", "record"), [(10, "video 1"), (150, "video 2"), (231, "end")]
)
def test_writer_leaves_nothing_on_a_full_disk(tmp_path, room, record):
    path = tmp_path / "results.json"
    with full_disk(room), pytest.raises(InputError, match="File too large") as caught:
        write(path, [(1, [track()]), (2, [track()])])
    assert (caught.value.file, caught.value.record) == (str(path), record)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_writer_leaves_nothing_when_the_last_step_fails(tmp_path, monkeypatch, step):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(InputError, match="Input/output error"):
        write(tmp_path / "results.json", [(1, [track()])])
    assert os.listdir(tmp_path) == []


def test_writer_names_the_file_when_its_folder_is_missing(tmp_path):
    with pytest.raises(InputError, match="absent/results.json: start: cannot be"):
        write(tmp_path / "absent" / "results.json", [])


@pytest.mark.parametrize(
    ("tracks", "rule"),
    [
        ([track(float("nan"))], "finite"),
        ([track(), track(last=2)], "has only 2 frames"),
    ],
)
def test_writer_refuses_tracks_that_no_evaluator_can_read(tmp_path, tracks, rule):
    with pytest.raises(ValueError, match=rule):
        write(tmp_path / "r.json", [(1, tracks)])
    with pytest.raises(ValueError, match="already"):
        write(tmp_path / "r.json", [(1, []), (1, [])])
    assert os.listdir(tmp_path) == []


def test_error_that_names_no_file_names_the_one_to_be_written(tmp_path):
    with pytest.raises(OSError, match="No space") as caught:
        with replacing(tmp_path / "a.json"):
            raise OSError(errno.ENOSPC, "No space")
    assert caught.value.filename == str(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "a.json"):
        open(tmp_path / "nowhere" / "b.json").close()
    assert caught.value.filename == str(tmp_path / "nowhere" / "b.json")
    assert os.listdir(tmp_path) == []
