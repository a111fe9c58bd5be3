import gc
import gzip
import hashlib
import json
import os
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from stan_jax import json_stream
from stan_jax.errors import InputError
from stan_jax.evaluation.youtube_vis_ap import evaluate_files, table
from stan_jax.masks import codec
from stan_jax.results import readers
from stan_jax.results.writer import ResultsWriter, TrackResult

NAMES = [
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
]


# Where the official code stops, and what is absent can be told from what is there.
KINDER = "gt_no_areas", "gt_no_iscrowd"


def unpacked(folder, name, tmp_path):
    if (folder / name).exists():
        return folder / name
    (tmp_path / name).write_bytes(gzip.decompress((folder / f"{name}.gz").read_bytes()))
    return tmp_path / name


def judge(instances, found, expected):
    """Every digit of the statistics and curves, with and without categories."""
    for class_agnostic in (False, True):
        want = expected.get("class_agnostic", expected) if class_agnostic else expected
        if want["raises"] and instances.parent.name in KINDER:
            evaluate_files(instances, found, class_agnostic)
            continue
        if want["raises"]:
            with pytest.raises(InputError) as caught:
                evaluate_files(instances, found, class_agnostic)
            assert caught.value.file in (str(instances), str(found))
            assert caught.value.rule
            continue
        got = evaluate_files(instances, found, class_agnostic)
        either = want["stats"], want.get("stats_numpy_upto_2_2", want["stats"])
        assert all(got[name] in [e[name] for e in either] for name in NAMES)
        for name, sha in want["sha256"].items():
            assert hashlib.sha256(got[name].tobytes(order="C")).hexdigest() == sha, name


def test_golden_sets_give_the_official_numbers(golden, tmp_path):
    folders = sorted((golden / "ytvis_eval").glob("[0-9]*/"))
    assert len(folders) == 14
    for folder in folders:
        expected = json.loads((folder / "expected.json").read_text())
        files = (
            unpacked(folder, f"{n}.json", tmp_path) for n in ("instances", "results")
        )
        judge(*files, expected)


def test_golden_edges_give_the_official_numbers_or_an_input_error(golden):
    folders = sorted((golden / "ytvis_eval" / "edges").glob("*/"))
    assert len(folders) == 56
    for folder in folders:
        expected = json.loads((folder / "expected.json").read_text())
        judge(folder / "instances.json", folder / "results.json", expected)


def test_every_edge_that_stops_the_official_code_is_in_the_documentation(golden):
    text = (Path(__file__).parents[2] / "docs/evaluation.md").read_text()
    named = set(re.findall(r"`(\w+)`", text))
    stopping = {
        path.parent.name
        for path in (golden / "ytvis_eval" / "edges").glob("*/expected.json")
        if json.loads(path.read_text())["raises"]
    }
    assert len(stopping) > 20
    assert stopping <= named


