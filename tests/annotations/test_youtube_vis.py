"""The official json in all its forms, and one clear error for each broken one."""

import gzip
import io
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pycocotools import mask as coco_mask

from stan_jax.annotations import youtube_vis
from stan_jax.errors import InputError
from stan_jax.masks import codec, segmentations
from tests.tiny_sets import box_mask, colour, runs

MASKS = arrays.arrays(
    bool, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.booleans()
)


def test_load_orders_labels_by_category_id(make_folder):
    folder = make_folder()
    dataset = youtube_vis.load(folder.path, folder.frames)
    assert dataset.categories == ((3, "dog"), (7, "cat"))
    assert [v.id for v in dataset.videos] == [10, 15]
    assert [v.name for v in dataset.videos] == ["v0", "v1"]
    assert [v.tracks[0].label for v in dataset.videos] == [0, 1]
    assert dataset.annotated
    assert (dataset.videos[0].height, dataset.videos[0].width) == (24, 40)


def test_load_computes_boxes_from_masks_not_from_the_file(make_folder):
    folder = make_folder()
    row = folder.content["annotations"][0]
    row["bboxes"] = [None, [0, 0, 1, 1], None]
    row["segmentations"][2] = None
    folder.write()
    track = youtube_vis.load(folder.path, folder.frames).videos[0].tracks[0]
    want = [[0, 4, 8, 14], [1, 4, 9, 14], [0, 0, 0, 0]]
    np.testing.assert_array_equal(track.boxes, want)
    assert track.segmentations[2] is None


def test_load_reads_gzip_as_plain(make_folder):
    folder = make_folder()
    zipped = folder.path.with_name("instances.json.gz")
    zipped.write_bytes(gzip.compress(folder.path.read_bytes()))
    plain, same = (youtube_vis.load(p, folder.frames) for p in (folder.path, zipped))
    assert same.path == zipped
    assert len(same.videos) == len(plain.videos)
    for a, b in zip(plain.videos, same.videos, strict=True):
        assert a.tracks[0].segmentations == b.tracks[0].segmentations


def test_load_reads_names_in_any_script(make_folder):
    folder = make_folder()
    folder.content["categories"][0]["name"] = "Bär 熊"
    text = "\ufeff" + json.dumps(folder.content, ensure_ascii=False)
    folder.path.write_text(text, encoding="utf-8")
    assert youtube_vis.load(folder.path, folder.frames).categories[1].name == "Bär 熊"


def test_load_without_annotations_is_not_an_error(make_folder):
    folder = make_folder()
    del folder.content["annotations"]
    folder.write()
    dataset = youtube_vis.load(folder.path, folder.frames)
    assert not dataset.annotated
    assert [v.tracks for v in dataset.videos] == [(), ()]
    folder.content["annotations"] = []
    folder.write()
    assert youtube_vis.load(folder.path, folder.frames).annotated


def test_load_keeps_crowds_marked(make_folder):
    folder = make_folder()
    folder.content["annotations"][1]["iscrowd"] = 1
    folder.write()
    dataset = youtube_vis.load(folder.path, folder.frames)
    assert [v.tracks[0].crowd for v in dataset.videos] == [False, True]


def test_mask_is_the_same_from_all_forms(make_folder):
    folder = make_folder()
    want = box_mask(24, 40, (5, 4, 13, 14))
    row = folder.content["annotations"][0]
    packed = coco_mask.encode(np.asfortranarray(want.astype(np.uint8)))
    row["segmentations"] = [
        runs(want),
        {"size": packed["size"], "counts": packed["counts"].decode()},
        [[5, 4, 13, 4, 13, 14, 5, 14]],
    ]
    folder.write()
    track = youtube_vis.load(folder.path, folder.frames).videos[0].tracks[0]
    for found in track.segmentations:
        assert found is not None
        np.testing.assert_array_equal(youtube_vis.mask(found, 24, 40), want)


