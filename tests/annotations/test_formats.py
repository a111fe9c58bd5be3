"""Other formats, there and back: nothing is lost but what is counted."""

import base64
import io
import json
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from stan_jax.annotations import check, youtube_vis
from stan_jax.annotations.formats import (
    coco,
    cvat_xml,
    id_images,
    label_studio,
    labelme,
    mots_text,
    recognise,
    table,
    writers,
)
from stan_jax.annotations.formats.collected import UNITS
from stan_jax.commands import convert, main
from stan_jax.errors import InputError
from stan_jax.masks import codec

HW = 6, 9
CLASSES = ["cat", "dog", "emu"]


def boxed(x, y, w=3, h=3, hw=HW):
    mask = np.zeros(hw, bool)
    mask[y : y + h, x : x + w] = True
    return mask


CELLS = st.tuples(st.integers(0, 7), st.integers(0, 4))
TRACK = st.fixed_dictionaries(
    {
        "cells": st.lists(st.none() | CELLS, min_size=4, max_size=4),
        "category": st.integers(1, len(CLASSES)),
        "crowd": st.integers(0, 5).map(lambda n: int(n == 0)),
    }
)
VIDEO = st.tuples(st.integers(1, 4), st.lists(TRACK, max_size=4))
SETS = st.lists(VIDEO, min_size=1, max_size=3)


def official(drawn):
    """The content of a small official file; masks may overlap, tracks show nothing."""
    videos, rows = [], []
    for number, (length, tracks) in enumerate(drawn, start=1):
        names = [f"v{number}/{t:05}.jpg" for t in range(length)]
        sizes = {"height": HW[0], "width": HW[1], "length": length}
        videos.append({"id": number, "file_names": names, **sizes})
        for track in tracks:
            masks = [c and codec.encode(boxed(*c)) for c in track["cells"][:length]]
            row = {"id": len(rows) + 1, "video_id": number, "segmentations": masks}
            row |= {"category_id": track["category"], "iscrowd": track["crowd"]}
            rows.append(row)
    names = [{"id": n, "name": name} for n, name in enumerate(CLASSES, start=1)]
    return {"videos": videos, "categories": names, "annotations": rows}


def counts(root):
    """What an official file holds, counted here."""
    masks = [[m for m in row["segmentations"] if m] for row in root["annotations"]]
    return Counter(
        videos=len(root["videos"]),
        frames=sum(len(v["file_names"]) for v in root["videos"]),
        tracks=len(masks),
        masks=sum(map(len, masks)),
    )


def tracks(root):
    """Video, class, crowd and masks of every track, in no order."""
    names = {row["id"]: row["name"] for row in root["categories"]}
    place = {video["id"]: n for n, video in enumerate(root["videos"])}
    return sorted(
        (
            place[row["video_id"]],
            names[row["category_id"]],
            row["iscrowd"],
            tuple(m["counts"] if m else "" for m in row["segmentations"]),
        )
        for row in root["annotations"]
        if any(row["segmentations"])
    )


def balanced(read):
    """The official content of what was read, after its balance was checked."""
    root = read.official()
    balance = read.balance
    assert balance.written() == counts(root)
    for unit in UNITS:
        assert balance.read[unit] == balance.written()[unit] + balance.left_out()[unit]
    return root


def files(names):
    return [video["file_names"] for video in names["videos"]]


BACK = {
    "to-cocovid": "cocovid",
    "to-coco": "cocovid",
    "to-mots-txt": "mots-txt",
    "to-pngs": "davis",
    "to-cvat": "cvat",
}


def test_every_target_has_a_way_back_that_is_tried():
    assert set(BACK) == set(table.TARGETS)


@pytest.mark.parametrize("target", BACK)
@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
@hypothesis.given(drawn=SETS)
def test_there_and_back_is_the_same_but_for_what_is_counted(
    tmp_path_factory, target, drawn
):
    root = official(drawn)
    folder = tmp_path_factory.mktemp("set")
    dataset = youtube_vis.of_json(folder / "i.json", root, ".")
    out = folder / "out"
    given = table.TARGETS[target].write(dataset, out)
    assert given.read == counts(root)
    for unit in UNITS:
        assert given.read[unit] == given.written()[unit] + given.left_out()[unit]
    if not given.written()["masks"] and target == "to-mots-txt":
        return  # nothing is there to be read
    source = table.SOURCES[BACK[target]]
    read = source.read(out, **({"classes": CLASSES} if target == "to-mots-txt" else {}))
    back = balanced(read)
    assert read.balance.read["masks"] == given.written()["masks"]
    assert read.balance.read["tracks"] == given.written()["tracks"]
    if target in ("to-cocovid", "to-coco"):
        assert tracks(back) == tracks(root)
        assert files(back) == files(root)
        assert back["categories"] == root["categories"]
    elif target == "to-cvat":
        assert tracks(back) == sorted((v, c, 0, m) for v, c, _, m in tracks(root))
        assert read.balance.read == given.written()
    elif target == "to-pngs":
        assert read.balance.read["frames"] == given.read["frames"]
        # What is seen in front is what the PNGs hold.
        for video, now in zip(dataset.videos, back["videos"], strict=True):
            for t in range(len(video.file_names)):
                front = np.zeros(HW, int)
                for n, track in enumerate(video.tracks, start=1):
                    if (mask := track.segmentations[t]) is not None:
                        front[codec.decode(mask)] = n
                rows = [r for r in back["annotations"] if r["video_id"] == now["id"]]
                shown = [r["segmentations"][t] for r in rows if r["segmentations"][t]]
                assert len(shown) == len(np.unique(front[front > 0]))
                pixels = sum(int(codec.decode(m).sum()) for m in shown)
                assert pixels == (front > 0).sum()
    else:
        assert _plain(tracks(back)) == _plain(tracks(root))


def _plain(found):
    """Class and masks of tracks that are no crowds, from the first mask of a video on.

    Videos are numbered anew: one that shows nothing is not there.
    """
    spans = {}
    for video, _, _, masks in found:
        times = [t for t, mask in enumerate(masks) if mask]
        first, last = spans.get(video, (times[0], times[-1]))
        spans[video] = min(first, times[0]), max(last, times[-1])
    numbers = {video: n for n, video in enumerate(sorted(spans))}
    return sorted(
        (numbers[video], name, masks[spans[video][0] : spans[video][1] + 1])
        for video, name, crowd, masks in found
        if not crowd
    )


