import os

import numpy as np
import pytest
from PIL import Image

from stan_jax.errors import InputError
from stan_jax.masks import codec
from stan_jax.tracking.frame_tracks import FrameTracks
from stan_jax.video import draw, overlay
from stan_jax.video.recording import FILES


def show(overlays, video, length, hw=(90, 160), start=0):
    """A track that moves to the right, one pixel a frame."""
    for t in range(start, length):
        mask = np.zeros(hw, bool)
        mask[30:60, 20 + t : 50 + t] = True
        overlays.add(
            video,
            (t, length),
            np.full((*hw, 3), 120, np.uint8),
            FrameTracks(
                index=t,
                size_hw=hw,
                ids=np.array([4]),
                labels=np.array([1]),
                scores=np.array([0.5], np.float32),
                boxes=np.array([[20 + t, 30, 50 + t, 60]], np.float32),
                segmentations=(codec.encode(mask),),
                evicted=0,
                categories=("cat", "dog"),
            ),
        )


def sheet_of(folder):
    return np.asarray(Image.open(folder / "contact_sheet.png")).astype(int)


@pytest.mark.parametrize(
    ("length", "number", "want"),
    [
        (1, 6, [0]),
        (3, 6, [0, 1, 2]),
        (11, 6, [0, 2, 4, 6, 8, 10]),
        (36, 3, [0, 18, 35]),
    ],
)
def test_columns_are_even_and_hold_first_and_last(length, number, want):
    assert overlay.columns(length, number) == want


def listed(folder):
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def test_overlays_leave_one_video_per_clip_and_one_sheet(tmp_path):
    with overlay.Overlays(tmp_path / "out", columns=3) as overlays:
        show(overlays, "a", 7)
        show(overlays, "b", 2)
        assert os.path.exists(tmp_path / "out" / "a" / "overlay.mp4")
    assert listed(tmp_path / "out") == ["a", "b", "contact_sheet.png"]
    for name in "ab":
        assert listed(tmp_path / "out" / name) == sorted(FILES.values())
    sheet = sheet_of(tmp_path / "out")
    assert sheet.shape == (2 * (180 + 6) + 6, 3 * (320 + 6) + 6, 3)
    # Rows are videos: the second has two frames, so its third place is empty.
    assert (sheet[192:, 2 * 326 + 6 :] == 250).all()
    for column in range(3):
        picture = sheet[6:186, 326 * column + 6 : 326 * (column + 1)]
        assert (picture[0] == 120).all()
        assert (sheet[:, 326 * column : 326 * column + 6] == 250).all()


def test_overlays_of_an_earlier_run_go_and_other_files_stay(tmp_path):
    (tmp_path / "holiday.mp4").write_text("mine")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("mine")
    for names in (["a", "b"], ["c"]):
        with overlay.Overlays(tmp_path) as overlays:
            for name in names:
                show(overlays, name, 2)
    assert listed(tmp_path) == ["b", "c", "contact_sheet.png", "holiday.mp4"]
    assert listed(tmp_path / "b") == ["notes.txt"]


def test_ctrl_c_keeps_the_videos_that_are_finished(tmp_path):
    def run():
        with overlay.Overlays(tmp_path) as overlays:
            show(overlays, "a", 3)
            show(overlays, "b", 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert listed(tmp_path) == ["a", "b", "contact_sheet.png"]
    assert listed(tmp_path / "a") == sorted(FILES.values())


def test_sheet_shows_the_track_where_it_is_in_its_colour(tmp_path):
    with overlay.Overlays(tmp_path, columns=2) as overlays:
        show(overlays, "a", 60)
    sheet = sheet_of(tmp_path)
    tint = 120 + draw.FILL * (np.array(draw.colour(4)) - 120)
    for column, x in enumerate((35, 35 + 59)):  # the middle of the first and the last
        at = sheet[6 + 2 * 45, 6 + 326 * column + 2 * x]
        np.testing.assert_allclose(at, tint, atol=3)


def test_videos_of_several_sizes_fit_on_one_sheet(tmp_path):
    rows = [
        [np.zeros((180, 320, 3), np.uint8)] * 2,
        [np.zeros((569, 320, 3), np.uint8)],
    ]
    overlay.save_sheet(tmp_path / "sheet.png", rows)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (180 + 569 + 3 * 6, 2 * 326 + 6, 3)
    assert (sheet == 0).sum() == 3 * 320 * (2 * 180 + 569)


def test_no_videos_leave_no_sheet(tmp_path):
    with overlay.Overlays(tmp_path / "out"):
        pass
    assert os.listdir(tmp_path) == []


def test_an_error_leaves_what_was_done_and_no_sheet(tmp_path):
    def run():
        with overlay.Overlays(tmp_path) as overlays:
            show(overlays, "a", 3)
            show(overlays, "b", 2)
            raise RuntimeError("model")

    with pytest.raises((RuntimeError, ValueError)):
        run()
    assert listed(tmp_path) == ["a", "b"]


def test_a_sheet_that_cannot_be_written_is_one_clear_error(tmp_path, monkeypatch):
    def fail(_, path, **__):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    rows = [[np.zeros((8, 8, 3), np.uint8)]]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="contact sheet: cannot be written"):
        overlay.save_sheet(tmp_path / "file" / "sheet.png", rows)
    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(InputError, match="No space left"):
        overlay.save_sheet(tmp_path / "sheet.png", rows)
    assert os.listdir(tmp_path) == ["file"]