def test_reading_a_file_leaves_garbage_collection_as_it_was(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('[{"a": 1}, {"a": 2}]')
    assert gc.isenabled()
    for _ in json_stream.rows(path):
        assert not gc.isenabled()
        break  # left before its end
    assert gc.isenabled()
    path.write_text("[{]")
    with pytest.raises(InputError):
        list(json_stream.rows(path))
    assert gc.isenabled()


@pytest.mark.slow
def test_golden_random_sets_give_the_official_numbers(golden, tmp_path):
    folder = golden / "ytvis_eval"
    instances, found = tmp_path / "instances.json", tmp_path / "results.json"
    with (
        gzip.open(folder / "fuzz.jsonl.gz", "rt") as sets,
        gzip.open(folder / "fuzz_expected.jsonl.gz", "rt") as answers,
    ):
        for one, expected in zip(sets, answers, strict=True):
            content = json.loads(one)
            instances.write_text(json.dumps(content["instances"]))
            found.write_text(json.dumps(content["results"]))
            judge(instances, found, json.loads(expected))


# A small set of our own, for what the golden sets do not ask.


def shape(t, hw=(12, 16)):
    mask = np.zeros(hw, bool)
    mask[2:9, t : t + 7] = True
    return mask


def small_set():
    masks = [codec.encode(shape(t)) for t in range(3)]
    content = {
        "videos": [
            {"id": v, "height": 12, "width": 16, "file_names": ["a", "b", "c"]}
            for v in (1, 2)
        ],
        "categories": [{"id": 4, "name": "cat"}],
        "annotations": [
            {
                "id": 10 + v,
                "video_id": v,
                "category_id": 4,
                "iscrowd": 0,
                "areas": [49, 49, 49],
                "segmentations": list(masks),
            }
            for v in (1, 2)
        ],
    }
    rows = [
        {"video_id": v, "category_id": 4, "score": 0.5, "segmentations": list(masks)}
        for v in (1, 2)
    ]
    return content, rows


def evaluate(tmp_path, content, rows, **options):
    instances, found = tmp_path / "instances.json", tmp_path / "results.json"
    for path, value in ((instances, content), (found, rows)):
        path.write_text(value if isinstance(value, str) else json.dumps(value))
    return evaluate_files(instances, found, **options)


def test_what_the_writer_writes_scores_as_the_tracks_it_was_given(tmp_path):
    content, rows = small_set()
    instances, found = tmp_path / "instances.json", tmp_path / "results.json"
    instances.write_text(json.dumps(content))
    with ResultsWriter(found) as writer:
        for row in rows:
            track = TrackResult(0.5, 4, dict(enumerate(row["segmentations"])))
            writer.add_video(row["video_id"], [track], length=3)
    assert evaluate_files(instances, found)["AP"] == pytest.approx(1)


@pytest.mark.parametrize("kind", ["counts", "polygon", "text"])
def test_annotations_may_hold_any_kind_of_mask(tmp_path, kind):
    content, rows = small_set()
    for annotation in content["annotations"]:
        for t in range(3):
            runs = [12 * t + 2, *[7, 5] * 6, 7, 12 * (16 - t - 7) + 3]
            corners = [t, 2, t + 7, 2, t + 7, 9, t, 9]
            annotation["segmentations"][t] = {
                "counts": {"size": [12, 16], "counts": runs},
                "polygon": [corners],
                "text": codec.encode(shape(t)),
            }[kind]
    assert evaluate(tmp_path, content, rows)["AP"] == pytest.approx(1)


def test_annotations_in_several_polygons_are_their_union(tmp_path):
    content, rows = small_set()
    for annotation in content["annotations"]:
        annotation["segmentations"] = [
            [[t, 2, t + 4, 2, t + 4, 9, t, 9], [t + 3, 2, t + 7, 2, t + 7, 9, t + 3, 9]]
            for t in range(3)
        ]
    assert evaluate(tmp_path, content, rows)["AP"] == pytest.approx(1)


def change(target, *path):
    """A function that puts a value (or removes the key) at a place of the set."""

    def edit(content, rows, value):
        place = {"instances": content, "results": rows}[target]
        for key in path[:-1]:
            place = place[key]
        if value is ...:
            del place[path[-1]]
        else:
            place[path[-1]] = value

    return edit


NO_POLYGON = [[1, 1, 5, 5]]
FRAME = ("annotations", 1, "segmentations", 2)


@pytest.mark.parametrize(
    ("edit", "value", "message"),
    [
        (change("results", 1, "score"), ..., "results[1]: must have 'score'"),
        (
            change("results", 1, "score"),
            "high",
            "results[1]: 'score' must be a number, is 'high'",
        ),
        (
            change("results", 0, "video_id"),
            9,
            "results[0]: video_id 9 is not among the videos",
        ),
        (
            change("results", 0, "video_id"),
            [1],
            "results[0]: 'video_id' must be a number or a text, is [1]",
        ),
        (change("results", 1), None, "results[1]: must be an object, not None"),
        (change("results", 1, "segmentations", 0), "x", "results[1], frame 0: a mask"),
        (change("instances", "videos"), ..., "must have 'videos'"),
        (change("instances", "videos", 1, "id"), "1", "must be all numbers or all"),
        (
            change("instances", "videos", 1, "width"),
            ...,
            "video 2: width must be a whole number from 1 up, is absent",
        ),
        (
            change("instances", "annotations", 0),
            5,
            "entry 0 of annotations: must be an object",
        ),
        (change("instances", *FRAME), NO_POLYGON, "annotation 12, frame 2: polygon"),
        (
            change("instances", *FRAME),
            [[1, 1, 5, 5, None, 3]],
            "2: polygon must be a list",
        ),
        (
            change("instances", *FRAME),
            [[1, 1, 5, 5, 1e999, 3]],
            "polygon must lie in or near",
        ),
        (change("instances", *FRAME), {"counts": [192]}, "frame 2: needs a size"),
        (
            change("instances", *FRAME),
            {"size": [12, 16], "counts": [10, -1, 183]},
            "annotation 12, frame 2: needs a size and run lengths from 0 up",
        ),
        (
            change("instances", *FRAME),
            {"size": [12, 16], "counts": [10, 10]},
            "annotation 12, frame 2: counts must add up to height x width = 192",
        ),
        (
            change("instances", "annotations", 1, "areas"),
            ["a"],
            "frame 0: area must be a number",
        ),
        (
            change("instances", "annotations", 1, "iscrowd"),
            "x",
            "iscrowd must be a number",
        ),
    ],
)
def test_broken_records_are_named(tmp_path, edit, value, message):
    content, rows = small_set()
    edit(content, rows, value)
    with pytest.raises(InputError) as caught:
        evaluate(tmp_path, content, rows)
    assert message in str(caught.value)
    wrong = "results" if message.startswith("results") else "instances"
    assert caught.value.file == str(tmp_path / f"{wrong}.json")


def test_records_that_take_no_part_may_be_broken(tmp_path):
    content, rows = small_set()
    odd = {"id": 99, "video_id": 1, "category_id": 77}
    content["annotations"].append(odd)
    content["annotations"].append({**odd, "video_id": 3, "category_id": 4, "id": 98})
    assert evaluate(tmp_path, content, rows)["AP"] == pytest.approx(1)
    assert evaluate(tmp_path, content, rows, class_agnostic=True)["AP"] > 0.99


def test_the_areas_of_the_file_say_how_large_a_true_track_is(tmp_path):
    content, rows = small_set()
    assert evaluate(tmp_path, content, rows)["AP_small"] == pytest.approx(1)
    content["annotations"][0]["areas"] = [None, 200**2, 0]
    content["annotations"][1]["areas"] = [1, 2 * 300**2, None]
    got = evaluate(tmp_path, content, rows)
    assert got["AP_small"] == -1
    assert got["AP_medium"] == got["AP_large"] == pytest.approx(1)


def test_areas_and_crowd_that_are_absent_are_told_from_the_masks(tmp_path):
    content, rows = small_set()
    want = evaluate(tmp_path, content, rows)
    for row in content["annotations"]:
        masks = [mask and codec.area(mask) for mask in row["segmentations"]]
        row |= {"areas": masks, "iscrowd": 0}
    assert evaluate(tmp_path, content, rows)["AP"] == want["AP"]
    whole = evaluate(tmp_path, content, rows)
    content["annotations"][0].pop("areas")
    content["annotations"][1]["areas"] = None
    content["annotations"][0]["iscrowd"] = None
    content["annotations"][1].pop("iscrowd")
    got = evaluate(tmp_path, content, rows)
    assert {k: got[k] for k in NAMES} == {k: whole[k] for k in NAMES}
    odd = readers.true_tracks(tmp_path / "instances.json").odd
    assert odd == [
        "2 annotations have no areas: those of their masks are taken",
        "2 annotations have no iscrowd: taken for 0",
    ]


def test_the_last_annotation_of_an_id_stands_for_all_of_them(tmp_path):
    content, rows = small_set()
    content["annotations"][0]["id"] = content["annotations"][1]["id"] = 7
    # Video 2 now holds its track twice, video 1 none: one of two is found.
    got = evaluate(tmp_path, content, rows)
    assert got["AR100"] == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold a list, is empty"),
        ("[", "results[0]: is not valid json"),
        ('[{"video_id": 1', "results[0]: is not valid json"),
        ('{"results": []}', "must hold a list, begins with '{'"),
        ("[]", "must hold at least one result"),
        ("[] []", "must end where its list ends"),
        ("[1]", "results[0]: must be an object, not 1"),
        ("[{},]", "results[0]: must have 'video_id'"),
        ("[" * 100_000, "is not valid json"),
    ],
)
def test_results_that_are_no_json_list_are_refused(tmp_path, text, message):
    with pytest.raises(InputError) as caught:
        evaluate(tmp_path, small_set()[0], text)
    assert message in str(caught.value)
    assert caught.value.file == str(tmp_path / "results.json")


