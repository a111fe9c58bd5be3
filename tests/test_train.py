import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from stan_jax.annotations import youtube_vis
from stan_jax.masks import codec
from stan_jax.pretrained.load import load
from stan_jax.training import metrics
from tests import kill_resume, runs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return runs.dataset(tmp_path_factory.mktemp("shapes") / "set")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The workdir of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("whole")
    code, output = runs.finish(runs.command("train.py", data, workdir))
    assert code == 0, output
    return workdir


def test_run_leaves_finite_metrics_settings_and_checkpoints(whole):
    lines = metrics.read(whole)
    assert [x["step"] for x in lines] == [*range(1, runs.STEPS + 1), runs.STEPS]
    assert 0 <= lines[-1]["val/AP"] <= 1
    assert list((whole / "images" / "val").rglob("*.png"))
    assert all(isinstance(x["loss"], float) for x in lines[:-1])
    assert all(x["frames_per_s"] > 0 for x in lines[:-1])
    assert json.loads((whole / "config.json").read_text())["optim"]["steps"] == 8
    assert sorted(p.name for p in (whole / "checkpoints").iterdir()) == ["6", "8"]


def test_finished_run_started_again_does_nothing_more(whole, data):
    before = kill_resume.final_state(whole)
    code, output = runs.finish(runs.command("train.py", data, whole))
    assert code == 0, output
    assert "resumed at step 8" in output
    assert not kill_resume.differences(before, kill_resume.final_state(whole))
    assert len(metrics.read(whole)) == runs.STEPS + 1


def test_killed_run_ends_with_the_bits_of_an_uninterrupted_one(whole, data, tmp_path):
    process = runs.start(runs.command("train.py", data, tmp_path))
    for line in runs.lines(process):
        if line.startswith("step 5/"):
            process.kill()
            break
    process.communicate()
    kill_resume.killed_and_resumed(data, tmp_path, [])
    want, got = kill_resume.final_state(whole), kill_resume.final_state(tmp_path)
    assert not kill_resume.differences(want, got)


