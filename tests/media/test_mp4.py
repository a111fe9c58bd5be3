import contextlib
import os
import resource
from fractions import Fraction

import av
import numpy as np
import pytest

from stan_jax.errors import InputError
from stan_jax.media.mp4 import Mp4


def pictures(hw, number=5):
    """A smooth picture that moves: what a codec can keep."""
    yy, xx = np.mgrid[: hw[0], : hw[1]]
    for t in range(number):
        red = 128 + 100 * np.sin((xx + 4 * t) / 20)
        yield np.stack([red, 255 * yy / hw[0], 0 * red + 40 * t], -1).astype(np.uint8)


def save(path, images):
    with Mp4(path) as video:
        for image in images:
            video.add(image)


@pytest.mark.parametrize("hw", [(120, 160), (121, 161), (1, 3), (91, 160)])
def test_mp4_is_h264_yuv420p_and_shows_the_pictures(tmp_path, hw):
    path = tmp_path / "deep" / "a.mp4"
    save(path, pictures(hw))
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert float(stream.average_rate) == 6
        shown = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert len(shown) == 5
    even = hw[0] + hw[0] % 2, hw[1] + hw[1] % 2, 3
    for got, want in zip(shown, pictures(hw), strict=True):
        assert got.shape == even
        if min(hw) > 10:
            error = np.abs(got[: hw[0], : hw[1]].astype(int) - want)
            assert error.mean() < 6
            # The row and column that were added look like their neighbours.
            assert np.abs(got[-1].astype(int) - got[-2]).mean() < 12
            assert np.abs(got[:, -1].astype(int) - got[:, -2]).mean() < 12
    assert os.listdir(path.parent) == ["a.mp4"]


def test_no_file_stands_under_its_name_before_it_is_complete(tmp_path):
    path = tmp_path / "a.mp4"
    with Mp4(path) as video:
        for image in pictures((64, 64)):
            video.add(image)
            assert not path.exists()
    assert path.stat().st_size > 500


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.mp4"
    save(path, pictures((64, 64)))
    old = path.read_bytes()

    def failing():
        yield from pictures((64, 64), 2)
        raise RuntimeError("model")

    with pytest.raises(RuntimeError, match="model"):
        save(path, failing())
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_a_video_without_pictures_leaves_no_file(tmp_path):
    save(tmp_path / "a.mp4", [])
    assert os.listdir(tmp_path) == []


@contextlib.contextmanager
def full_disk(room):
    """No file may grow beyond `room` bytes: writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("number", [6, 80])
def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path, number):
    path = tmp_path / "a.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (number, 96, 96, 3), np.uint8)
    with (
        full_disk(1000),
        pytest.raises(InputError, match="File too large|disk full") as caught,
    ):
        save(path, noise)
    assert caught.value.file == str(path)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save(tmp_path / "file" / "a.mp4", pictures((16, 16)))


def test_a_picture_larger_than_players_take_is_reduced(tmp_path):
    path = tmp_path / "a.mp4"
    save(path, [np.full((60, 8192, 3), 90, np.uint8)])
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (4096, 30)


def test_a_picture_of_another_size_is_fitted_in_with_bars(tmp_path):
    path = tmp_path / "a.mp4"
    white = np.full((64, 64, 3), 230, np.uint8)
    save(path, [white, np.full((32, 64, 3), 230, np.uint8)])
    with av.open(str(path)) as container:
        _, second = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert second.shape == (64, 64, 3)
    assert second[:12].max() < 40
    assert second[20:44].min() > 200


def test_after_an_error_what_was_done_can_be_kept(tmp_path):
    path = tmp_path / "a.mp4"

    def failing():
        with Mp4(path, rate=10, keep=True) as video:
            for image in pictures((64, 64), 40):
                video.add(image)
            raise RuntimeError("model")

    with pytest.raises(RuntimeError, match="model"):
        failing()
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 40
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_times_durations_and_colours_are_those_told(tmp_path):
    path, times = tmp_path / "a.mp4", [0.5, 0.7, 0.75, 1.5]
    with Mp4(path, clock=Fraction(1, 1000)) as video:
        for image, seconds in zip(pictures((64, 64), 4), times, strict=True):
            video.add(image, seconds, 0.25)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(video=0))
        assert [round(f.time, 4) for f in frames] == [0, 0.2, 0.25, 1.0]
        length = (stream.duration or 0) * (stream.time_base or 0)
        assert float(length) == pytest.approx(1.25)
        context = stream.codec_context
        assert (context.color_primaries, context.color_trc) == (1, 1)
        assert (context.colorspace, context.color_range) == (1, 1)