def png(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def masks_of(root):
    return [
        [None if m is None else codec.decode(m) for m in row["segmentations"]]
        for row in root["annotations"]
    ]


# ---- PNGs


def test_bitmasks_of_bdd100k_have_class_number_and_flags(tmp_path):
    first, second, ignored = boxed(0, 0), boxed(4, 0), boxed(0, 3)
    pixels = np.zeros((*HW, 4), np.uint8)
    pixels[first] = 3, 0b1100, 1, 2  # a car, truncated and occluded, number 258
    pixels[second] = 1, 0b0010, 0, 2  # a crowd of pedestrians
    pixels[ignored] = 8, 0b0001, 0, 3
    png(tmp_path / "train/b1c6/b1c6-0000001.png", pixels)
    png(tmp_path / "train/b1c6/b1c6-0000002.png", pixels * first[..., None])
    found = recognise.recognise(tmp_path)
    assert found.kind == "bdd100k"
    root = balanced(id_images.bdd100k(found.source))
    assert files(root) == [["b1c6/b1c6-0000001.jpg", "b1c6/b1c6-0000002.jpg"]]
    names = {row["id"]: row["name"] for row in root["categories"]}
    got = [(names[r["category_id"]], r["iscrowd"]) for r in root["annotations"]]
    assert got == [("pedestrian", 1), ("car", 0), ("bicycle", 1)]
    np.testing.assert_equal(
        masks_of(root), [[second, None], [first, first], [ignored, None]]
    )
    png(tmp_path / "train/b1c6/b1c6-0000003.png", pixels[..., :3])
    with pytest.raises(InputError, match="must be RGBA, as the bitmasks of BDD100K"):
        id_images.bdd100k(tmp_path)


def test_a_png_an_object_is_one_video_of_its_objects(tmp_path):
    hidden = np.zeros(HW, np.uint8)
    for video in ("a", "b"):
        for t in range(3):
            one, two = (255 * boxed(x, t).astype(np.uint8) for x in (0, 5))
            png(tmp_path / f"{video}/000/{t:05}.png", one)
            png(tmp_path / f"{video}/001/{t:05}.png", hidden if t == 1 else two)
    found = recognise.recognise(tmp_path)
    assert found.kind == "objects"
    root = balanced(id_images.objects(found.source, classes=["bee"]))
    assert files(root) == [[f"{v}/{t:05}.jpg" for t in range(3)] for v in "ab"]
    assert [row["name"] for row in root["categories"]] == ["bee"]
    want = [[boxed(0, t) for t in range(3)], [boxed(5, 0), None, boxed(5, 2)]]
    np.testing.assert_equal(masks_of(root), want * 2)
    assert recognise.recognise(tmp_path / "a").kind == "objects"
    with pytest.raises(InputError, match="or, where each object .* `stan convert obj"):
        id_images.davis(tmp_path)
    with pytest.raises(InputError, match="holds PNGs itself"):
        id_images.objects(tmp_path / "a/000")


def test_colours_are_objects_by_a_palette_and_others_are_named(tmp_path):
    pixels = np.zeros((*HW, 3), np.uint8)
    pixels[boxed(0, 0)], pixels[boxed(5, 1)] = (200, 0, 10), (0, 7, 255)
    png(tmp_path / "masks/v/0.png", pixels)
    palette = write(tmp_path / "p.txt", "# ours\n0 0 0\n#c8000a dog\n0 7 255 cat\n")
    root = balanced(id_images.colours(tmp_path / "masks", palette))
    assert [row["name"] for row in root["categories"]] == ["dog", "cat"]
    np.testing.assert_equal(masks_of(root), [[boxed(0, 0)], [boxed(5, 1)]])
    labelmap = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ndog:200,0,10::\n"
    cvat = write(tmp_path / "labelmap.txt", labelmap)
    rule = r"9 pixels of #0007ff, a colour that is not in the palette"
    with pytest.raises(InputError, match=rule):
        id_images.colours(tmp_path / "masks", cvat)
    assert recognise.recognise(tmp_path / "masks").kind == "colours"
    with pytest.raises(InputError, match="it is RGB of 3 colours: where each is an ob"):
        id_images.davis(tmp_path / "masks")
    for text, rule in (
        ("dog", "line 1: must be #rrggbb"),
        ("0 0 900", "colours end at 255"),
        ("0 0 0", "at least one colour but black"),
    ):
        with pytest.raises(InputError, match=rule):
            id_images.read_palette(write(tmp_path / "bad.txt", text))


def test_greys_of_three_channels_are_ids(tmp_path):
    ids = boxed(0, 0) * np.uint8(1) + boxed(5, 1) * np.uint8(2)
    png(tmp_path / "v/0.png", np.stack([ids] * 3, -1))
    np.testing.assert_equal(
        masks_of(balanced(id_images.davis(tmp_path))), [[boxed(0, 0)], [boxed(5, 1)]]
    )


# ---- CVAT's XML


def cvat(*tracks, size=4, more=""):
    meta = (
        f"<task><id>1</id><size>{size}</size><mode>interpolation</mode>{more}"
        f"<start_frame>0</start_frame><stop_frame>{size - 1}</stop_frame>"
        "<labels><label><name>cat</name></label><label><name>dog</name></label></labels>"
        "<original_size><width>9</width><height>6</height></original_size></task>"
    )
    return (
        "<annotations><version>1.1</version>"
        f"<meta>{meta}</meta>{''.join(tracks)}</annotations>"
    )


MASK = (
    '<mask frame="{}" outside="{}" occluded="0" keyframe="1" rle="1, 2, 1, 5"'
    ' left="2" top="1" width="3" height="3" z_order="0"></mask>'
)
POLYGON = (
    '<polygon frame="{}" outside="0" keyframe="1" points="1.0,1.0;5.0,1.0;5.0,4.0"/>'
)


def cvat_mask():
    mask = boxed(2, 1)
    mask[1, 2] = mask[2, 2] = False  # runs 1 off, 2 on, 1 off, 5 on, row by row
    return mask


def test_tracks_of_cvat_for_video_are_masks_polygons_and_counted_boxes(tmp_path):
    one = f'<track id="0" label="dog">{MASK.format(1, 0)}{MASK.format(2, 1)}</track>'
    two = f'<track id="1" label="cat">{POLYGON.format(0)}{POLYGON.format(3)}</track>'
    box = '<box frame="0" outside="0" keyframe="1" xtl="1" ytl="1" xbr="4" ybr="4"/>'
    three = f'<track id="2" label="cat">{box}{POLYGON.format(1)}</track>'
    four = '<track id="3" label="cat"><points frame="0" outside="0" points="1,1"/>'
    file = write(tmp_path / "clip.xml", cvat(one, two, three, four + "</track>"))
    assert recognise.recognise(file).kind == "cvat"
    read = cvat_xml.read(file)
    root = balanced(read)
    assert files(root) == [[f"clip/frame_{t:06}.PNG" for t in range(4)]]
    triangle = codec.decode(codec.encode_polygons([[1.0, 1.0, 5.0, 1.0, 5.0, 4.0]], HW))
    want = [
        [None, cvat_mask(), None, None],
        [triangle, None, None, triangle],
        [None, triangle, None, None],
    ]
    np.testing.assert_equal(masks_of(root), want)
    assert [r["category_id"] for r in root["annotations"]] == [2, 1, 1]
    assert read.balance.left_out() == {"masks": 2, "tracks": 1}
    text = "\n".join(read.balance.lines())
    assert "1 masks are boxes alone, e.g. clip.xml, track 2, frame 0" in text
    assert "1 masks are lines, points or cuboids: no area" in text


def test_frames_of_cvat_are_those_of_its_images_and_filter(tmp_path):
    track = f'<track id="0" label="dog">{MASK.format(2, 0)}</track>'
    more = "<frame_filter>step=2</frame_filter>"
    file = write(tmp_path / "task/annotations.xml", cvat(track, more=more))
    assert files(balanced(cvat_xml.read(file))) == [
        ["task/frame_000000.PNG", "task/frame_000002.PNG"]
    ]
    for t in (0, 2):
        png(tmp_path / f"task/images/frame_{t:06}.PNG", np.zeros((*HW, 3), np.uint8))
    root = balanced(cvat_xml.read(tmp_path / "task"))
    assert files(root) == [["images/frame_000000.PNG", "images/frame_000002.PNG"]]
    write(tmp_path / "i.json", root)
    youtube_vis.check_frames(youtube_vis.load(tmp_path / "i.json", tmp_path / "task"))
    (tmp_path / "task/images/frame_000002.PNG").unlink()
    with pytest.raises(InputError, match="frame 2: must be there, as the XML says"):
        cvat_xml.read(file)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("<annotations", "must be a readable XML"),
        ("<dataset/>", "must hold <annotations>, holds <dataset>"),
        ("<!DOCTYPE x><annotations/>", "plain XML, without a document type"),
        (
            cvat()
            .replace("<original_size>", "<x>")
            .replace("</original_size>", "</x>"),
            "must have <original_size>",
        ),
        ("<annotations><image id='0'/></annotations>", "knows no tracks; export the"),
        (
            cvat(f'<track label="dog">{MASK.format(9, 0)}</track>'),
            "not among the frames",
        ),
        (
            cvat(f'<track label="dog">{MASK.format("x", 0)}</track>'),
            "'frame' must be a n",
        ),
        (
            cvat(f'<track label="dog">{MASK.format(1, 0)}</track>').replace(
                "1, 2, 1, 5", "1"
            ),
            "runs must add up to 3 x 3, add up to 1",
        ),
        (
            cvat(f'<track label="dog">{MASK.format(1, 0)}</track>').replace(
                '"2"', '"8"', 1
            ),
            "leaves the frame of 6 x 9",
        ),
    ],
)
def test_broken_xml_of_cvat_is_named(tmp_path, text, rule):
    with pytest.raises(InputError, match=rule):
        cvat_xml.read(write(tmp_path / "a.xml", text))


