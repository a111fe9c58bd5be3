import copy
import json
import math

import numpy as np
import pytest
from PIL import Image

from stan_jax.annotations import check, youtube_vis
from stan_jax.commands import main
from stan_jax.errors import InputError, kind_of

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
    (W, "entry 0 of annotations", "beyond 2^53", a("id", 2**60)),
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
    (E, "annotation 1", "bboxes must have 3 entries", two_at_once("bboxes")),
    (E, "annotation 1", "areas must have 3 entries", two_at_once("areas")),
]
# What an error hides or brings with it: a record that is gone leaves others alone.
FOLLOWS = ("is not among the", "length must be", "file_names must be")


def findings(tmp_path, root, **options):
    path = tmp_path / "instances.json"
    path.write_text(root if isinstance(root, str) else json.dumps(root))
    return check.check(path, **options)


def test_corpus_is_large_and_its_base_is_sound(tmp_path):
    assert len(CORPUS) >= 60
    assert findings(tmp_path, content()).findings == []


@pytest.mark.parametrize("number", range(len(CORPUS)))
def test_every_defect_is_found_and_named(tmp_path, number):
    level, record, rule, edit = CORPUS[number]
    root = content()
    edit(root)
    report = findings(tmp_path, root)
    named = [f for f in report.findings if rule in f.rule]
    assert named, report.findings
    assert (named[0].level, named[0].record) == (level, record)
    assert named[0].file.endswith("instances.json")
    assert named[0].advice
    for other in report.findings:
        assert other in named or any(text in other.rule for text in FOLLOWS), other
    assert bool(report.errors) == (level == E)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "must hold an object"),
        ("[]", "must hold an object"),
        ("{", "is not valid json"),
        ('{"videos": [{"id": 1,}]}', "is not valid json"),
        (json.dumps(content())[:-40], "is not valid json"),
        ('{"videos": []} x', "must end where its object ends"),
    ],
)
def test_broken_json_is_one_finding(tmp_path, text, rule):
    (finding,) = findings(tmp_path, text).findings
    assert finding.level == E
    assert rule in finding.rule


def test_all_defects_are_found_in_one_pass(tmp_path):
    root = content()
    root["annotations"][0]["category_id"] = 9
    root["annotations"][1]["segmentations"][0]["counts"] = [5]
    root["videos"][1]["length"] = 8
    assert findings(tmp_path, root).errors == 3


def test_order_of_the_lists_does_not_matter(tmp_path):
    root = content()
    root["annotations"][1]["category_id"] = 9
    turned = dict(reversed(root.items()))
    one, two = findings(tmp_path, root), findings(tmp_path, turned)
    assert one == two
    assert one.errors == 1


def test_summary_counts_what_the_set_holds(tmp_path):
    summary = findings(tmp_path, content()).summary
    assert {k: summary[k] for k in ("videos", "frames", "tracks", "masks")} == {
        "videos": 2,
        "frames": 6,
        "tracks": 3,
        "masks": 6,
    }
    assert summary["categories"]["cat"] == {"tracks": 2, "masks": 4}
    assert summary["sizes"] == {"12x16": 2}
    assert summary["tracks with gaps"] == 0
    root = content()
    for key in ("segmentations", "bboxes", "areas"):
        values = root["annotations"][0][key]
        values[1], values[2] = None, values[0]
    assert findings(tmp_path, root).summary["tracks with gaps"] == 1


def test_frames_are_opened_on_request(tmp_path):
    root = content()
    frames = tmp_path / "frames"
    for video in root["videos"]:
        for name in video["file_names"]:
            (frames / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((*HW, 3), np.uint8)).save(frames / name)
    opened = {"frames": frames, "open_images": True}
    assert findings(tmp_path, root, **opened).findings == []
    (frames / "v1/0.png").unlink()
    (frames / "v1/1.png").write_bytes(b"")
    (frames / "v1/2.png").write_text("no image")
    whole = (frames / "v2/0.png").read_bytes()
    (frames / "v2/0.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(frames / "v2/1.png")
    rules = [f.rule for f in findings(tmp_path, root, **opened).findings]
    wanted = ["must exist", "empty file", "whole image", "whole image", "is 5 x 6"]
    assert len(rules) == len(wanted)
    assert all(w in rule for w, rule in zip(wanted, rules, strict=True)), rules
    # Not opened they must only be there.
    rules = [f.rule for f in findings(tmp_path, root, frames=frames).findings]
    assert rules == ["file must exist", "must not be an empty file"]
    (finding,) = findings(tmp_path, root, frames=tmp_path / "none").findings
    assert "folder of the frames must exist" in finding.rule


def test_real_files_pass(shared_data):
    paths = sorted(shared_data.glob("*/*/instances*.json"))
    paths.append(shared_data / "format_samples" / "mmtracking_vis_ann.json")
    assert len(paths) > 6
    for path in paths:
        report = check.check(path)
        assert report.errors == 0, (path, report.findings[:3])


def test_command_says_it_all_and_ends_with_a_status(tmp_path, capsys):
    root = content()
    root["annotations"][0]["category_id"] = 9
    (tmp_path / "i.json").write_text(json.dumps(root))
    out = tmp_path / "found.json"
    with pytest.raises(SystemExit) as ended:
        main.main(["check", str(tmp_path / "i.json"), "--json", str(out)])
    assert ended.value.code == 1
    printed = capsys.readouterr().out
    assert "annotation 1: category_id 9 is not among the categories; correct" in printed
    assert "1 errors, 0 warnings" in printed
    assert json.loads(out.read_text())["findings"][0]["level"] == "error"
    (tmp_path / "i.json").write_text(json.dumps(content()))
    with pytest.raises(SystemExit) as ended:
        main.main(["check", str(tmp_path / "i.json")])
    assert not ended.value.code


def test_many_findings_of_one_kind_are_told_once(tmp_path):
    root = content()
    for row in root["annotations"]:
        del row["areas"]
    root["annotations"] += [dict(root["annotations"][2], id=i) for i in (9, 10)]
    report = findings(tmp_path, root)
    text = check.text(report)
    assert text.count("warning: ") == check.SHOWN + 1 + 2  # the rest, doubled tracks
    assert "warning: 2 more of this kind (--all), as" in text
    assert check.text(report, everything=True).count("areas are absent") == 5
    assert text.count("areas are absent") == check.SHOWN + 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("'v1/00001.jpg' must be a path", "'v2/3.jpg' must be a path"),
        ("area is 12.5, the mask has 9 pixels", "area is 3, the mask has 100 pixels"),
        (
            "box [1, 2.5, 3, 4] leaves its 24 x 40 frame",
            "box [-1, 0, 9] leaves its 3 x 1 frame",
        ),
    ],
)
def test_findings_of_one_kind_differ_in_their_values_alone(one, other):
    assert kind_of(one) == kind_of(other)
    assert kind_of(one) != kind_of("areas are absent")


