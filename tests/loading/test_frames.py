"""Frames of a video for a tracker: in order, at one size, read ahead."""

import threading

import numpy as np
import pytest

from stan_jax.annotations import youtube_vis
from stan_jax.errors import InputError
from stan_jax.loading.frames import read_frames
from stan_jax.ops import canvas
from tests import tiny_sets


def _load(folder):
    return youtube_vis.load(folder.path, folder.frames)


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("ahead", [0, 2, 16])
@pytest.mark.parametrize("video", [0, 1])
def test_frames_are_the_video_in_order(make_folder, num_threads, ahead, video):
    dataset = _load(make_folder(videos=((24, 40, 5), (40, 24, 5))))
    size = [(12, 20), (20, 12)][video]
    entry = dataset.videos[video]
    how = dict(num_threads=num_threads, ahead=ahead)
    frames = list(read_frames(dataset, entry, size, **how))
    assert len(frames) == 5
    for t, frame in enumerate(frames):
        assert frame.shape == (*size, 3)
        assert frame.dtype == np.uint8
        assert tiny_sets.whose(frame) == (video, t)
        whole = youtube_vis.read_frame(dataset, entry, t)
        small = canvas.resize_frame(whole, size).astype(int)
        assert np.abs(frame - small).max() <= 6


def test_frames_of_their_own_size_are_the_files(make_folder):
    dataset = _load(make_folder())
    video = dataset.videos[0]
    frames = read_frames(dataset, video, (video.height, video.width))
    for t, frame in enumerate(frames):
        want = youtube_vis.read_frame(dataset, video, t)
        np.testing.assert_array_equal(frame, want)


def test_frames_can_be_left_early_and_name_a_broken_frame(make_folder):
    folder = make_folder(videos=((24, 40, 9),))
    (folder.frames / "v0/00004.jpg").unlink()
    dataset = _load(folder)
    frames = read_frames(dataset, dataset.videos[0], (24, 40))
    for _ in range(4):
        next(frames)
    with pytest.raises(InputError, match=r"00004.jpg: video 10, frame 4: file must"):
        next(frames)
    before = threading.active_count()
    early = read_frames(dataset, dataset.videos[0], (24, 40), num_threads=3)
    next(early)
    early.close()
    assert threading.active_count() == before  # its threads are gone with it