def test_a_project_of_cvat_is_a_video_for_each_task(tmp_path):
    task = (
        "<task><id>{0}</id><start_frame>0</start_frame><stop_frame>1</stop_frame>"
        "<original_size><width>9</width><height>6</height></original_size></task>"
    )
    tasks = task.format(3) + task.format(5)
    track = f'<track id="0" label="dog" task_id="5">{MASK.format(1, 0)}</track>'
    text = (
        f"<annotations><meta><project><tasks>{tasks}</tasks></project></meta>{track}"
        "</annotations>"
    )
    root = balanced(cvat_xml.read(write(tmp_path / "project.xml", text)))
    assert [names[0] for names in files(root)] == [
        "project/3/frame_000000.PNG",
        "project/5/frame_000000.PNG",
    ]
    assert [r["video_id"] for r in root["annotations"]] == [2]


# ---- labelme


def shape(label, x, y, kind="polygon", group=None, **more):
    points = [[x, y], [x + 3, y], [x + 3, y + 3], [x, y + 3]]
    if kind in ("rectangle", "circle", "mask", "line"):
        points = points[0::2]
    about = {"label": label, "points": points, "group_id": group, "shape_type": kind}
    return about | more


def frame(path, *shapes, name="x.jpg", hw=HW):
    size = {"imageHeight": hw[0], "imageWidth": hw[1]}
    return write(path, {"shapes": list(shapes), "imagePath": name, **size})


