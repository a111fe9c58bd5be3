import json
import pickle

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from stan_jax.commands import main
from stan_jax.errors import InputError
from stan_jax.evaluation import score, tracking_metrics, youtube_vis_ap
from stan_jax.masks import run_lengths
from stan_jax.metrics import overlap, tracking

NAMES = ("AP", "AP50", "AP75", "AR1", "AR10")


@pytest.fixture
def case(golden):
    folder = golden / "hota/05_classes"
    return folder / "instances.json", folder / "results.json"


def test_scores_are_those_of_the_parts(case):
    got = score.score_files(*case)
    want = youtube_vis_ap.evaluate_files(*case)
    assert got.official == {
        k: float(v) for k, v in want.items() if not isinstance(v, np.ndarray)
    }
    assert got.tracking == tracking_metrics.evaluate_files(*case)


def test_mean_over_categories_is_the_official_number(case):
    got = score.score_files(*case)
    for field, name in (("ap", "AP"), ("ap50", "AP50"), ("ap75", "AP75")):
        values = [getattr(row, field) for row in got.categories]
        mean = np.mean([x for x in values if x > -1])
        np.testing.assert_allclose(mean, got.official[name], rtol=1e-12)
    recalls = [row.ar10 for row in got.categories if row.ar10 > -1]
    np.testing.assert_allclose(np.mean(recalls), got.official["AR10"], rtol=1e-12)


def test_categories_count_their_tracks(case):
    got = score.score_files(*case)
    truth, found = (json.loads(path.read_text()) for path in case)
    for row in got.categories:
        (number,) = [c["id"] for c in truth["categories"] if c["name"] == row.name]
        assert row.tracks == sum(
            a["category_id"] == number for a in truth["annotations"]
        )
        assert row.found == sum(r["category_id"] == number for r in found)
        assert (row.ap == -1) == (row.tracks == 0)


def test_command_prints_and_writes_the_same_numbers(case, tmp_path, capsys):
    main.main(["score", *map(str, case), "--json", str(tmp_path / "x.json")])
    out = capsys.readouterr().out
    written = json.loads((tmp_path / "x.json").read_text())
    got = score.score_files(*case)
    assert written == json.loads(json.dumps(score.as_json(got)))
    assert f"HOTA {got.tracking['HOTA']:.3f}" in out
    assert f"class_07   {got.categories[3].ap:.3f}" in out


def test_class_agnostic_has_no_categories(case, capsys):
    main.main(["score", *map(str, case), "--class-agnostic"])
    out = capsys.readouterr().out
    want = youtube_vis_ap.evaluate_files(*case, class_agnostic=True)["AP"]
    assert out.splitlines()[0] == "all categories taken for one:"
    assert f"maxDets=100 ] = {want:.3f}" in out.splitlines()[1]
    assert "class_07" not in out


@pytest.mark.parametrize("case", ["02_switches", "04_empties", "05_classes"])
def test_tracking_by_category_is_that_of_the_reference(golden, case):
    folder = golden / "hota" / case
    want = json.loads((folder / "expected.json").read_text())["per_class"]
    got = score.score_files(folder / "instances.json", folder / "results.json")
    named = {row.name: row for row in got.categories}
    assert sum(row.hota is not None for row in named.values()) > 0
    for name, expected in want.items():
        row = named[name]
        if row.hota is None:  # on neither side
            assert row.tracks == row.found == 0
            continue
        assert row.hota == expected["HOTA_mean_over_alpha"]["HOTA"]
        assert row.mota == expected["CLEAR"]["MOTA"]
        assert row.idf1 == expected["Identity"]["IDF1"]


def test_scores_of_some_categories_are_those_of_a_file_of_them_alone(case, tmp_path):
    whole = score.score_files(*case)
    some = [row for row in whole.categories if row.tracks][:2]
    options = score.Options(categories=[some[0].name, str(some[1].id)])
    got = score.score_files(*case, options=options)
    assert got.categories == some
    assert got.official["AP"] == np.mean([row.ap for row in some])
    ids = {row.id for row in some}

    def alone(truth, found):
        for rows in (truth["annotations"], found):
            rows[:] = [row for row in rows if row["category_id"] in ids]
        truth["categories"] = [c for c in truth["categories"] if c["id"] in ids]

    want = score.score_files(*_spoilt(case, tmp_path, alone))
    assert got._replace(options=want.options) == want
    with pytest.raises(InputError, match="categories: has no 'yak', has class_"):
        score.score_files(*case, options=score.Options(categories=["yak"]))


