"""Annotation files with one thing wrong each, and what is to be said of it."""

import copy
import json
import math

HW = 12, 16


def content():
    """Two videos, two classes, three tracks; nothing wrong with it."""

    def track(number, video, category, frames, shift):
        # A box of 7 x 5 pixels: 5 columns, down from row 2 + shift.
        runs = [2 + shift, *[7, 5] * 4, 7, 12 * 11 + 3 - shift]
        return {
            "id": number,
            "video_id": video,
            "category_id": category,
            "iscrowd": 0,
            "segmentations": [{"size": [*HW], "counts": list(runs)}] * (frames - 1)
            + [None],
            "bboxes": [[0, 2 + shift, 5, 7]] * (frames - 1) + [None],
            "areas": [35] * (frames - 1) + [None],
        }

    videos = [
        {
            "id": v,
            "height": HW[0],
            "width": HW[1],
            "length": 3,
            "file_names": [f"v{v}/{t}.png" for t in range(3)],
        }
        for v in (1, 2)
    ]
    tracks = [track(1, 1, 1, 3, 0), track(2, 1, 2, 3, 1), track(3, 2, 1, 3, 0)]
    names = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return copy.deepcopy(
        json.loads(
            json.dumps({"videos": videos, "categories": names, "annotations": tracks})
        )
    )


GONE = object()


def change(*path, value):
    def edit(root):
        *parents, last = path
        for key in parents:
            root = root[key]
        if value is GONE:
            del root[last]
        else:
            root[last] = value(root[last]) if callable(value) else value

    return edit


def a(key, value, i=0):
    return change("annotations", i, key, value=value)


def v(key, value, i=0):
    return change("videos", i, key, value=value)


def c(key, value, i=0):
    return change("categories", i, key, value=value)


def mask(value):
    return change("annotations", 0, "segmentations", 0, value=value)


def rle(counts, size=HW):
    return {"size": list(size), "counts": counts}


def two_at_once(key):
    """A list of another length, in a video that does not say how many frames it has."""

    def edit(root):
        root["videos"][0]["file_names"] = None
        root["annotations"][0][key].append(None)

    return edit