def test_shapes_of_labelme_are_tracks_by_group(tmp_path):
    data = io.BytesIO()
    Image.fromarray(np.ones((3, 3), np.uint8)).save(data, "PNG")
    code = base64.b64encode(data.getvalue()).decode()
    frame(
        tmp_path / "v/2.json",
        shape("cat", 0, 0, group=1),
        shape("cat", 5, 0, group=2),
        shape("cat", 5, 3, group=2),  # a second piece
        shape("dog", 0, 3, "rectangle"),
        name="..\\imgs\\2.jpg",
    )
    frame(
        tmp_path / "v/10.json",
        shape("cat", 1, 1, "mask", group=1, mask=code),
        shape("emu", 4, 2),
        shape("emu", 0, 0, "line"),
        name="10.jpg",
    )
    assert recognise.recognise(tmp_path).kind == "labelme"
    read = labelme.read(tmp_path)
    root = balanced(read)
    assert files(root) == [["v/2.jpg", "v/10.jpg"]]
    assert [row["name"] for row in root["categories"]] == ["cat", "emu"]
    want = [
        [boxed(0, 0), boxed(1, 1)],
        [boxed(5, 0) | boxed(5, 3), None],
        [None, boxed(4, 2)],
    ]
    np.testing.assert_equal(masks_of(root), want)
    text = "\n".join(read.balance.lines())
    assert "1 masks are boxes alone, e.g. v/2.json, shapes[3]" in text
    assert "1 masks are lines or points: no area" in text
    assert "3 shapes have no group_id: those of one label are one track" in text


def test_shapes_that_nothing_tells_apart_are_refused(tmp_path):
    frame(tmp_path / "0.json", shape("cat", 0, 0), shape("cat", 5, 0))
    rule = "2 shapes of 'cat' without a group_id: which is which"
    with pytest.raises(InputError, match=rule):
        labelme.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (dict(label=3), r"shapes\[0\]: must have a label"),
        (dict(points=[[1, 2]]), r"shapes\[0\]: points: polygon must have at least 3"),
        (dict(points=3), r"shapes\[0\]: points: "),
        (dict(group_id=[1]), "group_id must be a whole number"),
        (dict(shape_type="mask", mask="?"), r"points: "),
    ],
)
def test_broken_shapes_of_labelme_are_named(tmp_path, change, rule):
    frame(tmp_path / "0.json", shape("cat", 0, 0) | change)
    with pytest.raises(InputError, match=rule):
        labelme.read(tmp_path)


def test_folders_without_labelme_and_frames_of_two_sizes_are_named(tmp_path):
    with pytest.raises(InputError, match="must hold json files of labelme"):
        labelme.read(tmp_path)
    frame(tmp_path / "0.json", shape("cat", 0, 0))
    frame(tmp_path / "1.json", shape("cat", 0, 0), hw=(9, 9))
    with pytest.raises(InputError, match="must have the size of the first frame"):
        labelme.read(tmp_path)
    write(tmp_path / "1.json", {"shapes": [], "imagePath": None})
    with pytest.raises(InputError, match="imagePath: must be the name of the image"):
        labelme.read(tmp_path)


# ---- Label Studio


def brush(mask):
    """Label Studio's code of a mask: here one block for each run of RGBA values."""
    values = np.repeat(255 * mask.ravel().astype(int), 4)
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{n - 1:04b}" for n in (3, 4, 8, 16))
    start = 0
    while start < len(values):
        end = start + 1
        while end < len(values) and values[end] == values[start]:
            end += 1
        length = end - start - 1
        kind = next(k for k, n in enumerate((3, 4, 8, 16)) if length < 2**n)
        bits += f"1{kind:02b}{length:0{(3, 4, 8, 16)[kind]}b}{values[start]:08b}"
        start = end
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def region(label, mask=None, number="r", **more):
    value = {"format": "rle", "brushlabels": [label]}
    value["rle"] = brush(boxed(0, 0) if mask is None else mask)
    about = {"id": number, "type": "brushlabels", "value": value}
    return about | {"original_width": 9, "original_height": 6} | more


def task(image, *rows, **more):
    return {"data": {"image": image}, "annotations": [{"result": list(rows)} | more]}


@hypothesis.given(st.integers(0, 2**54 - 1))
def test_brush_masks_are_decoded(number):
    bits = np.array([number >> i & 1 for i in range(54)], bool).reshape(HW)
    data = np.array(brush(bits), np.uint8)
    pixels = label_studio.decode_brush(data, HW)
    np.testing.assert_array_equal(pixels, np.repeat(bits[..., None], 4, -1) * 255)


def test_literal_blocks_of_brush_masks_are_decoded():
    bits = f"{8:032b}{7:05b}{0:04b}{2:04b}{2:04b}{2:04b}"
    bits += "0" + "01" + "011" + "".join(f"{v:08b}" for v in (1, 2, 3, 4))
    bits += "1" + "01" + "011" + f"{9:08b}"
    bits += "0" * (-len(bits) % 8)
    data = np.array([int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)], np.uint8)
    pixels = label_studio.decode_brush(data, (1, 2))
    assert pixels.tolist() == [[[1, 2, 3, 4], [9, 9, 9, 9]]]
    with pytest.raises(ValueError, match="ends too early"):
        label_studio.decode_brush(data[:-3], (1, 2))
    with pytest.raises(ValueError, match="must hold 2 x 2 x 4 values, holds 8"):
        label_studio.decode_brush(data, (2, 2))


def test_images_of_label_studio_are_a_video_a_folder(tmp_path):
    polygon = region("dog", number="p") | {"type": "polygonlabels"}
    points = [[100 * x / 9, 100 * y / 6] for x, y in ((1, 1), (5, 1), (5, 4))]
    polygon["value"] = {"points": points, "polygonlabels": ["dog"]}
    rectangle = region("cat", number="b") | {
        "type": "rectanglelabels",
        "value": {"x": 1},
    }
    choice = {"type": "choices", "value": {"choices": ["x"]}}
    tasks = [
        task("/data/upload/1/9d0c3b2a-f10.jpg", region("cat", boxed(1, 1)), polygon),
        task("/data/upload/1/0a0c3b2a-f2.jpg", region("cat"), rectangle, choice),
    ]
    skipped = {"was_cancelled": True, "result": [region("emu")]}
    second = {"result": [region("emu")]}
    tasks[0]["annotations"] = [skipped, *tasks[0]["annotations"], second]
    file = write(tmp_path / "export.json", tasks)
    assert recognise.recognise(file).kind == "label-studio"
    read = label_studio.read(file)
    root = balanced(read)
    assert files(root) == [["1/0a0c3b2a-f2.jpg", "1/9d0c3b2a-f10.jpg"]]
    triangle = codec.decode(codec.encode_polygons([[1.0, 1.0, 5.0, 1.0, 5.0, 4.0]], HW))
    want = [[boxed(0, 0), boxed(1, 1)], [None, triangle]]
    np.testing.assert_equal(masks_of(root), want)
    text = "\n".join(read.balance.lines())
    for line in (
        "1 masks are boxes alone",
        "1 masks are of type 'choices': no masks",
        "1 masks are of a second annotation of the same task, e.g. task 0",
        "3 regions have no relation or meta text: those of one label are one track",
    ):
        assert line in text