def test_backslashes_and_falling_numbers_are_told_once(tmp_path, make_folder):
    folder = make_folder(videos=((24, 40, 12), (24, 40, 3)))
    for video in folder.content["videos"]:
        names = sorted(str(t) for t in range(len(video["file_names"])))
        folder_name = video["file_names"][0].split("/")[0]
        video["file_names"] = [f"{folder_name}\\{name}.jpg" for name in names]
    for path in sorted(folder.frames.rglob("*.jpg")):
        path.rename(path.with_name(f"{int(path.stem)}.jpg"))
    folder.write()
    report = check.check(folder.path, folder.frames, open_images=True)
    found = [str(f) for f in report.findings if "slashes" in f.rule or "fall" in f.rule]
    assert len(found) == 2
    assert "numbers of the frames fall from 11 to 2" in found[0]
    assert r"15 of 15 have backslashes, e.g. v0\0.jpg: they are read as" in found[1]
    assert not report.errors
    dataset = youtube_vis.load(folder.path, folder.frames)
    youtube_vis.check_frames(dataset)


def test_boxes_that_are_corners_are_told_once(tmp_path):
    root = content()
    for row in root["annotations"]:
        row["bboxes"] = [
            b and [b[0], b[1], b[0] + b[2], b[1] + b[3]] for b in row["bboxes"]
        ]
    found = [f for f in findings(tmp_path, root).findings if "box" in f.rule + f.record]
    # Those that begin at 0 read the same either way.
    (one,) = found
    assert "are corners x1, y1, x2, y2" in one.rule
    assert one.level == "warning"


@pytest.mark.parametrize("change", [None, "absent"])
def test_null_and_absent_fields_are_the_same_to_check_and_load(tmp_path, change):
    root = content()
    for row, key in (
        (root["videos"][0], "length"),
        (root["annotations"][0], "iscrowd"),
    ):
        row[key] = None
        if change == "absent":
            del row[key]
    assert not findings(tmp_path, root).errors
    dataset = youtube_vis.load(tmp_path / "instances.json", tmp_path)
    assert not dataset.videos[0].tracks[0].crowd


@pytest.mark.parametrize(
    ("names", "want"),
    [
        (["v/9.jpg", "v/10.jpg"], None),
        (["v/12-00-59.jpg", "v/12-01-00.jpg"], None),  # a clock
        (["v/1.jpg", "v/10.jpg", "v/2.jpg"], (10, 2)),
        (["v/b.jpg", "v/a.jpg", ""], None),
    ],
)
def test_numbers_fall_where_people_would_count_otherwise(names, want):
    assert check._falls(names) == want


def test_annotations_that_are_null_are_none(tmp_path):
    for change in (dict(annotations=None), None):
        root = content()
        root.pop("annotations")
        report = findings(tmp_path, root | (change or {}))
        assert not report.errors
        assert report.summary["annotated"] is False


def test_meta_json_of_youtube_vos_is_named(tmp_path):
    path = tmp_path / "meta.json"
    path.write_text('{"videos": {"003234408d": {"objects": {}}}}')
    report = check.check(path)
    assert "is the meta.json of YouTube-VOS" in str(report.findings[0])
    with pytest.raises(InputError, match="is the meta.json of YouTube-VOS"):
        youtube_vis.load(path, tmp_path)


def test_frames_that_exif_turns_are_one_warning_of_each_kind(make_folder):
    folder = make_folder()
    exif = Image.Exif()
    exif[0x0112] = 3
    for path in sorted(folder.frames.rglob("*.jpg"))[:3]:
        Image.open(path).save(path, exif=exif)
    report = check.check(folder.path, folder.frames, open_images=True)
    (found,) = (f for f in report.findings if "EXIF" in f.rule)
    assert "EXIF orientation 3 turns 3 of them, e.g. v0/00000.jpg" in str(found)
    assert found.level == "warning"
    how = dict(open_images=True, upright=False)
    findings = check.check(folder.path, folder.frames, **how).findings
    assert findings == [f for f in report.findings if f is not found]