def test_another_number_of_devices_goes_on_with_the_next_batch(whole, data, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    shutil.rmtree(workdir / "checkpoints" / str(runs.STEPS))
    line = runs.command("train.py", data, workdir, run__cpu_devices=1)
    code, output = runs.finish(line)
    assert code == 0, output
    assert f"resumed at step {runs.STEPS - 2}" in output
    want, got = (
        {(x["step"], name): x[name] for x in metrics.read(folder) for name in x}
        for folder in (whole, workdir)
    )
    assert want.keys() == got.keys()
    for name in ("loss", "grad_norm", "rpn_score", "mask", "track"):
        step = runs.STEPS - 1, name
        assert got[step] == pytest.approx(want[step], rel=1e-6)
    file = f"checkpoints/{runs.STEPS}/_CHECKPOINT_METADATA"
    ends = [json.loads((x / file).read_text()) for x in (whole, workdir)]
    assert ends[0]["custom_metadata"]["data"] == ends[1]["custom_metadata"]["data"]


def test_killed_run_writes_each_mean_once_and_over_the_same_steps(
    whole, data, tmp_path
):
    """A mean that a checkpoint cuts in two would differ from an uninterrupted one."""
    command = runs.command("train.py", data, tmp_path, run__log_every=runs.STEPS)
    process = runs.start(command)
    for line in runs.lines(process):
        if line.startswith("step 4/"):
            process.kill()
            break
    process.communicate()
    code, output = runs.finish(command)
    assert code == 0, output
    single = {x["step"]: x for x in metrics.read(whole) if "loss" in x}
    lines = [line for line in metrics.read(tmp_path) if "loss" in line]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    for line in lines:
        two = [single[line["step"] - i]["loss"] for i in (0, 1)]
        assert line["loss"] == pytest.approx(sum(two) / 2, rel=1e-6)


def test_loss_that_is_no_number_stops_the_run_and_is_never_saved(data, tmp_path):
    code, output = runs.finish(
        runs.command(
            "train.py",
            data,
            tmp_path,
            optim__peak_lr=1e30,
            optim__warmup_steps=0,
            run__log_every=runs.STEPS,
        )
    )
    assert code == 1
    assert "not finite between steps" in output.splitlines()[-1], output
    assert "Traceback" not in output
    assert not list((tmp_path / "checkpoints").iterdir())


def test_sigterm_saves_says_so_and_resumes_bit_for_bit(whole, data, tmp_path):
    process = runs.start(runs.command("train.py", data, tmp_path))
    output = ""
    for line in runs.lines(process):
        output += line
        if line.startswith("step 3/"):
            process.send_signal(signal.SIGTERM)
            break
    output += process.communicate(timeout=200)[0]
    assert process.returncode == 0, output
    assert "stopped by SIGTERM" in output
    code, output = runs.finish(runs.command("train.py", data, tmp_path))
    assert code == 0, output
    assert "resumed at step" in output
    want, got = kill_resume.final_state(whole), kill_resume.final_state(tmp_path)
    assert not kill_resume.differences(want, got)


def test_eval_writes_results_numbers_and_pictures(whole, data):
    code, output = runs.finish(
        runs.command("eval.py", data, whole, thresholds__score_threshold=0.0)
    )
    assert code == 0, output
    assert output.count("Average") == 5
    assert "track 3/6  val_0000  frames_per_s" in output
    assert set(json.loads((whole / "scores.json").read_text())) == {
        "AP",
        "AP50",
        "AP75",
        "AR1",
        "AR10",
    }
    results = json.loads((whole / "results.json").read_text())
    assert {r["video_id"] for r in results} == {1, 2}
    pictures = sorted(p.name for p in (whole / "overlays").iterdir())
    assert pictures == [".written.json", "contact_sheet.png", "val_0000"]
    files = sorted(p.name for p in (whole / "overlays" / "val_0000").iterdir())
    assert files == ["index.html", "overlay.mp4", "tracks.jsonl"]


def test_eval_needs_the_workdir_alone(whole, data, tmp_path):
    out = [tmp_path / name for name in ("config.json", "workdir.json", "named.json")]
    line = runs.command("eval.py", data, whole)
    code, output = runs.finish([*line, f"--out={out[0]}"])
    assert code == 0, output
    line = [sys.executable, "eval.py", f"--workdir={whole}"]
    code, output = runs.finish([*line, f"--out={out[1]}"])
    assert code == 0, output
    val = data / "val"
    named = [f"--annotations={val / 'instances.json'}", f"--frames={val}/JPEGImages"]
    code, output = runs.finish([*line, *named, f"--out={out[2]}"])
    assert code == 0, output
    assert len({path.read_bytes() for path in out}) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=nowhere"], "nowhere: holds no complete checkpoint"),
        (["--annotations=x.json"], "--annotations: and --frames go together"),
        (
            ["--annotations=x.json", "--frames=."],
            "x.json: must be a readable json file, is absent",
        ),
        (["more"], "unknown arguments ['more']"),
    ],
)
def test_eval_that_cannot_be_stops_with_one_line(whole, arguments, message):
    line = [sys.executable, "eval.py", f"--workdir={whole}", *arguments]
    code, output = runs.finish(line)
    assert code == 1
    assert message in output
    assert "Traceback" not in output


def test_loaded_tracker_gives_what_eval_writes(whole, data, tmp_path):
    """And takes nothing but the folder: no config, no json, no class file."""
    line = [sys.executable, "eval.py", f"--workdir={whole}"]
    code, output = runs.finish([*line, f"--out={tmp_path / 'r.json'}"])
    assert code == 0, output
    want = {}
    for row in json.loads((tmp_path / "r.json").read_text()):
        for t, rle in enumerate(row["segmentations"]):
            if rle is not None:
                want.setdefault((row["video_id"], t), []).append(rle["counts"])
    tracker = load(whole)
    dataset = youtube_vis.load(data / "val/instances.json", data / "val/JPEGImages")
    assert tracker.categories == tuple(c.name for c in dataset.categories)
    got = {}
    for video in dataset.videos:
        frames = [youtube_vis.read_frame(dataset, video, t) for t in range(3)]
        for frame in tracker.track(frames):
            for rle in frame.segmentations:
                if codec.area(rle):
                    key = (video.id, frame.index)
                    got.setdefault(key, []).append(rle["counts"])
    assert want
    assert {k: sorted(v) for k, v in got.items()} == {
        k: sorted(v) for k, v in want.items()
    }