def test_regions_of_a_list_of_images_are_tied_by_relations_and_texts(tmp_path):
    rows = [
        region("cat", boxed(0, 0), "a", item_index=0),
        region("cat", boxed(1, 0), "b", item_index=1),
        region("cat", boxed(5, 0), "c", item_index=0, meta={"text": ["tom"]}),
        region("cat", boxed(5, 2), "d", item_index=1, meta={"text": ["tom"]}),
        {"type": "relation", "from_id": "a", "to_id": "b"},
    ]
    one = task(["s3://x/v/0.png", "s3://x/v/1.png"], *rows)
    root = balanced(label_studio.read(write(tmp_path / "e.json", [one])))
    assert files(root) == [["v/0.png", "v/1.png"]]
    want = [[boxed(0, 0), boxed(1, 0)], [boxed(5, 0), boxed(5, 2)]]
    np.testing.assert_equal(masks_of(root), want)
    del rows[-1], rows[2]["meta"]
    one = task(["s3://x/v/0.png", "s3://x/v/1.png"], *rows)
    with pytest.raises(InputError, match="2 regions of 'cat' that nothing tells apart"):
        label_studio.read(write(tmp_path / "e.json", [one]))


@pytest.mark.parametrize(
    ("tasks", "rule"),
    [
        ({}, "must hold a list of tasks"),
        ([{"image": "x.jpg", "tag": []}], "export as JSON, not as JSON-MIN"),
        ([task("no name", region("cat"))], "data must name an image"),
        (
            [task("v/a.jpg", region("cat", image_rotation=90))],
            "image_rotation must be 0",
        ),
        ([task("v/a.jpg", region("cat", item_index=4))], "item_index must be from 0"),
        (
            [task("v/a.jpg", region("cat", original_width=None))],
            "original_height and original_width must",
        ),
        (
            [
                task(
                    "v/a.jpg",
                    region("cat") | {"value": {"format": "x", "brushlabels": ["cat"]}},
                )
            ],
            "format must be",
        ),
        (
            [
                task("v/a.jpg", region("a")),
                task("v/b.jpg", region("a", original_width=8)),
            ],
            "frames of a video must have one size",
        ),
    ],
)
def test_broken_exports_of_label_studio_are_named(tmp_path, tasks, rule):
    with pytest.raises(InputError, match=rule):
        label_studio.read(write(tmp_path / "e.json", tasks))


def test_labels_cancelled_annotations_and_predictions_are_not_lost_in_silence(tmp_path):
    file = tmp_path / "e.json"
    two = region("cat")
    two["value"]["brushlabels"] = ["cat", "dog"]
    with pytest.raises(InputError, match=r"must have one label, has \['cat', 'dog'\]"):
        label_studio.read(write(file, [task("v/a.jpg", two)]))
    one = task("v/a.jpg", region("cat"))
    one["annotations"].append({"was_cancelled": True, "result": [region("cat")]})
    one["predictions"] = [{"result": [region("cat")] * 2}]
    read = label_studio.read(write(file, [one]))
    balanced(read)
    text = "\n".join(read.balance.lines())
    assert "1 masks are of an annotation that was cancelled" in text
    assert "2 masks are predictions, which nobody has accepted" in text


def test_endings_in_capitals_are_read_and_hidden_folders_passed_over(tmp_path):
    track = f'<track id="0" label="dog">{MASK.format(1, 0)}</track>'
    for name in ("c/a/annotations.xml", "c/b/Annotations.XML", "c/.t/annotations.xml"):
        write(tmp_path / name, cvat(track))
    write(tmp_path / "c/b10/annotations.xml", cvat(track))
    write(tmp_path / "c/b2/annotations.xml", cvat(track))
    folders = [
        names[0].split("/")[0]
        for names in files(cvat_xml.read(tmp_path / "c").official())
    ]
    assert folders == ["a", "Annotations", "b2", "b10"]
    for t, name in enumerate(("0.json", "1.JSON", ".x/2.json")):
        frame(tmp_path / "l" / name, shape("cat", 0, 0), name=f"{t}.jpg")
    write(tmp_path / "l/classes.json", ["cat"])
    read = labelme.read(tmp_path / "l")
    assert files(balanced(read)) == [["0.jpg", "1.jpg"]]
    text = "note: 1 json are no files of labelme: passed over, e.g. classes.json"
    assert text in read.balance.lines()
    rle = codec.encode(boxed(0, 0))["counts"]
    for name in ("0001.TXT", "0002.txt"):
        write(tmp_path / "m" / name, f"0 1001 1 6 9 {rle}\n")
    assert len(balanced(mots_text.read(tmp_path / "m"))["videos"]) == 2
    assert recognise.recognise(tmp_path / "c").kind == "cvat"


def test_backslashes_neither_reorder_nor_part_the_frames(tmp_path):
    root = cocovid()
    size = {"height": 6, "width": 9}
    names = "v\\1.jpg", "v/2.jpg"
    root["images"] = [{"id": n, "file_name": x, **size} for n, x in enumerate(names)]
    root["annotations"][0] |= {"image_id": 0, "track_id": 1}
    made = balanced(coco.read_tracks(root))
    assert files(made) == [["v/1.jpg", "v/2.jpg"]]
    tasks = [
        task(f"/data/local-files/?d={x}", region("cat"))
        for x in ("v%5C10.jpg", "v/9.jpg")
    ]
    made = balanced(label_studio.read(write(tmp_path / "e.json", tasks)))
    assert files(made) == [["v/9.jpg", "v/10.jpg"]]


