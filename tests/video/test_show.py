import json
import os

import av
import numpy as np
import pytest
from PIL import Image

from stan_jax.commands import main
from stan_jax.masks import codec
from stan_jax.video import draw, overlay

HW, FRAMES = (90, 160), 4  # of a picture that is drawn at twice its size on a sheet
GREY = 120


def mask(x, y=30, size=30):
    bitmap = np.zeros(HW, bool)
    bitmap[y : y + size, x : x + size] = True
    return codec.encode(bitmap)


@pytest.fixture
def files(tmp_path):
    """Two videos; the object of the first is found, beside something that is none."""
    videos = []
    for v in (1, 2):
        names = [f"v{v}/{t}.png" for t in range(FRAMES)]
        videos.append({"id": v, "height": 90, "width": 160, "file_names": names})
        for name in names:
            (tmp_path / "frames" / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", HW[::-1], (GREY,) * 3).save(tmp_path / "frames" / name)
    track = {"id": 9, "video_id": 1, "category_id": 5, "iscrowd": 0}
    track["segmentations"] = [mask(10 + t) for t in range(FRAMES)]
    other = [mask(110)] * FRAMES
    root = {"videos": videos, "annotations": [track]}
    root["categories"] = [{"id": 5, "name": "cat"}]
    row = {"video_id": 1, "category_id": 5}
    found = [
        {**row, "score": 0.4, "segmentations": other},
        {**row, "score": 0.9, "segmentations": [*track["segmentations"]]},
        {**row, "score": 0.1, "segmentations": other},
    ]
    return root, found


def run(tmp_path, root, found, *options):
    for name, content in (("instances", root), ("results", found)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    line = [tmp_path / "instances.json", tmp_path / "frames", tmp_path / "out"]
    if found is not None:
        line += ["--results", tmp_path / "results.json"]
    main.main(["show", *map(str, line), *options])


def sheet(tmp_path):
    return np.asarray(Image.open(tmp_path / "out" / "contact_sheet.png")).astype(int)


def at(picture, row, column, x, y):
    """What stands on the sheet at pixel x, y of a frame."""
    return picture[6 + 186 * row + 2 * y, 6 + 326 * column + 2 * x]


def tint(number):
    return GREY + draw.FILL * (np.array(draw.colour(number)) - GREY)


def test_both_sides_stand_below_each_other_and_share_colours(tmp_path, files, capsys):
    run(tmp_path, *files)
    got = sheet(tmp_path)
    assert got.shape == (4 * 186 + 6, FRAMES * 326 + 6, 3)
    for t in range(FRAMES):
        for row in (0, 1):  # annotated, found
            np.testing.assert_allclose(at(got, row, t, 25 + t, 45), tint(1), atol=4)
        # What is no object has a number of its own; below 0.3 nothing is drawn.
        np.testing.assert_allclose(at(got, 0, t, 125, 45), [GREY] * 3, atol=4)
        np.testing.assert_allclose(at(got, 1, t, 125, 45), tint(2), atol=4)
        for row in (2, 3):  # the second video holds nothing
            np.testing.assert_allclose(at(got, row, t, 25, 45), [GREY] * 3, atol=4)
    printed = capsys.readouterr().out
    assert "2 of 2 videos, 1 tracks annotated, 2 tracks found" in printed
    assert "1 results are below a score of 0.3" in printed


def test_annotations_alone_are_one_row_a_video(tmp_path, files):
    run(tmp_path, files[0], None, "--videos", "2", "1", "--max-videos", "1")
    got = sheet(tmp_path)
    assert got.shape[0] == 186 + 6
    np.testing.assert_allclose(at(got, 0, 0, 25, 45), [GREY] * 3, atol=4)  # video 2


def test_results_alone_need_no_annotations(tmp_path, files):
    root, found = files
    del root["annotations"]
    run(tmp_path, root, found, "--score", "0.5")
    got = sheet(tmp_path)
    assert got.shape[0] == 2 * 186 + 6
    np.testing.assert_allclose(at(got, 0, 0, 25, 45), tint(1), atol=4)
    np.testing.assert_allclose(at(got, 0, 0, 125, 45), [GREY] * 3, atol=4)


def test_video_holds_both_sides_beside_each_other(tmp_path, files):
    root, found = files
    for row in root["videos"]:  # two videos in one folder are told apart
        row["file_names"] = root["videos"][0]["file_names"]
    run(tmp_path, root, found, "--fps", "3")
    names = [".written.json", "contact_sheet.png", "v1-1", "v1-2"]
    assert sorted(os.listdir(tmp_path / "out")) == names
    with av.open(str(tmp_path / "out" / "v1-1" / "overlay.mp4")) as video:
        assert video.streams.video[0].average_rate == 3
        pictures = [frame.to_ndarray(format="rgb24") for frame in video.decode()]
    assert len(pictures) == FRAMES
    height, width = pictures[0].shape[:2]
    zoom = height // 90
    assert width == 2 * 160 * zoom  # both sides, enlarged alike
    left, right = (
        pictures[0][45 * zoom, x * zoom].astype(int) for x in (125, 160 + 125)
    )
    assert abs(left - GREY).max() < 12
    assert abs(right - tint(2)).max() < 25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root, found: root.pop("annotations"), None),
        (
            lambda root, found: found[1]["segmentations"].__setitem__(
                2, {"size": [3, 3], "counts": "9"}
            ),
            r"results\[1\], frame 2: size must be \[90, 160\] as the video's",
        ),
        (
            lambda root, found: found[1]["segmentations"].__setitem__(
                2, {"size": [*HW], "counts": "9"}
            ),
            r"results\[1\], frame 2: counts must add up",
        ),
        (lambda root, found: found[0].update(video_id=7), "video_id 7 is not among"),
        (
            lambda root, found: root["videos"][0]["file_names"].__setitem__(0, "no"),
            "video 1, frame 0: file must exist",
        ),
    ],
)
def test_broken_input_ends_with_one_line(tmp_path, files, change, message):
    root, found = files
    change(root, found)
    if message is None:
        found, message = None, "has no annotations to draw: give --results"
    with pytest.raises(SystemExit, match=message):
        run(tmp_path, root, found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--videos", "3"], "has no video 3; the first is 1"),
        (["--max-videos", "0"], "--max-videos: must be at least 1, is 0"),
        (["--fps", "0"], "--fps: must be at least 1, is 0"),
    ],
)
def test_broken_settings_end_with_one_line(tmp_path, files, options, message):
    with pytest.raises(SystemExit, match=message):
        run(tmp_path, *files, *options)


def test_real_annotations_can_be_shown(shared_data, tmp_path, monkeypatch):
    folder = shared_data / "davis16_mix/val"
    files = folder / "instances.json", folder / "JPEGImages", tmp_path
    main.main(["show", *map(str, files), "--max-videos", "2"])
    with Image.open(tmp_path / "contact_sheet.png") as picture:
        width = picture.width
    assert width == 6 * (overlay.SHEET_WIDTH + overlay.GAP) + overlay.GAP