@pytest.mark.parametrize("source", ["nowhere", "other"])
def test_used_workdir_refuses_another_start(whole, data, tmp_path, source):
    """Before, it noted that as its origin and went on with its own parameters."""
    before = (whole / "config.json").read_bytes()
    line = runs.command("train.py", data, whole, init_from=tmp_path / source)
    code, output = runs.finish(line)
    assert code == 1
    last = output.splitlines()[-1]
    assert last.startswith("error: "), output
    assert f"has begun from a seed, not from {tmp_path / source}" in last
    assert "name another --workdir" in last
    assert (whole / "config.json").read_bytes() == before


def test_missing_file_to_start_from_is_refused_and_leaves_no_workdir(data, tmp_path):
    line = runs.command("train.py", data, tmp_path / "run", init_from="nowhere.pth")
    code, output = runs.finish(line)
    assert code == 1
    assert "nowhere.pth: cannot be read: No such file" in output.splitlines()[-1]
    assert not (tmp_path / "run" / "config.json").exists()


def test_baseline_starts_a_stan_that_begins_as_the_baseline(data, tmp_path):
    few = dict(optim__steps=2, optim__warmup_steps=0, run__eval_every=0)
    base = tmp_path / "base"
    parts = dict(config="shapes_baseline", data__batch=4, optim__accumulate=2)
    line = runs.command("train.py", data, base, **parts, **few)
    code, output = runs.finish(line)
    assert code == 0, output
    line = runs.command(
        "train.py",
        data,
        tmp_path / "sta",
        init_from=base / "checkpoints",
        optim__peak_lr=0.0,  # so that its last parameters are its first
        **few,
    )
    code, output = runs.finish(line)
    assert code == 0, output
    want, got = (kill_resume.final_state(tmp_path / x, 2) for x in ("base", "sta"))
    names = {k for k in want if k.startswith("params/")}
    new = {k for k in got if k.startswith("params/")} - names
    assert names
    assert {k.split("/")[1] for k in new} == {"sta"}
    assert not kill_resume.differences(
        {k: want[k] for k in names}, {k: got[k] for k in names}
    )
    assert not got["params/sta/gamma"].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__batch": 3}, "must divide by the number of devices, 2"),
        ({"optim__accumulate": 2}, "must divide the pairs of a device, 1"),
        ({"data__max_objects": 1}, "objects"),
        ({"data__gap": "sometimes"}, "gap"),
        ({"data__train__annotations": "nowhere.json"}, "nowhere.json"),
        ({"optim__decay": "up"}, "optim.decay"),
        ({"tracking__slots": 3}, "slots: must hold"),
    ],
)
def test_bad_setting_stops_before_training_with_one_line(
    data, tmp_path, changes, message
):
    code, output = runs.finish(runs.command("train.py", data, tmp_path, **changes))
    assert code == 1
    assert output.splitlines()[-1].startswith("error: "), output
    assert message in output
    assert "Traceback" not in output
    assert not (tmp_path / "checkpoints").exists()


def test_whole_demo_run_traces_each_program_once(data, tmp_path):
    """The train step, and the clip for the one canvas; a second eval.py none at all."""
    changes = dict(run__eval_every=2, optim__steps=4)
    found = {}
    for run in ("train.py", "eval.py", "eval.py again"):
        script = run.split()[0]
        line = runs.command(script, data, tmp_path, **changes)
        line += ["--best"] if script == "eval.py" else []
        code, output = runs.finish(line, JAX_LOG_COMPILES="1")
        assert code == 0, output
        traced = re.findall(r"Finished tracing (\w+) for jit", output)
        found[run] = [traced.count(name) for name in ("train_step", "clip")]
    assert found.pop("eval.py")[0] == 0  # its clip may be on disk already
    assert found == {"train.py": [1, 1], "eval.py again": [0, 0]}


