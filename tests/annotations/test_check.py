import json

import numpy as np
import pytest
from broken_sets import CORPUS, HW, E, content
from PIL import Image

from stan_jax.annotations import check, youtube_vis
from stan_jax.commands import main
from stan_jax.errors import InputError, kind_of

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


@pytest.mark.parametrize("mode", ["P", "L", "I;16"])
def test_frames_that_are_id_masks_are_an_error(tmp_path, mode):
    root, frames = content(), tmp_path / "frames"
    ids = np.zeros(HW, np.uint16 if mode == "I;16" else np.uint8)
    ids[2:9, :5] = 2001 if mode == "I;16" else 1
    rng = np.random.default_rng(0)
    for video in root["videos"]:
        for name in video["file_names"]:
            (frames / name).parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(ids)
            if mode == "P":
                image.putpalette([0, 0, 0, 128, 0, 0])
            if video["id"] == 1:  # a picture, of one channel as well
                grey = rng.integers(0, 256, HW, np.uint8)
                image = Image.fromarray(grey).convert("P" if mode == "P" else "L")
            image.save(frames / name)
    found = findings(tmp_path, root, frames=frames, open_images=True).findings
    assert [(f.level, f.rule) for f in found] == [
        (E, "3 frames are id masks, no pictures, e.g. v2/0.png")
    ]
    assert found[0].record == str(frames)


def test_all_faults_of_annotations_by_image_are_found_in_one_pass(tmp_path):
    images = [
        {"id": i, "file_name": f"a/{i}.jpg", "height": 6, "width": 8} for i in (1, 2)
    ]
    sound = {"image_id": 1, "category_id": 1, "segmentation": [[1, 1, 4, 1, 4, 5]]}
    rows = [
        sound | {"id": 1, "track_id": 1},
        sound | {"id": 2},
        sound | {"id": 3, "image_id": 9, "track_id": 2},
        sound | {"id": 4, "track_id": 3, "segmentation": [[1, 1]]},
    ]
    root = {"images": images, "annotations": rows}
    root["categories"] = [{"id": 1, "name": "cat"}]
    report = findings(tmp_path, root)
    assert [(f.level, f.record) for f in report.findings] == [
        (E, f"annotations[{i}]") for i in (1, 2, 3)
    ]
    assert report.findings[0].advice == "give all annotations of an object its track_id"
    for row in rows:
        row.pop("track_id", None)
    assert [f.record for f in findings(tmp_path, root).findings if f.level == E] == [
        "annotations[2]",
        "annotations[3]",
    ]
    del images[1]["height"]
    assert [f.record for f in findings(tmp_path, root).findings] == ["images[1]"]