@pytest.mark.parametrize("loose", [[[4.0, 4.0]], [[1, 1, 9, 9], [3, 3]], None])
def test_loose_ends_of_polygons_are_passed_over(loose):
    whole = [2, 2, 12, 2, 12, 9, 2, 9]
    given = [[*whole, 5]] if loose is None else [whole, *loose]
    assert segmentations.compress(given, 24, 40) == segmentations.compress(
        [whole], 24, 40
    )
    assert segmentations.loose_ends(given)
    assert not segmentations.loose_ends([whole])


def test_mask_joins_the_polygons_of_one_object():
    two = [[1, 1, 4, 1, 4, 4, 1, 4], [6, 2, 8, 2, 8, 9, 6, 9]]
    joined = segmentations.compress(two, 10, 10)
    assert joined is not None
    found = youtube_vis.mask(joined, 10, 10)
    want = box_mask(10, 10, (1, 1, 4, 4)) | box_mask(10, 10, (6, 2, 8, 9))
    np.testing.assert_array_equal(found, want)


@settings(deadline=None)
@given(mask=MASKS)
def test_compress_keeps_every_pixel_of_both_rle_forms(mask):
    plain = segmentations.compress(runs(mask), *mask.shape)
    if plain is None:
        assert not mask.any()
        return
    np.testing.assert_array_equal(youtube_vis.mask(plain, *mask.shape), mask)
    text = {"size": list(mask.shape), "counts": plain["counts"]}
    assert segmentations.compress(text, *mask.shape) == plain


@settings(deadline=None)
@given(mask=MASKS, cut=st.integers(0, 80), data=st.data())
def test_tight_boxes_equal_loops_even_with_empty_runs(mask, cut, data):
    rle = runs(mask)
    at = data.draw(st.integers(0, len(rle["counts"])))
    # Two empty runs, or a run cut in two by one, leave the mask as it was.
    if at < len(rle["counts"]):
        cut = min(cut, rle["counts"][at])
        rle["counts"][at : at + 1] = [cut, 0, rle["counts"][at] - cut]
    found = codec.tight_boxes([segmentations.compress(rle, *mask.shape), None])
    want = np.zeros((2, 4))
    if mask.any():
        seen = [(x, y) for y, x in np.ndindex(mask.shape) if mask[y, x]]
        xs, ys = [x for x, _ in seen], [y for _, y in seen]
        want[0] = min(xs), min(ys), max(xs) + 1, max(ys) + 1
    np.testing.assert_array_equal(found, want)


@given(counts=st.lists(st.integers(0, 2**20), min_size=1, max_size=12))
def test_compress_reads_long_runs_from_text(counts):
    counts = [*counts, 1, 5]
    if len(counts) % 2:
        counts = [3, *counts]
    size = [1, sum(counts)]
    packed = coco_mask.frPyObjects({"size": size, "counts": counts}, *size)
    runs_found = codec.decode_runs(packed["counts"].decode())
    assert runs_found.tolist() == counts


@pytest.mark.parametrize(
    "empty", [None, [], {"size": [24, 40], "counts": [960]}, [[1, 1, 1, 1, 1, 1]]]
)
def test_empty_segmentation_counts_as_absent(make_folder, empty):
    folder = make_folder()
    folder.content["annotations"][0]["segmentations"][1] = empty
    folder.write()
    track = youtube_vis.load(folder.path, folder.frames).videos[0].tracks[0]
    assert [s is None for s in track.segmentations] == [False, True, False]


def _set(where: str, key: str, value: object, row: int = 0):
    def change(content: dict) -> None:
        content[where][row][key] = value

    return change


def _segmentation(value: object):
    def change(content: dict) -> None:
        content["annotations"][1]["segmentations"][1] = value

    return change


def _rle(counts: object, size: tuple = (24, 40)) -> dict:
    return {"size": list(size), "counts": counts}