def test_prepared_set_trains_to_the_bits_of_its_json(data, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    split = data / "train"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "stan_jax.loading.tfds_youtube_vis"),
            f"--out={tmp_path / 'tfds'}",
            f"--split=train:{split / 'instances.json'}:{split / 'JPEGImages'}",
        ],
        cwd=runs.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    few = dict(optim__steps=2, run__eval_every=0)
    prepared = {
        "data__train__annotations": tmp_path / "tfds",
        "data__train__frames": "train",
    }
    for workdir, source in (("json", {}), ("stored", prepared)):
        line = runs.command("train.py", data, tmp_path / workdir, **few, **source)
        code, output = runs.finish(line)
        assert code == 0, output
    want, got = (kill_resume.final_state(tmp_path / x, 2) for x in ("json", "stored"))
    assert not kill_resume.differences(want, got)


def test_photographs_of_coco_train_along_with_videos(data, shared_data, tmp_path):
    """Their classes are none of the shapes; the map makes some of them so."""
    folder = shared_data / "coco128_seg" / "train"
    extra = (str(folder / "instances.json"), str(folder / "images"), 1.0)
    line = runs.command(
        "train.py",
        data,
        tmp_path,
        data__extra=(extra,),
        data__class_map={"person": "disc", "elephant": "ring"},
        optim__steps=3,
        run__eval_every=0,
    )
    code, output = runs.finish(line)
    assert code == 0, output
    assert "199 objects of our classes; left out are 479 of 64 other classes" in output
    assert "still images show more than 8 objects: left out" in output
    losses = [x["loss"] for x in metrics.read(tmp_path)]
    assert len(losses) == 3
    assert all(np.isfinite(losses))


def test_further_set_without_our_classes_stops_before_training(
    data, shared_data, tmp_path
):
    folder = shared_data / "coco128_seg" / "val"
    extra = (str(folder / "instances.json"), str(folder / "images"), 1.0)
    line = runs.command("train.py", data, tmp_path / "run", data__extra=(extra,))
    code, output = runs.finish(line)
    assert code == 1
    last = output.splitlines()[-1]
    assert "categories: must share a class with those trained on: " in last
    assert "set data.class_map for its own: person" in last
    assert not (tmp_path / "run").exists()


def test_misspelt_setting_stops_at_once(data, tmp_path):
    start = time.monotonic()
    line = runs.command("train.py", data, tmp_path, optim__peek_lr=1)
    code, output = runs.finish(line)
    assert code != 0
    assert "peek_lr" in output
    assert "Did you mean" in output
    assert time.monotonic() - start < 60
    assert not (tmp_path / "checkpoints").exists()


def test_checkpoint_of_another_architecture_is_refused_and_stays(whole, data):
    before = (whole / "config.json").read_bytes()
    line = runs.command("train.py", data, whole, model__channels=24)
    code, output = runs.finish(line)
    assert code == 1
    last = output.splitlines()[-1]
    assert last.startswith("error: "), output
    assert "step 8: model.channels was 16, is 24: name another --workdir" in last
    assert (whole / "config.json").read_bytes() == before


def _truncate(path):
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize(
    ("spoil", "spoilt"),
    [
        (_truncate, "JPEGImages/train_0001/00001.jpg"),
        (Path.unlink, "JPEGImages/train_0001/00001.jpg"),
        (_truncate, "instances.json"),
    ],
    ids=["truncated frame", "missing frame", "broken json"],
)
def test_broken_file_stops_before_training_with_one_line(tmp_path, spoil, spoilt):
    data = runs.dataset(tmp_path / "set")
    spoil(data / "train" / spoilt)
    code, output = runs.finish(runs.command("train.py", data, tmp_path / "run"))
    assert code == 1
    assert output.splitlines()[-1].startswith("error: "), output
    assert spoilt in output.splitlines()[-1]
    assert "Traceback" not in output
    assert not (tmp_path / "run").exists()