@pytest.mark.parametrize("end", ["", "}", ",", ",]", "] x"])
def test_results_with_a_broken_end_are_refused(tmp_path, end):
    content, rows = small_set()
    text = json.dumps(rows)
    with pytest.raises(InputError, match="results.json"):
        evaluate(tmp_path, content, text[:-1] + end)


@pytest.mark.parametrize("name", ["instances.json", "results.json"])
def test_files_that_are_missing_or_no_text_are_refused(tmp_path, name):
    content, rows = small_set()
    evaluate(tmp_path, content, rows)
    paths = [tmp_path / "instances.json", tmp_path / "results.json"]
    (tmp_path / name).write_bytes(b'[{"video_id": \xff\xfe')
    with pytest.raises(InputError, match=f"{name}: is not"):
        evaluate_files(*paths)
    os.remove(tmp_path / name)
    with pytest.raises(InputError, match=f"{name}: cannot be read: No such file"):
        evaluate_files(*paths)
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=f"{name}: cannot be read: Is a directory"):
        evaluate_files(*paths)


@pytest.mark.parametrize("indent", [None, 1])
def test_rows_are_the_same_however_the_file_is_cut(tmp_path, monkeypatch, indent):
    rng = np.random.default_rng(0)
    rows = [
        {"number": i, "text": 'a "quoted] {text' * int(rng.integers(200))}
        for i in range(60)
    ]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(rows, indent=indent) + "\n")
    for size in (1, 7, 1000, 1 << 20):
        monkeypatch.setattr(json_stream, "PIECE", size)
        assert list(json_stream.rows(path)) == rows
    for size in (1, 1 << 20):
        monkeypatch.setattr(json_stream, "PIECE", size)
        path.write_text(json.dumps(rows[:0], indent=indent) + " ,")
        with pytest.raises(InputError, match="must end where its list ends"):
            list(json_stream.rows(path))


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_several_workers_give_the_same_numbers(golden, tmp_path, class_agnostic):
    folder = golden / "ytvis_eval" / "14_everything"
    files = [unpacked(folder, f"{n}.json", tmp_path) for n in ("instances", "results")]
    one, two = (evaluate_files(*files, class_agnostic, workers=n) for n in (1, 2))
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