BAD = {
    "no videos key": (lambda c: c.pop("videos"), "", "must have 'videos'"),
    "no categories": (lambda c: c.pop("categories"), "", "must have 'categories'"),
    "empty split": (lambda c: c["videos"].clear(), "videos", "at least one video"),
    "video without frames": (
        _set("videos", "file_names", []),
        "video 10",
        "at least one frame",
    ),
    "length": (_set("videos", "length", 4), "video 10", "length must be .* 3, is 4"),
    "video twice": (_set("videos", "id", 10, 1), "video 10", "only once"),
    "category twice": (_set("categories", "id", 3), "category 3", "only once"),
    "annotation twice": (_set("annotations", "id", 101), "annotation 101", "only once"),
    "flat video": (
        _set("videos", "height", 0),
        "video 10",
        "height must be .* 1 up, is 0",
    ),
    "odd id": (
        _set("videos", "id", "x"),
        "entry 0 of videos",
        "must be a whole number, is 'x'",
    ),
    "no width": (
        lambda c: c["videos"][1].pop("width"),
        "video 15",
        "width must be .*, is absent",
    ),
    "no name": (
        lambda c: c["categories"][0].pop("name"),
        "category 7",
        "name must be a text, is absent",
    ),
    "name is number": (
        _set("videos", "file_names", [1, 2, 3]),
        "video 10, frame 0",
        "a text, is 1",
    ),
    "list of lists": (lambda c: c["videos"].append([]), "entry 2 of videos", "object"),
    "category": (
        _set("annotations", "category_id", 4),
        "annotation 100",
        "category_id 4 is not among",
    ),
    "video": (
        _set("annotations", "video_id", 4),
        "annotation 100",
        "video_id 4 is not among",
    ),
    "crowd": (
        _set("annotations", "iscrowd", "no"),
        "annotation 100",
        "0 or 1, is 'no'",
    ),
    "masks": (
        _set("annotations", "segmentations", [None]),
        "annotation 100",
        "segmentations must have 3 entries, one a frame, has 1",
    ),
    "boxes": (
        _set("annotations", "bboxes", [None] * 4),
        "annotation 100",
        "bboxes .*4",
    ),
    "areas": (_set("annotations", "areas", []), "annotation 100", "areas .* has 0"),
    "sum of list": (_segmentation(_rle([950, 9])), "frame 1", "960, add up to 959"),
    "sum of text": (_segmentation(_rle("R\\2")), "frame 1", "= 960, add up to"),
    "negative run": (
        _segmentation(_rle([960, -10, 10])),
        "frame 1",
        "not be negative",
    ),
    "huge runs": (
        _segmentation(_rle([2**63 - 1, 2**63 - 1, 962])),
        "frame 1",
        "960, add up to 18446744073709552576",
    ),
    "cut text": (_segmentation(_rle("Rn")), "frame 1", "cut or foreign"),
    "foreign text": (_segmentation(_rle("12é")), "frame 1", "cut or foreign"),
    "no text": (_segmentation(_rle("")), "frame 1", "cut or foreign"),
    "long text": (_segmentation(_rle("o" * 9 + "0")), "frame 1", "above 2"),
    "fractions": (_segmentation(_rle([959.5, 0.5])), "frame 1", "whole numbers"),
    "nested runs": (_segmentation(_rle([[900], 60])), "frame 1", "whole numbers"),
    "empty runs": (_segmentation(_rle([])), "frame 1", "whole numbers"),
    "no counts": (_segmentation({"size": [24, 40]}), "frame 1", "whole numbers"),
    "size": (
        _segmentation(_rle([960], (40, 24))),
        "annotation 101, frame 1",
        re.escape("[24, 40], is [40, 24]"),
    ),
    "two points": (
        _segmentation([[1, 1, 5, 5]]),
        "annotation 101, frame 1",
        "at least 3 points, has 2",
    ),
    "flat polygon": (_segmentation([1, 1, 5, 5, 3, 3]), "frame 1", "write ..x1, y1"),
    "endless polygon": (_segmentation([[1, 1, 5, np.nan, 3, 3]]), "frame 1", "near"),
    "vast polygon": (_segmentation([[1, 1, 10**400, 5, 3, 3]]), "frame 1", "near"),
    "far polygon": (_segmentation([[1, 1, 1e12, 5, 3, 3]]), "frame 1", "in or near"),
    "text": (_segmentation("mask"), "frame 1", "null, an RLE or a list of"),
}