def test_scores_of_some_videos_are_those_of_a_file_of_them_alone(
    case, tmp_path, capsys
):
    videos = json.loads(case[0].read_text())["videos"]
    ids = {video["id"] for video in videos[1:]}

    def alone(truth, found):
        truth["videos"] = [v for v in truth["videos"] if v["id"] in ids]
        for rows in (truth["annotations"], found):
            rows[:] = [row for row in rows if row["video_id"] in ids]

    want = score.score_files(*_spoilt(case, tmp_path, alone))
    text = tmp_path / "some.txt"
    text.write_text("\n".join(str(i) for i in sorted(ids)))
    got = score.score_files(*case, options=score.Options(videos=ids))
    assert got._replace(options=want.options) == want
    main.main(["score", *map(str, case), "--videos", str(text)])
    out = capsys.readouterr().out
    assert out.startswith(f"of {len(ids)} videos alone:")
    assert f"HOTA {want.tracking['HOTA']:.3f}" in out


def test_a_list_of_videos_may_name_all_and_needs_their_frames(case, tmp_path):
    ids = [video["id"] for video in json.loads(case[0].read_text())["videos"]]
    text = tmp_path / "all.txt"
    text.write_text("\n".join(map(str, ids)))
    main.main(["score", *map(str, case), "--videos", str(text)])
    paths = _spoilt(case, tmp_path, lambda truth, _: truth["videos"][0].pop("length"))
    root = json.loads(paths[0].read_text())
    del root["videos"][0]["file_names"]
    paths[0].write_text(json.dumps(root))
    with pytest.raises(SystemExit, match="file_names must be a list, is absent"):
        main.main(["score", *map(str, paths), "--videos", str(text)])


def test_tracking_metrics_may_leave_out_low_scores(case, tmp_path, capsys):
    scores = sorted(row["score"] for row in json.loads(case[1].read_text()))
    least = scores[len(scores) // 2]
    got = score.score_files(*case, options=score.Options(min_score=least))
    whole = score.score_files(*case)
    assert got.official == whole.official

    def best(truth, found):
        found[:] = [row for row in found if row["score"] >= least]

    want = score.score_files(*_spoilt(case, tmp_path, best))
    assert got.tracking == want.tracking != whole.tracking
    held = [(row.hota, row.mota, row.idf1) for row in got.categories]
    assert held == [(row.hota, row.mota, row.idf1) for row in want.categories]
    main.main(["score", *map(str, case), f"--min-score={least}"])
    assert f"tracks with a score of {least:g} or more:" in capsys.readouterr().out


def test_limits_of_areas_are_named_and_can_be_set(golden, capsys):
    folder = golden / "ytvis_eval/02_area_ranges"
    files = [str(folder / "instances.json"), str(folder / "results.json.gz")]
    main.main(["score", *files])
    one = capsys.readouterr().out
    assert "small to 128 x 128, large from 256 x 256" in one
    main.main(["score", *files, "--areas=32,96"])
    two = capsys.readouterr().out
    assert "small to 32 x 32, large from 96 x 96" in two
    assert one.splitlines()[0] == two.splitlines()[0]  # AP of all
    assert one.splitlines()[3:6] != two.splitlines()[3:6]
    for wrong in ("96", "96,32", "0,9", "a,b", "1,2,3"):
        with pytest.raises(SystemExit, match="must be two rising sides"):
            main.main(["score", *files, f"--areas={wrong}"])


# ------------------------------------------------------- tracking metrics: bad input


def _spoilt(case, tmp_path, change):
    content = [json.loads(path.read_text()) for path in case]
    change(*content)
    paths = [tmp_path / "instances.json", tmp_path / "results.json"]
    for path, value in zip(paths, content, strict=True):
        path.write_text(json.dumps(value))
    return paths


ODD = {
    "have a score that is not finite": lambda truth, found: found[0].update(
        score=float("nan")
    ),
    "are of a category that is not listed: they count for nothing in AP": (
        lambda truth, found: found[0].update(category_id=77)
    ),
    "are longer or shorter than their video": (
        lambda truth, found: found[0]["segmentations"].append(None)
    ),
    "show nothing": lambda truth, found: found[0].update(
        segmentations=[None] * len(found[0]["segmentations"])
    ),
    "have id 0": lambda truth, found: truth["annotations"][0].update(id=0),
    "share their id with a later annotation": lambda truth, found: truth["annotations"][
        0
    ].update(id=truth["annotations"][1]["id"]),
    "are of a video or category that is not listed": (
        lambda truth, found: truth["annotations"][0].update(category_id=77)
    ),
    "share their id with another category": lambda truth, found: truth[
        "categories"
    ].append(truth["categories"][0]),
}


def test_a_sound_file_has_no_warnings(case):
    assert score.score_files(*case).warnings == []


@pytest.mark.parametrize("rule", ODD)
def test_what_counts_otherwise_than_one_thinks_is_told(case, tmp_path, capsys, rule):
    paths = _spoilt(case, tmp_path, ODD[rule])
    main.main(["score", *map(str, paths), "--json", str(tmp_path / "s.json")])
    printed = capsys.readouterr().out
    told = [line for line in printed.splitlines() if line.startswith("warning: ")]
    assert [line for line in told if rule in line], told
    written = json.loads((tmp_path / "s.json").read_text())["warnings"]
    assert [f"warning: {text}" for text in written] == told


def test_ap_is_told_where_tracking_metrics_cannot_be(golden, tmp_path, capsys):
    folder = golden / "ytvis_eval/08_encodings_sizes"
    files = [str(next(folder.glob(f"{n}.json*"))) for n in ("instances", "results")]
    out = tmp_path / "s.json"
    main.main(
        ["score", *files, "--report", str(tmp_path / "p.html"), "--json", str(out)]
    )
    printed = capsys.readouterr().out
    want = json.loads((folder / "expected.json").read_text())["stats"]["AP"]
    assert f"maxDets=100 ] = {want:.3f}" in printed
    assert "HOTA" not in printed
    assert "masks of one frame must have one size" in printed
    written = json.loads(out.read_text())
    assert written["tracking"] is None
    assert written["official"]["AP"] == want


def test_json_holds_no_nan(case, tmp_path):
    def spoil(truth, found):
        for row in found:
            row["score"] = float("nan")

    paths = _spoilt(case, tmp_path, spoil)
    out = tmp_path / "s.json"
    main.main(["score", *map(str, paths), "--errors", "--json", str(out)])
    written = json.loads(out.read_text(), parse_constant=pytest.fail)
    assert {error["score"] for error in written["errors"]["errors"]} <= {None, 0.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--json", "none/x.json"], "folder none must exist"),
        (["--report", "none/x.html"], "folder none must exist"),
        (["--json", "RESULTS"], "must not be written over its own source"),
        (["--report", "x.html", "--frames", "none"], "folder of the frames must exist"),
        (["--frames", "."], "needs --report"),
        (["--workers", "0"], "--workers: must be at least 1, is 0"),
        (["--errors", "--class-agnostic"], "leaves no classes"),
    ],
)
def test_what_would_fail_in_the_end_is_told_in_the_beginning(
    case, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    paths = _spoilt(case, tmp_path, lambda truth, found: None)
    options = [str(paths[1]) if word == "RESULTS" else word for word in options]
    monkeypatch.setattr(score, "score_files", None)
    with pytest.raises(SystemExit, match=message):
        main.main(["score", *map(str, paths), *options])


def test_errors_of_helpers_are_told(case, tmp_path):
    def spoil(truth, found):
        for row in found:  # of every video, so that a helper meets one
            row["segmentations"] = [{"size": [3, 3], "counts": "1"}]

    paths = _spoilt(case, tmp_path, spoil)
    with pytest.raises(InputError, match="counts must add up"):
        score.score_files(*paths, workers=2)


def test_errors_are_the_same_after_a_copy():
    error = InputError("file", "record", "rule")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.file, copy.record, copy.rule) == ("file", "record", "rule")
    assert str(copy) == str(error) == "file: record: rule"


