import gzip
import json
import zipfile

import numpy as np
import pytest

from stan_jax.commands import main
from stan_jax.masks import codec
from stan_jax.results import submission


def small():
    mask = codec.encode(np.eye(4, 5, dtype=bool))
    root = {
        "videos": [
            {"id": v, "height": 4, "width": 5, "file_names": ["a", "b"]} for v in (1, 2)
        ],
        "categories": [{"id": 3, "name": "cat"}],
    }
    rows = [
        {"video_id": v, "category_id": 3, "score": 0.5, "segmentations": [mask, None]}
        for v in (1, 2)
    ]
    return root, rows


def written(tmp_path, root, rows):
    paths = tmp_path / "results.json", tmp_path / "valid.json"
    for path, value in zip(paths, (rows, root), strict=True):
        path.write_text(value if isinstance(value, str) else json.dumps(value))
    return paths


def test_sound_file_becomes_a_zip_that_is_always_the_same(tmp_path, capsys):
    found, valid = written(tmp_path, *small())
    out = tmp_path / "submission.zip"
    command = ["submit", str(found), "--annotations", str(valid), "--out", str(out)]
    main.main(command)
    assert f"2 results: {out}" in capsys.readouterr().out
    with zipfile.ZipFile(out) as archive:
        assert archive.namelist() == ["results.json"]
        assert archive.read("results.json") == found.read_bytes()
    before = out.read_bytes()
    main.main(command)
    assert out.read_bytes() == before


FULL = small()[1][0]["segmentations"]


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("video_id", 9, "video_id 9 is not among the videos"),
        ("video_id", "1", "'video_id' must be a whole number"),
        ("category_id", 4, "category_id 4 is not among"),
        ("category_id", 3.0, "'category_id' must be a whole number"),
        ("category_id", None, "'category_id' must be a whole number"),
        ("score", None, "score must be a number"),
        ("score", "0.5", "score must be a number"),
        ("score", float("nan"), "score must be finite"),
        ("score", float("inf"), "score must be finite"),
        ("segmentations", None, "must have 'segmentations'"),
        ("segmentations", {}, "segmentations must be a list"),
        (
            "segmentations",
            small()[1][0]["segmentations"][:1],
            "must have 2 entries, one a frame, has 1",
        ),
        ("segmentations", [[[0, 0, 3, 0, 3, 3]], None], "compressed RLE or null"),
        (
            "segmentations",
            [{"size": [4, 5], "counts": [3, 17]}, None],
            "frame 0: a mask must be",
        ),
        (
            "segmentations",
            [{"size": [4, 5], "counts": "34"}, None],
            "must add up to height x width",
        ),
        (
            "segmentations",
            [None, codec.encode(np.eye(5, 4, dtype=bool))],
            "frame 1: size must be [4, 5]",
        ),
    ],
)
def test_every_broken_rule_is_named_and_no_zip_written(
    tmp_path, capsys, field, value, rule
):
    root, rows = small()
    rows[1][field] = value
    found, valid = written(tmp_path, root, rows)
    out = tmp_path / "s.zip"
    with pytest.raises(SystemExit) as ended:
        main.main(
            ["submit", str(found), "--annotations", str(valid), "--out", str(out)]
        )
    assert ended.value.code == 1
    printed = capsys.readouterr().out
    assert "results[1]: " in printed
    assert rule in printed
    assert "1 errors" in printed
    assert not out.exists()


def test_a_video_with_a_broken_row_alone_is_listed_all_the_same(tmp_path):
    root, rows = small()
    rows[1]["segmentations"] = None
    verdict = submission.check(*written(tmp_path, root, rows))
    assert len(verdict.errors) == 1
    assert not any("is not listed" in text for text in verdict.warnings)


def test_all_rows_are_looked_at(tmp_path):
    root, rows = small()
    rows[0]["score"], rows[1]["video_id"] = None, 9
    assert len(submission.check(*written(tmp_path, root, rows)).errors) == 2


def test_track_without_a_mask_is_a_warning(tmp_path):
    root, rows = small()
    rows[0]["segmentations"] = [None, None]
    verdict = submission.check(*written(tmp_path, root, rows))
    assert not verdict.errors
    assert "results[0]: shows nothing" in verdict.warnings[0]


def test_gzipped_results_are_zipped_as_plain_json(tmp_path):
    found, valid = written(tmp_path, *small())
    packed = tmp_path / "results.json.gz"
    packed.write_bytes(gzip.compress(found.read_bytes()))
    out = tmp_path / "s.zip"
    main.main(["submit", str(packed), "--annotations", str(valid), "--out", str(out)])
    with zipfile.ZipFile(out) as archive:
        assert archive.read("results.json") == found.read_bytes()


def test_missing_video_is_a_warning(tmp_path):
    root, rows = small()
    verdict = submission.check(*written(tmp_path, root, rows[:1]))
    assert not verdict.errors
    assert "video 2: is not listed" in verdict.warnings[0]


@pytest.mark.parametrize(
    ("rows", "rule"),
    [
        ("[]", "at least one result"),
        ("{}", "must hold a list, begins with '{'"),
        ("[{", "is not valid json"),
        ("[1]", "must be an object"),
    ],
)
def test_files_that_are_no_list_of_results(tmp_path, rows, rule):
    verdict = submission.check(*written(tmp_path, small()[0], rows))
    assert rule in verdict.errors[0]


def test_without_annotations_rows_are_compared_with_each_other(tmp_path):
    _, rows = small()
    rows.append({**rows[0], "segmentations": rows[0]["segmentations"] * 2})
    found, _ = written(tmp_path, {}, rows)
    (error,) = submission.check(found).errors
    assert "results[2]: segmentations must have 2 entries" in error


def test_faults_of_a_kind_are_counted_and_a_broken_video_is_listed(tmp_path, capsys):
    root, rows = small()
    other = codec.encode(np.eye(8, 10, dtype=bool))
    rows = [row | {"segmentations": [other, None]} for row in rows * 4]
    found, valid = written(tmp_path, root, rows)
    command = ["submit", str(found), "--annotations", str(valid)]
    for more, shown, left in (([], 3, True), (["--all"], 8, False)):
        with pytest.raises(SystemExit):
            main.main([*command, *more])
        said = capsys.readouterr().out
        assert said.count("frame 0: size must be [4, 5]") == shown
        assert ("error: 5 more of this kind (--all)" in said) == left
        assert "8 errors, no zip" in said
        assert "is not listed" not in said


def test_results_that_cannot_score_well_are_told(tmp_path):
    root, rows = small()
    for video in root["videos"]:
        video["file_names"] = ["a", "b", "c"]
    (mask, _) = FULL
    rows = [row | {"segmentations": [mask, None, None]} for row in rows]
    warnings = submission.check(*written(tmp_path, root, rows)).warnings
    assert "2 of 2 results show one frame alone" in warnings[0]
    assert "all 2 results have one score: AP needs them ranked" in warnings[1]
    rows = [
        row | {"segmentations": [mask, mask, None], "score": 0.1 * i}
        for i, row in enumerate(rows)
    ]
    assert not submission.check(*written(tmp_path, root, rows)).warnings
