"""The tensorflow-datasets builder: what is prepared reads back as the json would."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stan_jax.annotations import youtube_vis
from stan_jax.errors import InputError
from stan_jax.shapes import generate

tfds_youtube_vis = pytest.importorskip("stan_jax.loading.tfds_youtube_vis")

HW = (48, 80)
SIZES: dict[str, Any] = dict(height=HW[0], width=HW[1])


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, youtube_vis.Dataset]:
    """The shapes, and a file with all that is odd: see `_odd`."""
    folder = tmp_path_factory.mktemp("json")
    generate.generate(
        folder / "a", seed=5, train_videos=3, val_videos=2, frames=4, **SIZES
    )
    _odd(folder / "a/val/instances.json")
    (folder / "a/test").symlink_to(folder / "a/val")
    plain = json.loads((folder / "a/val/instances.json").read_text())
    del plain["annotations"]
    (folder / "a/val/plain.json").write_text(json.dumps(plain))
    names = dict(train="instances", val="instances", test="plain")
    return {
        split: youtube_vis.load(
            folder / "a" / split / f"{name}.json", folder / "a" / split / "JPEGImages"
        )
        for split, name in names.items()
    }


def _odd(path: Path) -> None:
    """Ids with gaps, a crowd, a polygon, a track never seen, a video of no track."""
    content = json.loads(path.read_text())
    for category in content["categories"]:
        category["id"] *= 7
    content["videos"] = [v | dict(id=v["id"] * 100) for v in content["videos"][::-1]]
    content["videos"][1]["file_names"].pop()
    content["videos"][1]["length"] = 3
    polygon = [[3, 3, 30, 3, 30, 20, 3, 20]]
    row = dict(id=900, video_id=200, category_id=21, iscrowd=1)
    content["annotations"] = [
        row | dict(segmentations=[None, polygon, None, polygon], iscrowd=1),
        row | dict(id=7, segmentations=[None] * 4, iscrowd=0),
    ]
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def prepared(sources, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tfds")
    tfds_youtube_vis.prepare(folder, sources)
    return folder


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_load_gives_what_the_json_reader_gives(sources, prepared, split):
    want, got = sources[split], tfds_youtube_vis.load(prepared, split)
    assert got.categories == want.categories
    assert got.annotated == want.annotated == (split != "test")
    assert len(got.videos) == len(want.videos) > 0
    for a, b in zip(got.videos, want.videos, strict=True):
        assert a._replace(tracks=()) == b._replace(tracks=())
        for p, q in zip(a.tracks, b.tracks, strict=True):
            assert p._replace(boxes=0) == q._replace(boxes=0)
            np.testing.assert_array_equal(p.boxes, q.boxes)
            assert p.boxes.dtype == q.boxes.dtype


def test_the_odd_split_is_odd(sources):
    first, second = sources["val"].videos
    assert (first.id, second.id) == (200, 100)
    crowd, unseen = first.tracks
    assert crowd.crowd
    assert [s is None for s in crowd.segmentations] == [True, False, True, False]
    assert set(unseen.segmentations) == {None}
    assert (len(second.tracks), len(second.file_names)) == (0, 3)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_read_frame_gives_what_the_json_reader_gives(sources, prepared, split):
    stored = tfds_youtube_vis.load(prepared, split)
    for video in reversed(stored.videos):
        for t, name in reversed(list(enumerate(video.file_names))):
            path = sources[split].frames_dir / name
            assert stored.stored(video, t) == path.read_bytes()
            for max_hw in (None, (24, 40)):
                want = youtube_vis.read_frame(sources[split], video, t, max_hw=max_hw)
                got = youtube_vis.read_frame(stored, video, t, max_hw=max_hw)
                np.testing.assert_array_equal(got, want)


def test_prepare_leaves_the_same_sets_alone_and_refuses_others(sources, prepared):
    files = [p for p in prepared.rglob("*") if p.is_file()]
    times = [p.stat().st_mtime_ns for p in files]
    assert tfds_youtube_vis.prepare(prepared, sources) in files[0].parents
    assert times == [p.stat().st_mtime_ns for p in files]
    with pytest.raises(InputError, match="other sets"):
        tfds_youtube_vis.prepare(prepared, {"train": sources["val"]})


def test_load_names_what_is_missing(prepared, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        tfds_youtube_vis.load(tmp_path, "train")
    with pytest.raises(InputError, match=r"'dev' must be one of.*train"):
        tfds_youtube_vis.load(prepared, "dev")


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (lambda path: path.unlink(), "must exist"),
        (lambda path: Image.open(path).save(path, "PNG"), "must be a JPEG"),
    ],
)
def test_prepare_writes_nothing_for_a_bad_frame(tmp_path, spoil, rule):
    generate.generate(
        tmp_path / "in", seed=5, train_videos=1, val_videos=1, frames=3, **SIZES
    )
    folder = tmp_path / "in/train"
    spoil(folder / "JPEGImages/train_0000/00001.jpg")
    dataset = youtube_vis.load(folder / "instances.json", folder / "JPEGImages")
    with pytest.raises(InputError, match=rf"00001.jpg: video 1, frame 1: .*{rule}"):
        tfds_youtube_vis.prepare(tmp_path / "out", {"train": dataset})
    assert not (tmp_path / "out").exists()


def test_prepare_and_load_do_not_import_tensorflow(sources, tmp_path):
    paths = [str(p) for p in (sources["val"].path, sources["val"].frames_dir, tmp_path)]
    code = """
import sys
from stan_jax.loading import tfds_youtube_vis
from stan_jax.annotations import youtube_vis
annotations, frames, out = sys.argv[1:]
tfds_youtube_vis.prepare(out, {"val": youtube_vis.load(annotations, frames)})
stored = tfds_youtube_vis.load(out, "val")
print(youtube_vis.read_frame(stored, stored.videos[1], 2).shape)
print("tensorflow" in sys.modules)
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, *paths],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("(48, 80, 3)\nFalse\n")