def test_no_results_are_all_misses(case, tmp_path):
    paths = _spoilt(case, tmp_path, lambda truth, found: found.clear())
    got = tracking_metrics.evaluate_files(*paths)
    assert got["HOTA"] == got["MOTA"] == got["IDF1"] == 0
    assert got["LocA"] == 1


def test_video_without_file_names_is_refused(case, tmp_path):
    paths = _spoilt(
        case, tmp_path, lambda truth, found: truth["videos"][0].pop("file_names")
    )
    with pytest.raises(InputError, match=r"video \d+: needs a list of file_names"):
        tracking_metrics.evaluate_files(*paths)


def test_mask_of_another_size_is_refused(case, tmp_path):
    def change(truth, found):
        for row in found:
            for mask in filter(None, row["segmentations"]):
                mask.update(size=[2, 3], counts="6")

    paths = _spoilt(case, tmp_path, change)
    with pytest.raises(InputError, match="masks of one frame must have one size"):
        tracking_metrics.evaluate_files(*paths)


def test_a_switch_and_a_gap_are_counted_where_they_were_planted():
    left, right = (
        coco_mask.frPyObjects({"size": [4, 4], "counts": runs}, 4, 4)["counts"].decode()
        for runs in ([0, 8, 8], [8, 8])
    )

    def masks(times, half):
        rle = {"size": [4, 4], "counts": half}
        return run_lengths.read([rle if t in times else None for t in range(6)])

    true = {7: masks(range(6), left)}
    found = [masks({0, 1}, left), masks({3, 4, 5}, left), masks({2}, right)]
    scene = tracking.scene(true, found, overlap.compare(found, [*true.values()]), 6)
    got = tracking.clear(scene)
    assert (got["IDSW"], got["Frag"], got["CLR_FN"], got["CLR_FP"]) == (1, 1, 1, 1)
    assert tracking.identity(scene) == dict(IDTP=3, IDFN=3, IDFP=3)