@pytest.mark.parametrize("case", BAD)
def test_load_names_file_record_and_rule(make_folder, case):
    change, record, rule = BAD[case]
    folder = make_folder()
    change(folder.content)
    folder.write()
    with pytest.raises(InputError) as caught:
        youtube_vis.load(folder.path, folder.frames)
    assert caught.value.file == str(folder.path)
    assert record in caught.value.record
    assert re.search(rule, caught.value.rule), caught.value.rule


def test_load_says_where_json_breaks(make_folder):
    folder = make_folder()
    folder.path.write_text('{"videos": [],\n "categories" [],\n}')
    with pytest.raises(InputError, match="line 2, column 15: must be json"):
        youtube_vis.load(folder.path, folder.frames)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00", b"[1]", b"null", b"\x80{}", b"[" * 9**6, b"9" * 9999],
)
def test_load_rejects_what_is_no_json_object(make_folder, content):
    folder = make_folder()
    folder.path.write_bytes(content)
    with pytest.raises(InputError, match=r"instances\.json: "):
        youtube_vis.load(folder.path, folder.frames)


def test_load_rejects_missing_file_folder_and_torn_gzip(make_folder):
    folder = make_folder()
    torn = folder.path.with_name("torn.json.gz")
    torn.write_bytes(gzip.compress(folder.path.read_bytes())[:-20])
    for path in (torn, folder.frames, folder.path.with_name("none.json")):
        with pytest.raises(InputError, match="must be a readable json file") as caught:
            youtube_vis.load(path, folder.frames)
        assert caught.value.file == str(path)


def _jpeg(height: int, width: int, mode: str = "RGB", **how) -> bytes:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, how.pop("format", "JPEG"), **how)
    return file.getvalue()


BAD_FRAMES = {
    "missing": (None, "must exist"),
    "empty": (b"", "must not be an empty file"),
    "text": (b"not found", "must be a whole image"),
    "cut": (_jpeg(24, 40)[:-300], "must be a whole image"),
    "cut png": (_jpeg(24, 40, format="PNG")[:-300], "must be a whole image"),
    "size": (_jpeg(40, 24), r"must be 24 x 40 .* is 40 x 24"),
}


@pytest.mark.parametrize("case", BAD_FRAMES)
def test_check_frames_names_the_frame_and_the_rule(make_folder, case):
    content, rule = BAD_FRAMES[case]
    folder = make_folder()
    path = folder.frames / "v0" / "00001.jpg"
    path.write_bytes(content) if content is not None else path.unlink()
    (folder.frames / "v1" / "00000.jpg").unlink()  # later, hence not the one named
    dataset = youtube_vis.load(folder.path, folder.frames)
    for check in (
        lambda: youtube_vis.check_frames(dataset),
        lambda: youtube_vis.read_frame(dataset, dataset.videos[0], 1),
    ):
        with pytest.raises(InputError, match=rule) as caught:
            check()
        assert caught.value.file == str(path)
        assert caught.value.record == "video 10, frame 1"


@pytest.mark.parametrize(
    "content",
    [
        _jpeg(24, 40) + b"\0" * 30,
        _jpeg(24, 40, "L"),
        _jpeg(24, 40, "CMYK"),
        _jpeg(24, 40, "RGBA", format="PNG"),
        _jpeg(24, 40, "P", format="PNG"),
        _jpeg(24, 40, format="BMP"),
    ],
)
def test_read_frame_gives_rgb_of_any_good_image(make_folder, content):
    folder = make_folder()
    (folder.frames / "v0" / "00001.jpg").write_bytes(content)
    dataset = youtube_vis.load(folder.path, folder.frames)
    youtube_vis.check_frames(dataset)
    frame = youtube_vis.read_frame(dataset, dataset.videos[0], 1)
    want = Image.open(io.BytesIO(content)).convert("RGB")
    np.testing.assert_array_equal(frame, np.asarray(want))