def test_images_of_labelme_lie_where_it_says_and_those_without_json_are_told(tmp_path):
    for t in range(3):
        png(tmp_path / f"images/v/{t}.png", np.zeros((*HW, 3), np.uint8))
    for t in (0, 2):
        name = f"../../images/v/{t}.png"
        frame(tmp_path / f"labels/v/{t}.json", shape("cat", 0, 0), name=name)
    read = labelme.read(tmp_path)
    assert files(balanced(read)) == [["images/v/0.png", "images/v/2.png"]]
    frame(tmp_path / "images/v/0.json", shape("cat", 0, 0), name="0.png")
    text = "\n".join(labelme.read(tmp_path / "images").balance.lines())
    assert "2 images have no json: they are no frames, e.g. v/1.png" in text


def test_loose_points_of_coco_are_told():
    root = cocovid()
    good = [0, 0, 4, 0, 4, 4]
    root["annotations"][0] |= {"segmentation": [good, [5, 5]], "track_id": 1}
    text = "\n".join(coco.read_tracks(root).balance.lines())
    assert (
        "1 masks have loose points, which are passed over, e.g. annotations[0]" in text
    )


def test_folders_of_objects_may_have_numbers_with_holes(tmp_path):
    for name in ("1", "3"):
        for t in range(2):
            png(tmp_path / f"v/{name}/{t}.png", 255 * boxed(0, 0).astype(np.uint8))
            png(tmp_path / f"w/{name}x/{t}.png", 255 * boxed(0, 0).astype(np.uint8))
    assert recognise.recognise(tmp_path / "v").kind == "objects"
    found = recognise.recognise(tmp_path / "w")
    assert found.kind == "davis"
    assert "where a folder is an object: stan convert objects" in found.why


def test_frames_of_one_name_are_told(tmp_path):
    for t in range(2):
        frame(tmp_path / f"{t}.json", shape("cat", 0, 0), name="same.jpg")
    lines = labelme.read(tmp_path).balance.lines()
    assert "note: 1 frames share their name with another, e.g. same.jpg" in lines


# ---- recognised


def cocovid(**change):
    images = [{"id": 1, "file_name": "a/0.jpg", "height": 6, "width": 9}]
    mask = codec.encode(boxed(0, 0))
    row = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": mask}
    names = [{"id": 1, "name": "cat"}]
    return dict(images=images, annotations=[row], categories=names) | change


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (cocovid(videos=[]), "cocovid"),
        (cocovid(annotations=[{"attributes": {"track_id": 3}}]), "cocovid"),
        (cocovid(), "coco"),
    ],
)
def test_json_by_image_is_recognised(tmp_path, content, kind):
    assert recognise.recognise(write(tmp_path / "x.json", content)).kind == kind


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ({"videos": [{"file_names": []}]}, "is the official format already"),
        ([{"segmentations": []}], "is a results file: stan score and submit read it"),
        ([{"bbox": []}], "is a results file of COCO, of images"),
        ({"a": 1}, "is no format that is known: it has a"),
        ([3], "is a list of no format that is known"),
        (3, "must hold an object or a list"),
    ],
)
def test_what_is_no_source_is_named(tmp_path, content, rule):
    with pytest.raises(InputError, match=rule):
        recognise.recognise(write(tmp_path / "x.json", content))


def test_folders_are_recognised_by_what_lies_in_them(tmp_path):
    ids = boxed(0, 0) * np.uint8(1) + boxed(5, 1) * np.uint8(2)
    png(tmp_path / "davis/v/0.png", ids)
    png(tmp_path / "mots/v/0.png", ids.astype(np.uint16) * 1001)
    write(tmp_path / "text/v.txt", "0 1001 1 6 9 abc\n")
    write(tmp_path / "roboflow/train/_annotations.coco.json", cocovid())
    write(tmp_path / "vos/meta.json", {"videos": {"v": {"objects": {}}}})
    png(tmp_path / "vos/Annotations/v/0.png", ids)
    for name, kind in (
        ("davis", "davis"),
        ("davis/v/0.png", "davis"),
        ("mots", "mots"),
        ("text", "mots-txt"),
        ("roboflow", "coco"),
        ("vos/meta.json", "davis"),
    ):
        assert recognise.recognise(tmp_path / name).kind == kind
    write(tmp_path / "roboflow/valid/_annotations.coco.json", cocovid())
    with pytest.raises(InputError, match="in train, valid: name one of these folders"):
        recognise.recognise(tmp_path / "roboflow")
    with pytest.raises(InputError, match="must be a file or a folder, is absent"):
        recognise.recognise(tmp_path / "none")
    with pytest.raises(InputError, match="is a text, but not of MOTS"):
        recognise.recognise(write(tmp_path / "a.txt", "hello"))


# ---- the command


def test_the_command_names_every_format():
    assert convert.SOURCES == [*table.SOURCES]
    assert convert.TARGETS == [*table.TARGETS]


def test_auto_says_what_it_is_and_converts_it(tmp_path, capsys):
    ids = boxed(0, 0) * np.uint8(1) + boxed(5, 1) * np.uint8(2)
    png(tmp_path / "masks/v/0.png", ids)
    out = tmp_path / "o.json"
    main.main(["convert", "auto", str(tmp_path / "masks"), str(out)])
    said = capsys.readouterr().out
    assert "masks: PNGs of ids up to 2: stan convert davis" in said
    assert "written  1 videos, 1 frames, 2 tracks, 2 masks" in said
    assert check.check(out).findings == []


def test_a_source_of_which_nothing_is_left_is_an_error(tmp_path):
    box = '<box frame="0" outside="0" keyframe="1" xtl="1" ytl="1" xbr="4" ybr="4"/>'
    text = cvat(f'<track id="0" label="dog">{box}</track>')
    file, out = write(tmp_path / "a.xml", text), tmp_path / "o.json"
    with pytest.raises(SystemExit, match="none of 1 masks is left: they are boxes alo"):
        main.main(["convert", "cvat", str(file), str(out)])
    assert not out.exists()


