"""COCO instances as a set of videos of one frame."""

import gzip
import json
from typing import Any

import numpy as np
import pytest

from stan_jax.annotations import coco_images, youtube_vis
from stan_jax.errors import InputError
from stan_jax.loading import sources
from stan_jax.masks import codec
from tests import tiny_sets

CELLS = tiny_sets.box_mask(20, 30, (4, 5, 12, 9))


def coco() -> dict[str, Any]:
    """Two images: a polygon, an RLE of either kind, a crowd, and a speck of nothing."""
    corners = [4, 5, 12, 5, 12, 9, 4, 9]
    rows = [
        {"image_id": 9, "category_id": 44, "segmentation": [corners]},
        {"image_id": 9, "category_id": 7, "segmentation": tiny_sets.runs(CELLS)},
        {"image_id": 5, "category_id": 44, "segmentation": codec.encode(CELLS)},
        {"image_id": 5, "category_id": 44, "segmentation": tiny_sets.runs(CELLS)},
        {"image_id": 5, "category_id": 44, "segmentation": [[1, 1, 1, 1, 1, 1]]},
    ]
    rows = [row | {"id": 100 + i, "iscrowd": int(i == 3)} for i, row in enumerate(rows)]
    sizes = {"height": 20, "width": 30}
    return {
        "info": {"videos": "none"},
        "images": [{"id": i, "file_name": f"{i}.png"} | sizes for i in (9, 5)],
        "annotations": rows,
        "categories": [{"id": 44, "name": "cup"}, {"id": 7, "name": "train"}],
    }


def written(path, root):
    path.write_text(json.dumps(root))
    return path


def test_every_image_is_a_video_of_one_frame(tmp_path):
    dataset = sources.load(written(tmp_path / "c.json", coco()), tmp_path)
    assert dataset.categories == ((7, "train"), (44, "cup"))
    assert dataset.annotated
    assert [(v.id, v.file_names) for v in dataset.videos] == [
        (9, ("9.png",)),
        (5, ("5.png",)),
    ]
    nine, five = dataset.videos
    assert [(t.id, t.label, t.crowd) for t in nine.tracks] == [
        (100, 1, False),
        (101, 0, False),
    ]
    assert [(t.id, t.crowd) for t in five.tracks] == [(102, False), (103, True)]
    for track in (*nine.tracks, *five.tracks):
        (rle,) = track.segmentations
        np.testing.assert_array_equal(youtube_vis.mask(rle, 20, 30), CELLS)
        assert track.boxes.tolist() == [[4, 5, 12, 9]]


def test_order_of_the_lists_and_packing_do_not_matter(tmp_path):
    root = coco()
    turned = {key: root[key] for key in ("categories", "images", "annotations")}
    last = {key: root[key] for key in ("annotations", "categories", "images")}
    want = coco_images.load(written(tmp_path / "c.json", root), tmp_path)
    with gzip.open(tmp_path / "c.json.gz", "wt") as file:
        json.dump(root, file)
    paths = [tmp_path / "c.json.gz", written(tmp_path / "t.json", turned)]
    for path in (*paths, written(tmp_path / "l.json", last)):
        assert coco_images.are_in(path)
        got = coco_images.load(path, tmp_path)
        assert got.categories == want.categories
        for a, b in zip(got.videos, want.videos, strict=True):
            assert a._replace(tracks=()) == b._replace(tracks=())
            assert [t.segmentations for t in a.tracks] == [
                t.segmentations for t in b.tracks
            ]


def test_other_files_are_no_stills(make_folder, tmp_path):
    folder = make_folder()
    assert not coco_images.are_in(folder.path)
    for text in ("", "[]", '{"images', '{"annotations": []}', "nonsense"):
        (tmp_path / "x.json").write_text(text)
        assert not coco_images.are_in(tmp_path / "x.json")
    assert not coco_images.are_in(tmp_path / "absent.json")
    cocovid = {"videos": [{"id": 1}], **coco()}
    with pytest.raises(InputError, match="`stan convert` it first"):
        sources.load(written(tmp_path / "v.json", cocovid), tmp_path)


@pytest.mark.parametrize(
    ("key", "i", "change", "rule"),
    [
        ("annotations", 1, {"image_id": 7}, r"\[1\]: image_id 7 is not among the im"),
        ("annotations", 1, {"category_id": 1}, "category_id 1 is not among the cat"),
        ("annotations", 2, {"id": "7"}, r"annotations\[2\]: 'id' must be a whole"),
        ("annotations", 0, {"track_id": 7}, "has a track_id: the images are frames"),
        ("annotations", 0, {"segmentation": [[1, 2]]}, "segmentation: polygon must ha"),
        ("images", 1, {"id": 9}, r"images\[1\]: id 9 must be that of one image"),
        ("images", 1, {"height": 0}, "height must be a whole number from 1 up, is 0"),
        ("images", 0, {"file_name": None}, "must have 'file_name'"),
        ("images", 0, {"video_id": 1}, "has a video_id: the images are frames of a"),
        ("categories", 0, {"id": 7}, "its id must be used only once"),
        ("categories", 0, {"name": " "}, "name must be a text"),
    ],
)
def test_broken_records_are_named(tmp_path, key, i, change, rule):
    root = coco()
    root[key][i] |= change
    path = written(tmp_path / "c.json", root)
    with pytest.raises(InputError, match=rule) as caught:
        coco_images.load(path, tmp_path)
    assert caught.value.file == str(path)


@pytest.mark.parametrize("key", ["images", "categories"])
@pytest.mark.parametrize("value", [[], {}, [3]])
def test_list_that_is_none_or_empty_is_named(tmp_path, key, value):
    path = written(tmp_path / "c.json", coco() | {key: value})
    with pytest.raises(InputError, match=f"{key}.* must (be|list)"):
        coco_images.load(path, tmp_path)


def test_crowded_stills_are_left_out_and_counted(tmp_path, make_folder):
    dataset = coco_images.load(written(tmp_path / "c.json", coco()), tmp_path)
    kept, number = coco_images.without_crowded(dataset, 1)
    assert [video.id for video in kept.videos] == [5]  # its crowd does not count
    assert number == 1
    assert coco_images.without_crowded(dataset, 2) == (dataset, 0)
    folder = make_folder()
    videos = youtube_vis.load(folder.path, folder.frames)
    assert coco_images.without_crowded(videos, 0) == (videos, 0)