def _turned(tag: int, *, height=24, width=40) -> tuple[bytes, np.ndarray]:
    """A JPEG that EXIF turns, and how it then looks: red strip left, blue on top."""
    pixels = np.full((height, width, 3), 90, np.uint8)
    pixels[:8], pixels[8:, :8] = (0, 0, 255), (255, 0, 0)
    back = {  # what a camera held so has stored
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x),
        7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
        8: lambda x: np.rot90(x, -1),
    }
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = tag
    stored = Image.fromarray(np.ascontiguousarray(back[tag](pixels)))
    stored.save(file, "JPEG", exif=exif, quality=95, subsampling=0)
    return file.getvalue(), pixels


@pytest.mark.parametrize("tag", range(1, 9))
def test_read_frame_turns_every_orientation_upright(make_folder, tag):
    folder = make_folder()
    content, want = _turned(tag)
    (folder.frames / "v0" / "00001.jpg").write_bytes(content)
    dataset = youtube_vis.load(folder.path, folder.frames)
    youtube_vis.check_frames(dataset)
    frame = youtube_vis.read_frame(dataset, dataset.videos[0], 1)
    assert np.abs(frame.astype(int) - want).mean() < 4
    assert youtube_vis.orientation(dataset, dataset.videos[0], 1) == tag


@pytest.mark.parametrize("tag", [3, 6])
def test_read_frame_takes_frames_as_stored_where_it_is_told_to(make_folder, tag):
    sides = dict(height=40, width=24) if tag == 6 else {}
    content, upright = _turned(tag, **sides)
    folder = make_folder()
    (folder.frames / "v0" / "00001.jpg").write_bytes(content)
    dataset = youtube_vis.load(folder.path, folder.frames, upright=False)
    youtube_vis.check_frames(dataset)
    frame = youtube_vis.read_frame(dataset, dataset.videos[0], 1)
    want = np.rot90(upright) if tag == 6 else upright[::-1, ::-1]
    assert np.abs(frame.astype(int) - want).mean() < 4
    if tag == 6:
        cure = "EXIF orientation 6 .*fit it as stored, say --as-stored, .*data.upright"
        with pytest.raises(InputError, match=cure):
            youtube_vis.check_frames(dataset._replace(upright=True))
    else:
        content, _ = _turned(6)
        (folder.frames / "v0" / "00001.jpg").write_bytes(content)
        with pytest.raises(InputError, match="as upright, say it without --as-stored"):
            youtube_vis.check_frames(dataset)


def test_a_turned_jpeg_is_decoded_small_but_never_below_max_hw(make_folder):
    folder = make_folder(videos=((96, 160, 1),))
    content, want = _turned(6, height=96, width=160)
    (folder.frames / "v0/00000.jpg").write_bytes(content)
    dataset = youtube_vis.load(folder.path, folder.frames)
    frame = youtube_vis.read_frame(dataset, dataset.videos[0], 0, max_hw=(40, 70))
    assert frame.shape == (48, 80, 3)
    assert np.abs(frame.astype(int) - want[::2, ::2]).mean() < 8


def _deep(kind: str) -> bytes:
    ramp = np.linspace(0, 1, 24 * 40).reshape(24, 40)
    image = {
        "16 bits": lambda: Image.fromarray((ramp * 65535).astype(np.uint16)),
        "floats": lambda: Image.fromarray(ramp.astype(np.float32)),
        "32 bits": lambda: Image.fromarray((ramp * 1e6).astype(np.int32)),
        "clear palette": lambda: Image.fromarray((ramp * 255).astype(np.uint8)),
    }[kind]()
    file, more = io.BytesIO(), {}
    if kind == "clear palette":
        image, more = image.convert("P"), dict(transparency=bytes(range(256)))
    image.save(file, "TIFF" if kind in ("floats", "32 bits") else "PNG", **more)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["16 bits", "clear palette", "floats", "32 bits"])