def test_results_go_the_way_back_with_the_videos_of_the_truth(tmp_path, capsys):
    masks = [codec.encode(boxed(1, 1)), None]
    video = {"id": 1, "file_names": ["v/0.jpg", "v/1.jpg"], "height": 6, "width": 9}
    names = [{"id": 1, "name": "cat"}]
    truth = write(tmp_path / "i.json", {"videos": [video], "categories": names})
    row = {"video_id": 1, "category_id": 1, "score": 0.5, "segmentations": masks}
    results = write(tmp_path / "r.json", [row])
    line = ["convert", "to-cocovid", str(truth), str(tmp_path / "o.json")]
    with pytest.raises(SystemExit, match="has no annotations: nothing to write; --res"):
        main.main(line)
    main.main([*line, f"--results={results}"])
    assert "note: 1 scores are not in it" in capsys.readouterr().out
    root = balanced(table.SOURCES["cocovid"].read(tmp_path / "o.json"))
    np.testing.assert_equal(masks_of(root), [[boxed(1, 1), None]])
    with pytest.raises(SystemExit, match="--results: means nothing to convert davis"):
        main.main(["convert", "davis", str(tmp_path), "o.json", f"--results={results}"])
    write(results, [row | {"video_id": 7}])
    with pytest.raises(SystemExit, match="video_id 7 is not among the videos"):
        main.main([*line, f"--results={results}"])


def test_clips_of_a_failed_run_are_removed(tmp_path, monkeypatch):
    Image.new("RGB", (9, 6)).save(tmp_path / "0.png")
    root = cocovid()
    root["images"][0]["file_name"] = "0.png"
    source = write(tmp_path / "c.json", root)
    (tmp_path / "frames/mine").mkdir(parents=True)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stan_jax.media.glide.warp_mask", fail)
    with pytest.raises(SystemExit, match="No space left"):
        main.main(
            ["convert", "coco", str(source), str(tmp_path / "o.json")]
            + [f"--frames={tmp_path / 'frames'}"]
        )
    assert [path.name for path in (tmp_path / "frames").iterdir()] == ["mine"]


