import csv
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from stan_jax.errors import InputError
from stan_jax.masks import codec
from stan_jax.results import exports
from stan_jax.results.frame_lines import LinesWriter, read_lines

HW = (40, 60)
NAMES = ("cat & dog", "犬")


def mask(y, x, size=12):
    pixels = np.zeros(HW, bool)
    pixels[y : y + size, x : x + size] = True
    pixels[y + 2, x + 3] = False
    return pixels


# Track 3 in all frames, track 7 in the first two, over it; track 9 has no pixel.
MASKS = {
    (t, n): m
    for t in range(3)
    for n, m in ((3, mask(5, 5 + 4 * t)), (7, mask(9, 12)))
    if n == 3 or t < 2
}


@pytest.fixture
def lines(tmp_path):
    with LinesWriter(tmp_path / "tracks.jsonl") as writer:
        for t in range(3):
            ids = [n for (s, n) in MASKS if s == t] + [9] * (t == 1)
            rles = [codec.encode(MASKS.get((t, n), np.zeros(HW, bool))) for n in ids]
            labels = np.array([0 if n == 3 else 1 for n in ids])
            writer.add(
                t / 10,
                HW,
                ids=np.array(ids),
                labels=labels,
                names=[NAMES[label] for label in labels],
                scores=np.array([{3: 0.5, 7: 0.9, 9: 0.4}[n] for n in ids], np.float32),
                boxes=np.array([[5 + 4 * t, 5, 17 + 4 * t, 17]] * len(ids), np.float32),
                segmentations=rles,
            )
    return tmp_path / "tracks.jsonl"


def made(lines, name):
    return exports.export(lines, [name])[name]


def test_lines_hold_what_they_were_given(lines):
    got = list(read_lines(lines))
    assert [line["seconds"] for line in got] == [0.0, 0.1, 0.2]
    row = got[2]["tracks"][0]
    assert (row["id"], row["class_id"], row["class"]) == (3, 1, "cat & dog")
    assert (row["score"], row["box"]) == (0.5, [13.0, 5.0, 25.0, 17.0])
    np.testing.assert_array_equal(codec.decode(row["segmentation"]), MASKS[2, 3])


def test_results_are_the_official_file(lines):
    rows = json.loads(made(lines, "results").read_text())
    assert [row["category_id"] for row in rows] == [1, 2]  # the empty track is left out
    assert [row["score"] for row in rows] == pytest.approx([0.5, 0.9])
    assert {row["video_id"] for row in rows} == {1}
    for row, number in zip(rows, (3, 7), strict=True):
        assert len(row["segmentations"]) == 3
        for t, rle in enumerate(row["segmentations"]):
            if (t, number) in MASKS:
                np.testing.assert_array_equal(codec.decode(rle), MASKS[t, number])
            else:
                assert rle is None


def test_csv_has_a_row_for_each_track_and_frame(lines):
    with open(made(lines, "csv"), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert rows[1]["class"] == "犬"
    assert float(rows[0]["area"]) == MASKS[0, 3].sum()
    assert [float(rows[0][k]) for k in ("x1", "y1", "x2", "y2")] == [5, 5, 17, 17]


def test_mot_counts_from_one(lines):
    first = made(lines, "mot").read_text().splitlines()[0].split(",")
    assert [float(x) for x in first] == [1, 4, 6, 6, 12, 12, 0.5, -1, -1, -1]


def test_mots_masks_do_not_overlap_and_the_better_is_on_top(lines):
    by_frame = {}
    for line in made(lines, "mots").read_text().splitlines():
        frame, number, kind, height, width, counts = line.split(" ")
        assert (int(height), int(width)) == HW
        assert int(number) // 1000 == int(kind)
        rle = {"size": list(HW), "counts": counts}
        by_frame.setdefault(int(frame), {})[int(number)] = codec.decode(rle)
    assert sorted(by_frame) == [1, 2, 3]
    for frame, masks in by_frame.items():
        assert sum(m.astype(int) for m in masks.values()).max() == 1
        if frame < 3:
            np.testing.assert_array_equal(masks[2001], MASKS[frame - 1, 7])
            np.testing.assert_array_equal(
                masks[1001], MASKS[frame - 1, 3] & ~MASKS[frame - 1, 7]
            )


def test_mots_cannot_number_a_thousand_tracks(tmp_path):
    with LinesWriter(tmp_path / "tracks.jsonl") as writer:
        for n in range(1001):
            pixels = np.zeros(HW, bool)
            pixels[n // 60, n % 60] = True
            writer.add(
                0.0,
                HW,
                ids=np.array([n]),
                labels=np.array([0]),
                names=["ant"],
                scores=np.ones(1, np.float32),
                boxes=np.zeros((1, 4), np.float32),
                segmentations=[codec.encode(pixels)],
            )
    with pytest.raises(InputError, match="1000 tracks of ant, MOTS fewer"):
        made(tmp_path / "tracks.jsonl", "mots")
    assert not (tmp_path / "mots.txt").exists()


def test_cvat_masks_are_row_by_row_in_their_box(lines):
    root = ElementTree.parse(made(lines, "cvat")).getroot()
    assert root.findtext("version") == "1.1"
    assert root.findtext("meta/task/size") == "3"
    names = [x.text for x in root.findall("meta/task/labels/label/name")]
    assert names == sorted(NAMES)
    seen = set()
    for track in root.findall("track"):
        first, last = track.findall("mask")
        t, group = int(first.get("frame")), int(track.get("group_id"))
        assert (first.get("outside"), last.get("outside")) == ("0", "1")
        assert int(last.get("frame")) == t + 1
        runs = [int(x) for x in (first.get("rle") or "").split(",")]
        left, top, width, height = (
            int(first.get(k)) for k in ("left", "top", "width", "height")
        )
        pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
        whole = np.zeros(HW, bool)
        whole[top : top + height, left : left + width] = pixels
        np.testing.assert_array_equal(whole, MASKS[t, group - 1])
        seen.add((t, group - 1))
    assert seen == set(MASKS)


def test_id_masks_show_the_better_score_on_top(lines):
    folder = made(lines, "masks")
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == [f"{t:06}.png" for t in range(3)]
    for t, file in enumerate(files):
        ids = np.asarray(Image.open(file))
        want = np.where(MASKS[t, 3], 4, 0)
        if t < 2:
            want[MASKS[t, 7]] = 8
        np.testing.assert_array_equal(ids, want)


def test_a_cut_out_is_the_object_on_a_transparent_ground():
    image = np.random.default_rng(0).integers(0, 255, (*HW, 3), np.uint8)
    got = np.asarray(exports.cut_out(image, codec.encode(mask(5, 5))))
    np.testing.assert_array_equal(got[..., :3], image[5:17, 5:17])
    np.testing.assert_array_equal(got[..., 3] > 0, mask(5, 5)[5:17, 5:17])
    assert exports.cut_out(image, codec.encode(np.zeros(HW, bool))) is None