E, W = "error", "warning"
# level, the record that is named, part of the rule, the defect
CORPUS = [
    (E, "", "must have 'videos'", change("videos", value=GONE)),
    (E, "", "must have 'categories'", change("categories", value=GONE)),
    (E, "", "'videos' must be a list, is a dict", change("videos", value={})),
    (E, "", "'categories' must be a list", change("categories", value="all")),
    (E, "", "'annotations' must be a list", change("annotations", value=7)),
    (E, "videos", "at least one video", lambda r: r.update(videos=[], annotations=[])),
    (E, "entry 0 of videos", "must be an object", change("videos", 0, value=3)),
    (E, "entry 0 of videos", "must have 'id'", v("id", GONE)),
    (E, "entry 0 of videos", "'id' must be a whole number", v("id", "1")),
    (E, "entry 0 of videos", "'id' must be a whole number", v("id", 1.0)),
    (E, "entry 0 of videos", "'id' must be a whole number", v("id", True)),
    (E, "entry 0 of videos", "'id' must be a whole number", v("id", None)),
    (E, "video 1", "used only once", v("id", 1, 1)),
    (E, "video 1", "height must be", v("height", GONE)),
    (E, "video 1", "width must be", v("width", GONE)),
    (E, "video 1", "height must be", v("height", 0)),
    (E, "video 1", "width must be", v("width", -16)),
    (E, "video 1", "height must be", v("height", 12.5)),
    (E, "video 1", "width must be", v("width", "16")),
    (E, "video 1", "file_names must be a list, is absent", v("file_names", GONE)),
    (E, "video 1", "file_names must be a list", v("file_names", "a.jpg")),
    (E, "video 1", "at least one frame", v("file_names", [])),
    (
        E,
        "video 1, frame 1",
        "file name must be a text",
        change("videos", 0, "file_names", 1, value=5),
    ),
    (
        E,
        "video 1, frame 1",
        "file name must be a text",
        change("videos", 0, "file_names", 1, value=""),
    ),
    (
        W,
        "video 1, frame 1",
        "stands twice",
        change("videos", 0, "file_names", 1, value="v1/0.png"),
    ),
    (
        W,
        "video 1, frame 1",
        "inside the folder",
        change("videos", 0, "file_names", 1, value="/data/1.png"),
    ),
    (
        W,
        "video 1, frame 1",
        "inside the folder",
        change("videos", 0, "file_names", 1, value="../1.png"),
    ),
    (
        W,
        "file_names",
        "1 of 6 have backslashes",
        change("videos", 0, "file_names", 1, value="v1\\1.png"),
    ),
    (
        W,
        "video 2, frame 1",
        "also a frame of video 1",
        change("videos", 1, "file_names", 1, value="v1/1.png"),
    ),
    (E, "video 1", "length must be that of file_names, 3, is 4", v("length", 4)),
    (E, "video 1", "length must be that of file_names", v("length", "3")),
    (E, "entry 0 of categories", "an object", change("categories", 0, value=[])),
    (E, "entry 0 of categories", "must have 'id'", c("id", GONE)),
    (E, "entry 0 of categories", "'id' must be a whole number", c("id", "1")),
    (E, "category 1", "used only once", c("id", 1, 1)),
    (E, "category 1", "name must be a text", c("name", GONE)),
    (E, "category 1", "name must be a text", c("name", 4)),
    (E, "category 1", "name must be a text", c("name", " ")),
    (W, "category 2", "is used twice", c("name", "cat", 1)),
    (E, "entry 0 of annotations", "an object", change("annotations", 0, value=0)),
    (E, "entry 0 of annotations", "must have 'id'", a("id", GONE)),
    (E, "entry 0 of annotations", "'id' must be a whole number", a("id", "1")),
    (E, "entry 0 of annotations", "'id' must be a whole number", a("id", 1.5)),
    (E, "annotation 1", "used only once", a("id", 1, 1)),
    (W, "annotation 0", "id 0 reads as", a("id", 0)),
    (W, f"annotation {2**60}", "beyond 2^53", a("id", 2**60)),
    (E, "annotation 1", "must have 'video_id'", a("video_id", GONE)),
    (E, "annotation 1", "video_id 9 is not among", a("video_id", 9)),
    (E, "annotation 1", "'video_id' must be a whole", a("video_id", "1")),
    (E, "annotation 1", "must have 'category_id'", a("category_id", GONE)),
    (E, "annotation 1", "category_id 9 is not among", a("category_id", 9)),
    (E, "annotation 1", "'category_id' must be a whole", a("category_id", 1.0)),
    (W, "annotation 1", "iscrowd is absent", a("iscrowd", GONE)),
    (E, "annotation 1", "iscrowd must be 0 or 1", a("iscrowd", 2)),
    (E, "annotation 1", "iscrowd must be 0 or 1", a("iscrowd", "0")),
    (E, "annotation 1", "must have 'segmentations'", a("segmentations", GONE)),
    (E, "annotation 1", "segmentations must be a list", a("segmentations", {})),
    (E, "annotation 1", "segmentations must have 3", a("segmentations", [None])),
    (E, "annotation 1, frame 0", "must be null, an RLE", mask("full")),
    (E, "annotation 1, frame 0", "RLE size must be", mask(rle([192], (16, 12)))),
    (E, "annotation 1, frame 0", "RLE size must be", mask({"counts": [192]})),
    (E, "annotation 1, frame 0", "add up to", mask(rle([2, 7]))),
    (E, "annotation 1, frame 0", "add up to", mask(rle([200, -8]))),
    (E, "annotation 1, frame 0", "text or a list", mask(rle(None))),
    (E, "annotation 1, frame 0", "text or a list", mask(rle([1.5, 190.5]))),
    (E, "annotation 1, frame 0", "cut or foreign", mask(rle("!!"))),
    (E, "annotation 1, frame 0", "cut or foreign", mask(rle(""))),
    (E, "annotation 1, frame 0", "at least 3 points", mask([[1, 1, 5, 5]])),
    (E, "annotation 1, frame 0", "write [[x1, y1, ...]]", mask([1, 1, 5, 5, 3, 3])),
    (E, "annotation 1, frame 0", "two corners of a box?", mask([[1, 1, 5, 5]])),
    (
        W,
        "annotation 1, frame 0",
        "polygon has 9 numbers, the last x has no y",
        mask([[0, 2, 5, 2, 5, 9, 0, 9, 4]]),
    ),
    (
        W,
        "annotation 1, frame 0",
        "1 of 2 polygons have fewer than 3 points",
        mask([[0, 2, 5, 2, 5, 9, 0, 9], [4.0, 4.0]]),
    ),
    (E, "annotation 1, frame 0", "must lie in or near", mask([[0, 0, 9, 0, 9, 999]])),
    (E, "annotation 1", "bboxes must have 3 entries", a("bboxes", [None])),
    (E, "annotation 1", "bboxes must be a list", a("bboxes", "none")),
    (
        E,
        "annotation 1, frame 0",
        "box must be 4 finite",
        change("annotations", 0, "bboxes", 0, value=[0, 2, 5]),
    ),
    (
        E,
        "annotation 1, frame 0",
        "box must be 4 finite",
        change("annotations", 0, "bboxes", 0, value=[0, math.nan, 5, 7]),
    ),
    (
        E,
        "annotation 1, frame 0",
        "negative side",
        change("annotations", 0, "bboxes", 0, value=[5, 9, -5, -7]),
    ),
    (
        W,
        "annotation 1, frame 0",
        "leaves its 12 x 16 frame",
        change("annotations", 0, "bboxes", 0, value=[0, 2, 50, 70]),
    ),
    (
        W,
        "annotation 1, frame 0",
        "is not that of the mask",
        change("annotations", 0, "bboxes", 0, value=[10, 2, 5, 7]),
    ),
    (
        W,
        "annotation 1, frame 0",
        "has a mask and no box",
        change("annotations", 0, "bboxes", 0, value=None),
    ),
    (
        W,
        "annotation 1, frame 2",
        "has a box and no mask",
        change("annotations", 0, "bboxes", 2, value=[0, 2, 5, 7]),
    ),
    (W, "annotation 1", "areas are absent", a("areas", GONE)),
    (E, "annotation 1", "areas must have 3 entries", a("areas", [35])),
    (
        E,
        "annotation 1, frame 0",
        "area must be a number",
        change("annotations", 0, "areas", 0, value=-3),
    ),
    (
        E,
        "annotation 1, frame 0",
        "area must be a number",
        change("annotations", 0, "areas", 0, value=math.inf),
    ),
    (
        W,
        "annotation 1, frame 0",
        "the mask has 35 pixels",
        change("annotations", 0, "areas", 0, value=90),
    ),
    (
        W,
        "annotation 1, frame 2",
        "there is no mask",
        change("annotations", 0, "areas", 2, value=35),
    ),
    (
        W,
        "annotation 1, frame 0",
        "a run inside the mask has length 0",
        mask(lambda m: rle([*m["counts"], 0, 0])),
    ),
    (
        W,
        "annotation 1, frame 2",
        "the mask has no pixel",
        change("annotations", 0, "segmentations", 2, value=rle([192])),
    ),
    (
        W,
        "annotation 1",
        "shows nothing",
        lambda r: r["annotations"][0].update(
            segmentations=[None] * 3, bboxes=[None] * 3, areas=[None] * 3
        ),
    ),
    (
        W,
        "annotation 2",
        "has the masks of another track",
        lambda r: r["annotations"][1].update(
            {k: r["annotations"][0][k] for k in ("segmentations", "bboxes", "areas")}
        ),
    ),
]
CORPUS += [
    (E, "annotation 1", "areas must be a list, is a dict", a("areas", {})),
    (E, "annotation 1", "bboxes must have 3 entries", two_at_once("bboxes")),
    (E, "annotation 1", "areas must have 3 entries", two_at_once("areas")),
]