@pytest.mark.parametrize("target", table.TARGETS)
@pytest.mark.parametrize("there", [False, True])
def test_a_way_back_that_fails_leaves_nothing(tmp_path, monkeypatch, target, there):
    root = official([(2, [{"cells": [(0, 0)] * 4, "category": 1, "crowd": 0}])] * 2)
    write(tmp_path / "i.json", root)
    out = tmp_path / "out"
    if there:
        write(out / "mine.txt", "mine")
    before = sorted(tmp_path.rglob("*"))

    def fail(dataset, out):
        folder = Path(out) / "v1"
        if target not in table.FILES:
            folder.mkdir(parents=True)
        write(folder / "0.png" if target not in table.FILES else Path(out), "half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(table.TARGETS, target, table.Writer("", fail))
    place = out if target not in table.FILES else tmp_path / "o.json"
    with pytest.raises(SystemExit, match="No space left"):
        main.main(["convert", target, str(tmp_path / "i.json"), str(place)])
    assert sorted(tmp_path.rglob("*")) == before


def painted_in(drawn):
    """Return what stands in each frame of each video: track, class and mask."""
    return [
        [
            [
                (n, t["category"], boxed(*t["cells"][f]))
                for n, t in rows
                if t["cells"][f]
            ]
            for f in range(length)
        ]
        for length, tracks in drawn
        for rows in [list(enumerate(tracks, start=1))]
    ]


def to_labelme(drawn, out):
    for v, frames in enumerate(painted_in(drawn)):
        for t, rows in enumerate(frames):
            shapes = []
            for n, c, mask in rows:
                y, x = (int(k) for k in np.argwhere(mask)[0])
                y2, x2 = (int(k) + 1 for k in np.argwhere(mask)[-1])
                points = [[x, y], [x2, y], [x2, y2], [x, y2]]
                row = {"label": CLASSES[c - 1], "points": points, "group_id": n}
                shapes.append(row | {"shape_type": "polygon"})
            frame(out / f"v{v}/{t}.json", *shapes, name=f"{t}.jpg")
    return labelme.read(out)


def to_label_studio(drawn, out):
    tasks = []
    for v, frames in enumerate(painted_in(drawn)):
        for t, rows in enumerate(frames):
            found = [
                region(CLASSES[c - 1], mask, f"{n}.{t}", meta={"text": [str(n)]})
                for n, c, mask in rows
            ]
            tasks.append(task(f"/set/v{v}/{t}.jpg", *found))
    return label_studio.read(write(out / "export.json", tasks))


def to_objects(drawn, out):
    for v, frames in enumerate(painted_in(drawn)):
        png(
            out / f"v{v}/0/0.png", np.zeros(HW, np.uint8)
        )  # it is a video, empty or not
        for t, rows in enumerate(frames):
            for n, _, mask in rows:
                png(out / f"v{v}/{n}/{t}.png", 255 * mask.astype(np.uint8))
    return id_images.objects(out)


def painted(drawn, of, channels):
    for v, frames in enumerate(painted_in(drawn)):
        for t, rows in enumerate(frames):
            pixels = np.zeros((*HW, channels), np.uint16 if channels == 1 else np.uint8)
            for n, c, mask in rows:
                pixels[mask] = of(n, c)
            yield f"v{v}/{t}.png", pixels[..., 0] if channels == 1 else pixels


def to_mots(drawn, out):
    for name, pixels in painted(drawn, lambda n, c: 1000 * c + n, 1):
        png(out / name, pixels)
    return id_images.mots(out)


def to_bdd100k(drawn, out):
    for name, pixels in painted(drawn, lambda n, c: (c, 0, 0, n), 4):
        png(out / name, pixels)
    return id_images.bdd100k(out)


def to_colours(drawn, out):
    for name, pixels in painted(drawn, lambda n, c: (40 * n, 9, 60 * c), 3):
        png(out / "masks" / name, pixels)
    lines = [
        f"{40 * n} 9 {60 * c} {CLASSES[c - 1]}" for n in range(1, 5) for c in (1, 2, 3)
    ]
    return id_images.colours(out / "masks", write(out / "p.txt", "\n".join(lines)))


def to_stills(drawn, out):
    images, rows = [], []
    for v, frames in enumerate(painted_in(drawn)):
        for t, shown in enumerate(frames):
            image = {"id": len(images) + 1, "file_name": f"{v}-{t}.jpg"}
            images.append(image | {"height": HW[0], "width": HW[1]})
            for _, c, mask in shown:
                row = {"id": len(rows) + 1, "image_id": image["id"], "category_id": c}
                rows.append(row | {"segmentation": codec.encode(mask)})
    names = [{"id": n, "name": name} for n, name in enumerate(CLASSES, start=1)]
    return coco.read_stills(
        {"images": images, "annotations": rows, "categories": names}
    )


WHOLE = {"labelme": to_labelme, "label-studio": to_label_studio, "objects": to_objects}
WHOLE |= {"coco": to_stills}  # no mask is in front of another
PAINTED = {"mots": to_mots, "bdd100k": to_bdd100k, "colours": to_colours}


def test_every_source_is_balanced_on_random_sets():
    assert {*WHOLE, *PAINTED, *BACK.values()} == {*table.SOURCES, "coco"}


@pytest.mark.parametrize("source", [*WHOLE, *PAINTED])
@hypothesis.settings(max_examples=30, deadline=None, derandomize=True)
@hypothesis.given(drawn=SETS)
def test_what_is_read_is_written_or_counted(tmp_path_factory, source, drawn):
    for _, tracks in drawn:
        for track in tracks:
            track["crowd"] = 0
    found = (WHOLE | PAINTED)[source](drawn, tmp_path_factory.mktemp("set"))
    root = balanced(found)
    shown = [
        [(mask, n) for n, _, mask in rows]
        for frames in painted_in(drawn)
        for rows in frames
    ]
    if source in PAINTED:  # what lies in front
        for rows in shown:
            for k, (mask, n) in enumerate(rows):
                for other, _ in rows[k + 1 :]:
                    mask = mask & ~other
                rows[k] = mask, n
    areas = sorted(int(mask.sum()) for rows in shown for mask, _ in rows if mask.any())
    given = [m for row in root["annotations"] for m in row["segmentations"] if m]
    if found.balance.left_out()["masks"] == 0:
        assert sorted(map(codec.area, given)) == areas


def test_coco_without_videos_needs_folders_that_tell_them(tmp_path):
    def written(**change):
        video = {"id": 1, "file_names": ["v/0.jpg", "v/1.jpg"], "height": 6, "width": 9}
        masks = [codec.encode(boxed(1, 1)), None]
        row = {"id": 1, "video_id": 1, "category_id": 1, "segmentations": masks}
        root = dict(videos=[video | change], annotations=[row])
        root["categories"] = [{"id": 1, "name": "cat"}]
        if not change:
            root["videos"].append(video | {"id": 2})
        dataset = youtube_vis.of_json(Path("i.json"), root, ".")
        return writers.coco(dataset, tmp_path / "o.json", videos=False)

    for change, rule in (
        ({}, "folder v has another video"),
        ({"file_names": ["v/1.jpg", "v/0.jpg"]}, "in the order of their names"),
        ({"file_names": ["v/1.jpg", "w/2.jpg"]}, "frames must lie in one folder"),
    ):
        with pytest.raises(InputError, match=rule + ".*to-cocovid"):
            written(**change)


def test_cvats_xml_closes_a_track_where_it_ends(tmp_path):
    masks = [codec.encode(boxed(1, 1)), None, codec.encode(boxed(2, 1))]
    names = [f"v/{t}.jpg" for t in range(3)]
    video = {"id": 1, "file_names": names, "height": 6, "width": 9}
    row = {"id": 1, "video_id": 1, "category_id": 1, "segmentations": masks}
    root = {"videos": [video], "annotations": [row]}
    root["categories"] = [{"id": 1, "name": "cat"}]
    dataset = youtube_vis.of_json(tmp_path / "i.json", root, ".")
    cvat_xml.write(dataset, tmp_path)
    shapes = ElementTree.parse(tmp_path / "v.xml").findall("track/mask")
    assert [(s.get("frame"), s.get("outside")) for s in shapes] == [
        ("0", "0"),
        ("1", "1"),
        ("2", "0"),
    ]
    with pytest.raises(InputError, match="must not be there already"):
        cvat_xml.write(dataset, tmp_path)


def test_mots_text_counts_what_it_cannot_hold(tmp_path):
    masks = [None, codec.encode(boxed(1, 1)), None]
    names = [f"v/{t}.jpg" for t in range(3)]
    video = {"id": 1, "file_names": names, "height": 6, "width": 9}
    row = {"id": 1, "video_id": 1, "category_id": 1, "segmentations": masks}
    rows = [row, row | {"id": 2, "iscrowd": 1}]
    root = {"videos": [video, video | {"id": 2}], "annotations": rows}
    root["categories"] = [{"id": 1, "name": "cat"}]
    balance = writers.mots_text(youtube_vis.of_json(Path("i"), root, "."), tmp_path)
    assert balance.left_out() == {"frames": 5, "videos": 1}
    assert "1 crowds have lost their class" in "\n".join(balance.lines())
    back = balanced(mots_text.read(tmp_path, classes=["cat"]))
    assert [r["iscrowd"] for r in back["annotations"]] == [0, 1]


def test_pngs_tell_what_they_cannot_hold(tmp_path):
    masks = [codec.encode(boxed(1, 1))] * 2
    size = {"height": 6, "width": 9}
    videos = [
        {"id": 1, "file_names": ["a/b/10.jpg", "a/b/9.jpg"], **size},
        {"id": 2, "file_names": ["c/0.jpg", "c/1.jpg"], **size},
    ]
    row = {"id": 1, "video_id": 1, "category_id": 1, "segmentations": masks}
    root = {"videos": videos, "annotations": [row | {"iscrowd": 1}]}
    root["categories"] = [{"id": 1, "name": "cat"}]
    dataset = youtube_vis.of_json(Path("i"), root, ".")
    lines = writers.id_images(dataset, tmp_path).lines()
    assert [line for line in lines if line.startswith("note")] == [
        "note: 1 videos have numbers for frames: names do not give their order, e.g."
        " video 1",
        "note: 1 videos have the name of their folder in another form, e.g. a/b is a-b",
        "note: 1 crowds are objects like others in it",
    ]


def test_frames_of_no_listed_video_are_counted():
    root = cocovid(videos=[{"id": 1}])
    one = root["images"][0] | {"video_id": 1, "frame_id": 0}
    root["images"] = [one, one | {"id": 2, "video_id": 9}]
    root["annotations"][0]["track_id"] = 1
    read = coco.read_tracks(root)
    balanced(read)
    assert read.balance.left_out() == {"frames": 1}