@pytest.mark.filterwarnings("error")
def test_read_frame_gives_8_bits_of_other_pixels_or_names_them(make_folder, kind):
    folder = make_folder()
    (folder.frames / "v0" / "00001.jpg").write_bytes(_deep(kind))
    dataset = youtube_vis.load(folder.path, folder.frames)
    read = lambda: youtube_vis.read_frame(dataset, dataset.videos[0], 1)  # noqa: E731
    if kind in ("floats", "32 bits"):
        with pytest.raises(
            InputError, match=f"{kind}.*without a scale: write it with 8"
        ):
            read()
        return
    want = np.linspace(0, 255, 24 * 40).reshape(24, 40, 1)
    assert np.abs(read() - want).max() <= 1


def test_check_frames_names_a_missing_folder(make_folder):
    folder = make_folder()
    dataset = youtube_vis.load(folder.path, folder.frames / "none")
    with pytest.raises(InputError, match="none: folder of the frames must exist"):
        youtube_vis.check_frames(dataset)


def test_read_frame_is_the_frame_asked_for(make_folder):
    folder = make_folder()
    dataset = youtube_vis.load(folder.path, folder.frames)
    for v, video in enumerate(dataset.videos):
        for t in range(len(video.file_names)):
            frame = youtube_vis.read_frame(dataset, video, t).astype(int)
            assert np.abs(frame - colour(v, t)).max() <= 3


@pytest.mark.parametrize(
    ("max_hw", "want_hw"),
    [((24, 40), (48, 80)), ((12, 20), (24, 40)), (None, (96, 160))],
)
def test_read_frame_decodes_small_but_never_below_max_hw(make_folder, max_hw, want_hw):
    folder = make_folder(videos=((96, 160, 1),))
    ramp = np.linspace(0, 255, 160, dtype=np.uint8)[None, :, None]
    Image.fromarray(np.tile(ramp, (96, 1, 3))).save(folder.frames / "v0/00000.jpg")
    dataset = youtube_vis.load(folder.path, folder.frames)
    frame = youtube_vis.read_frame(dataset, dataset.videos[0], 0, max_hw=max_hw)
    if max_hw is not None:
        assert frame.shape[0] >= max_hw[0]
        assert frame.shape[1] >= max_hw[1]
        assert frame.shape[1] < 2 * max_hw[1]
    assert np.abs(frame[0, -1].astype(int) - 255).max() < 8
    assert np.abs(frame[0, 0].astype(int)).max() < 8


def test_davis_loads_as_its_readme_says(shared_data):
    folder = shared_data / "davis16_vis/train"
    dataset = youtube_vis.load(folder / "instances.json", folder / "JPEGImages")
    tracks = [track for video in dataset.videos for track in video.tracks]
    assert len(dataset.videos) == 24
    assert sum(len(v.file_names) for v in dataset.videos) == 565
    assert sum(s is not None for t in tracks for s in t.segmentations) == 634
    names = [dataset.categories[t.label].name for t in tracks]
    counted = {name: names.count(name) for name in sorted(set(names))}
    want = {"animal": 5, "bird": 2, "car": 3, "person": 15, "two_wheeler": 3}
    assert counted == want
    youtube_vis.check_frames(dataset)
    rows = json.loads((folder / "instances.json").read_text())["annotations"]
    boxes = {row["id"]: row["bboxes"] for row in rows}
    for track in tracks:
        for found, told in zip(track.boxes, boxes[track.id], strict=True):
            x, y, w, h = told or (0, 0, 0, 0)
            np.testing.assert_array_equal(found, [x, y, x + w, y + h])
