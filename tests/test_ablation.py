"""The comparison of `benchmarks/ablation.py`, on results made here."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from tiny_sets import box_mask

from stan_jax.configs import shapes_ablation
from stan_jax.evaluation import tracking_metrics, youtube_vis_ap

ROOT = Path(__file__).resolve().parents[1]
SIZE, FRAMES = (24, 40), 4


def _module(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"benchmarks/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ablation():
    return _module("ablation")


def _rle(x):
    mask = np.asfortranarray(box_mask(*SIZE, (x, 4, x + 8, 14)).astype(np.uint8))
    rle = coco_mask.encode(mask)
    return {"size": list(SIZE), "counts": rle["counts"].decode()}


@pytest.fixture(scope="module")
def truth():
    videos = [
        dict(id=i, height=24, width=40, length=FRAMES)
        | dict(file_names=[f"{i}/{t}.jpg" for t in range(FRAMES)])
        for i in (1, 2, 3)
    ]
    annotations = [
        dict(id=10 * i + k, video_id=i, category_id=k, iscrowd=0)
        | dict(segmentations=[_rle(t + 12 * k) for t in range(FRAMES)])
        | dict(bboxes=[[t + 12 * k, 4, 8, 10] for t in range(FRAMES)])
        | dict(areas=[80] * FRAMES, height=24, width=40)
        for i in (1, 2, 3)
        for k in (1, 2)
    ]
    categories = [dict(id=1, name="cat"), dict(id=2, name="dog")]
    return dict(videos=videos, annotations=annotations, categories=categories)


def _results(seed, missed):
    """Every object, but for some frames, and a wrong track now and then."""
    rng = np.random.default_rng(seed)
    found: list[dict[str, Any]] = []
    for i in (1, 2, 3):
        for k in (1, 2):
            masks = [_rle(t + 12 * k) for t in range(FRAMES)]
            for t in missed:
                masks[t] = None
            found.append(dict(video_id=i, category_id=k, score=float(rng.random())))
            found[-1]["segmentations"] = masks
        wrong = [_rle(int(rng.integers(30)))] * FRAMES
        found.append(dict(video_id=i, category_id=1, score=float(rng.random())))
        found[-1]["segmentations"] = wrong
    return found


@pytest.fixture
def workdir(ablation, truth, tmp_path, monkeypatch):
    def make(name, results):
        folder = tmp_path / name
        folder.mkdir()
        (tmp_path / "instances.json").write_text(json.dumps(truth))
        (tmp_path / "spoilt.json").write_text(
            json.dumps({"1": [1], "2": [1, 3], "3": [1]})
        )
        place = {"annotations": str(tmp_path / "instances.json")}
        config = {"data": {"val": place}}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "results.json").write_text(json.dumps(results))
        return folder

    monkeypatch.setattr(ablation, "attention", lambda workdir: {})
    return make


def test_figures_of_all_frames_are_the_official_ones(
    ablation, truth, workdir, tmp_path
):
    folder = workdir("a", _results(0, [2]))
    got = ablation.figures(ablation.measure(folder), [1, 2, 3])
    official = youtube_vis_ap.evaluate_files(
        tmp_path / "instances.json", folder / "results.json"
    )
    for name in ("AP50", "AP75", "AR1", "AR10"):
        assert got[name] == official[name]
    assert got["AP all"] == official["AP"]
    tracks = tracking_metrics.evaluate_files(
        tmp_path / "instances.json", folder / "results.json"
    )
    assert got["AssA"] == pytest.approx(tracks["AssA"], abs=1e-12)
    assert 0 < got["AP all"] < 1


def test_frames_of_one_kind_are_scored_without_the_others(ablation, workdir):
    found = [r for r in _results(0, [1]) if r["segmentations"][1] is None]
    got = ablation.figures(ablation.measure(workdir("a", found)), [1, 2, 3])
    # Frame 1 shows nothing; of the spoilt ones only frame 3 of video 2 is there.
    assert got["recall spoilt"] == 2 / 8
    assert got["recall clean"] == 1
    assert got["recall later"] == 12 / 18
    right = [
        r for r in _results(0, []) if r["segmentations"][0] != r["segmentations"][1]
    ]
    perfect = ablation.figures(ablation.measure(workdir("b", right)), [1, 2, 3])
    assert all(value == 1 for value in perfect.values())


def test_seeds_are_so_many_or_just_these(ablation):
    assert [*ablation.numbers("3")] == [0, 1, 2]
    assert [*ablation.numbers("0,1,3")] == [0, 1, 3]


def test_the_page_gives_ratios_where_there_are_some(ablation, monkeypatch):
    monkeypatch.setitem(sys.modules, "ablation", ablation)
    ratio = {"ratio": 1.25, "ratio_interval": [1.2, 1.3]}
    rows = {"a:blank-baseline": {"AP all": {}}, "a:blank-best": {"AP all": ratio}}
    words = "AP over that of the first row: `best` 1.25 (1.20 to 1.30)."
    assert _module("study").ratios(rows) == words
    assert _module("study").ratios({"a:blank-baseline": {"AP all": {}}}) == ""


def test_a_model_that_finds_nothing_scores_0(ablation, workdir):
    got = ablation.figures(ablation.measure(workdir("a", [])), [1, 2, 3])
    assert set(got.values()) == {0}


@pytest.mark.slow
def test_equal_runs_differ_by_nothing_and_a_better_one_by_more(
    ablation, workdir, tmp_path, monkeypatch
):
    folders = {}
    for seed in (0, 1):
        bad, good = _results(seed, [1, 3]), _results(seed, [])
        for name, results in (("base", bad), ("same", bad), ("good", good)):
            folders[name, seed] = workdir(f"{name}_{seed}", results)
    monkeypatch.setattr(ablation, "run", lambda config, seed, folder, _: folder)
    records = tmp_path / "records"
    records.mkdir()
    measured = {w: ablation.record(*w, tmp_path, records, ["x"]) for w in folders}
    report = ablation.compare(["base", "same", "good"], [0, 1], measured)
    assert report["same"]["AP all"]["difference"] == 0
    assert report["same"]["AP all"]["interval"] == [0, 0]
    assert report["same"]["AP all"]["ratio"] == 1
    assert report["same"]["AP all"]["ratio_interval"] == [1, 1]
    better = report["good"]["AP all"]
    low, high = better["ratio_interval"]
    assert better["ratio"] == better["mean"] / report["base"]["AP all"]["mean"]
    assert 1 < low <= better["ratio"] <= high
    low, high = report["good"]["recall spoilt"]["interval"]
    assert 0 < low <= report["good"]["recall spoilt"]["difference"] <= high
    base = report["base"]["AP all"]
    assert base["mean"] == pytest.approx(np.mean(base["values"]))
    assert base["sd"] == pytest.approx(np.std(base["values"], ddof=1))
    # What is recorded is neither made nor measured again.
    monkeypatch.setattr(ablation, "run", None)
    kept = {w: ablation.record(*w, tmp_path, records, ["x"]) for w in folders}
    assert ablation.compare(["base", "same", "good"], [0, 1], kept) == report
    with pytest.raises(SystemExit, match="was made with"):
        ablation.record("base", 0, tmp_path, records, [])
    text = ablation.table(report)
    assert f"| `good` | {report['good']['AP all']['mean']:.3f} +-" in text


def test_a_run_cut_short_goes_on_and_its_time_adds_up(ablation, tmp_path, monkeypatch):
    begun, config = [], "shapes_ablation:blank-best"
    workdir = tmp_path / "best_2"

    def script(command, stdout, **_):
        begun.append(command[1:])
        if len(begun) == 2:
            raise KeyboardInterrupt  # eval.py, the first time
        if command[1] == "eval.py":
            (workdir / "scores.json").write_text('{"AP":1}')

    monkeypatch.setattr(ablation.subprocess, "run", script)
    seconds = iter(range(0, 100, 10))
    monkeypatch.setattr(ablation.time, "monotonic", lambda: float(next(seconds)))
    steps = ["--config.optim.steps=5"]
    with pytest.raises(KeyboardInterrupt):
        ablation.run(config, 2, workdir, steps)
    assert ablation.run(config, 2, workdir, steps) == workdir
    assert [command[0] for command in begun] == ["train.py", "eval.py"] * 2
    assert {"--config.seed=2", *steps} <= set(begun[2])
    assert ablation.spent(workdir) == 40
    ablation.run(config, 2, workdir, steps)  # done: nothing begins
    assert len(begun) == 4
    with pytest.raises(SystemExit, match="was made with"):
        ablation.run(config, 2, workdir, [])


def test_study_compares_every_variant_and_keeps_what_is_measured(
    ablation, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "ablation", ablation)
    study = _module("study")
    variants = {v for part in study.PARTS.values() for v in part.variants}
    assert variants == set(shapes_ablation.VARIANTS)
    asked = []

    def main(argv):
        asked.append(argv)
        (path,) = [a.partition("=")[2] for a in argv if a.startswith("--json=")]
        row = {"AP all": {"mean": 0.25, "sd": None}, "AR1": {"mean": 0.5, "sd": None}}
        made = {"hours": 2, "date": "2026-01-02", "configs": {"a:baseline": row}}
        Path(path).write_text(json.dumps(made | {"command": ["x"]}))

    monkeypatch.setattr(study.ablation, "main", main)
    monkeypatch.setattr(study, "make_set", lambda name: None)
    monkeypatch.setattr(study, "ROOT", tmp_path)
    monkeypatch.setattr(study, "MIX", tmp_path / "none")
    (tmp_path / "docs").mkdir()
    for part in ("blank", "davis", "hard"):
        monkeypatch.setattr(sys, "argv", ["study.py", part, "--jobs=2"])
        study.main()
    found = json.loads((tmp_path / "docs/study.json").read_text())
    assert list(found) == ["blank", "hard"]
    assert found["hard"]["hours"] == 2
    assert "command" not in found["hard"]
    page = (tmp_path / "docs/study.md").read_text()
    seeds = len(study.PARTS["hard"].seeds)
    assert f"## `hard`: hard, 6800 steps, {seeds} seeds\n\n2.0 hours, 2026-01-" in page
    assert "| config | AP all |" in page  # and not every figure
    assert "| `a:baseline` | 0.250 |" in page
    names = "baseline", "paper", "best"
    assert asked[1][:3] == [f"shapes_ablation:hard-{name}" for name in names]
    assert "--config.optim.steps=6800" in asked[1]
    for argv in asked:
        configs = [x.partition(":")[2] for x in argv if not x.startswith("--")]
        assert len(configs) >= 2
        for config in configs:
            shapes_ablation.get_config(config)


def test_page_of_the_study_is_made_of_what_is_kept(ablation, monkeypatch):
    monkeypatch.setitem(sys.modules, "ablation", ablation)
    docs = ROOT / "docs"
    kept = json.loads((docs / "study.json").read_text())
    assert (docs / "study.md").read_text() == _module("study").page(kept)
    readme = (ROOT / "README.md").read_text()
    for name, part in kept.items():
        assert ablation.table(part["configs"], part["shown"]) in readme
        assert (docs / f"study_{name}.png").is_file()
        folder = docs / "study" / f"{part['data']}_{part['steps']}"
        assert len([*folder.iterdir()]) >= len(part["variants"]) * len(part["seeds"])