def test_several_workers_name_the_same_broken_record(tmp_path):
    content, rows = small_set()
    for break_ in (
        lambda: rows[1].update(video_id=9),
        lambda: rows[0]["segmentations"].__setitem__(1, 7),
        lambda: content["annotations"][1].pop("areas"),
    ):
        break_()
        for workers in (1, 2):
            with pytest.raises(InputError) as caught:
                evaluate(tmp_path, content, rows, workers=workers)
            if workers == 1:
                want = str(caught.value)
        assert str(caught.value) == want


def test_gzipped_files_and_one_line_a_character_are_read_alike(tmp_path):
    content, rows = small_set()
    want = evaluate(tmp_path, content, rows)
    paths = tmp_path / "instances.json", tmp_path / "results.json"
    for path in paths:
        path.write_bytes(gzip.compress(path.read_bytes()))
    got = evaluate_files(*paths)
    assert got["AP"] == want["AP"] == pytest.approx(1)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_videos(tmp_path):
    def peak(videos):
        content, rows = small_set()
        (annotation, *_), (row, *_) = content["annotations"], rows
        content["videos"] = [
            {**content["videos"][0], "id": v, "length": 3} for v in range(videos)
        ]
        # One long mask, so that the masks outweigh what is kept of each video.
        mask = {"size": [12, 16], "counts": [1] * 192}
        content["annotations"] = [
            {**annotation, "id": v + 1, "video_id": v, "segmentations": [mask] * 30}
            for v in range(videos)
        ]
        text = coco_mask.frPyObjects(mask, 12, 16)["counts"].decode()
        shown = [{"size": [12, 16], "counts": text}] * 30
        rows = [
            {**row, "video_id": v, "segmentations": shown}
            for v in range(videos)
            for _ in range(10)
        ]
        paths = tmp_path / "instances.json", tmp_path / "results.json"
        for path, value in zip(paths, (content, rows), strict=True):
            path.write_text(json.dumps(value))
        size = paths[1].stat().st_size
        del content, rows
        gc.collect()
        tracemalloc.start()
        evaluate_files(*paths)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top, size

    evaluate(tmp_path, *small_set())  # what is made once is there
    small, large = peak(100), peak(300)
    # 2000 tracks more: their scores and their place on disk, not 60,000 masks.
    assert large[1] - small[1] > 10e6
    assert large[0] - small[0] < 0.3 * (large[1] - small[1])


def test_table_shows_the_official_lines():
    stats = {name: i / 16 for i, name in enumerate(NAMES)} | {"precision": np.ones(3)}
    lines = table(stats).splitlines()
    assert len(lines) == 12
    ap, ar = " Average Precision  (AP) @[ IoU=", " Average Recall     (AR) @[ IoU="
    assert lines[0] == ap + "0.50:0.95 | area=   all | maxDets=100 ] = 0.000"
    assert lines[2] == ap + "0.75      | area=   all | maxDets=100 ] = 0.125"
    assert lines[7] == ar + "0.50:0.95 | area=   all | maxDets= 10 ] = 0.438"
    assert lines[11] == ar + "0.50:0.95 | area= large | maxDets=100 ] = 0.688"


def test_masks_of_the_small_set_are_what_the_runs_say():
    # The counts written by hand above, so that "any kind of mask" compares equals.
    runs = [2, *[7, 5] * 6, 7, 12 * 9 + 3]
    text = coco_mask.frPyObjects({"size": [12, 16], "counts": runs}, 12, 16)
    assert text["counts"].decode() == codec.encode(shape(0))["counts"]
