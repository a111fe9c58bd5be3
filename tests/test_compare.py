"""The comparison of `benchmarks/compare.py`, on subjects made here."""

import importlib
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def compare(monkeypatch, tmp_path):
    """The script, with work that is waiting for so many seconds."""
    monkeypatch.syspath_prepend(str(FOLDER))
    compare = importlib.import_module("compare")

    ours = tmp_path / "ours.py"
    ours.write_text(
        f"import sys, time\nsys.path.insert(0, {str(FOLDER)!r})\nimport turns\n"
        "if 'nothing' in sys.argv: sys.exit('nothing to say')\n"
        "print('a greeting')\n"
        "turns.serve(lambda: time.sleep(float(sys.argv[1])), len(sys.argv) - 2)\n"
    )
    monkeypatch.setattr(compare, "MODEL", ours)
    monkeypatch.setattr(compare, "WORK", {"nap": ("a nap", "0.02")})
    return compare


def _peer(compare, seconds):
    return f"{sys.executable} {compare.MODEL} {seconds}"


def test_subjects_take_turns_and_the_ratio_is_of_the_same_turn(compare, capsys):
    peers = {"slow": _peer(compare, 0.08), "none": _peer(compare, "nothing")}
    found = compare.measure("nap", peers, 3)
    assert [*found] == ["load", "ours", "slow"]  # what declined is left out
    assert "without none" in capsys.readouterr().err
    assert [len(turn) for turn in found.values()] == [3, 3, 3]
    low, middle, high = compare.spread(found["ours"], found["slow"])
    assert 0.15 < low <= middle <= high
    assert middle < 0.6
    about = dict(machine=compare.machine(), date="2026-01-02", rounds=3)
    text = compare.table(about | {"work": {"nap": found}})
    assert "| a nap | 0.02 s, " in text
    assert f"{middle:.2f} ({low:.2f} to {high:.2f})" in text
    assert compare.machine()["processor"] in text


def test_a_clip_is_counted_by_frame(compare):
    compare.WORK["nap4"] = "a clip", "0.08 - - -"
    (turn,) = compare.measure("nap4", {}, 1)["ours"]
    assert 0.02 <= turn["seconds"] < 0.06


def test_what_we_serve_must_not_fail(compare):
    compare.WORK["broken"] = "none", "nothing"
    with pytest.raises(RuntimeError, match=r"ours.py.*ended with 1"):
        compare.measure("broken", {}, 1)


def test_figures_of_another_machine_are_refused(compare, tmp_path, monkeypatch):
    path = tmp_path / "speed.json"
    options = ["nap", "--rounds=1"]
    monkeypatch.setattr(sys, "argv", ["compare.py", *options, f"--json={path}"])
    compare.main()
    kept = json.loads(path.read_text())
    assert [*kept["work"]] == ["nap"]
    kept["machine"]["processor"] = "another"
    path.write_text(json.dumps(kept))
    monkeypatch.setattr(sys, "argv", ["compare.py", *options, f"--against={path}"])
    with pytest.raises(SystemExit, match="of another machine"):
        compare.main()


@pytest.mark.parametrize(("was", "fails"), [(0.02, False), (0.005, True)])
def test_work_that_became_slower_fails(was, fails, compare, tmp_path, monkeypatch):
    path = tmp_path / "speed.json"
    known = {"nap": {"ours": [{"seconds": was}]}, "gone": {"ours": []}}
    path.write_text(json.dumps({"machine": compare.machine(), "work": known}))
    options = ["nap", "--rounds=1", "--most=3", f"--against={path}"]
    monkeypatch.setattr(sys, "argv", ["compare.py", *options])
    with pytest.raises(SystemExit) as stop:
        compare.main()
    assert bool(stop.value.code) == fails
    if fails:
        assert str(stop.value.code).startswith("nap: 0.0")


def test_table_of_the_page_is_made_of_what_is_kept(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    compare = importlib.import_module("compare")
    docs = FOLDER.parent / "docs"
    kept = json.loads((docs / "speed.json").read_text())
    assert set(kept["work"]) == set(compare.WORK)
    assert compare.table(kept) in (docs / "measured.md").read_text()


def test_frames_show_the_discs_that_are_annotated(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    turns = importlib.import_module("turns")
    pictures, boxes, masks = turns.frames(2)
    assert pictures.shape == (2, *turns.SIZE_HW, 3)
    assert boxes.shape == (2, turns.OBJECTS, 4)
    for picture, of_frame, discs in zip(pictures, boxes, masks, strict=True):
        for (x1, y1, x2, y2), disc in zip(of_frame.astype(int), discs, strict=True):
            assert disc[y1:y2, x1:x2].sum() == disc.sum() > 0
            assert len({*picture[disc].ravel()}) <= turns.OBJECTS
