"""Seconds and memory of the evaluator, on a set the size of YouTube-VIS 2019 val.

    python benchmarks/evaluator.py [--videos=302] [--found=20] [--repeats=5]

Makes the set itself: 640 x 360 and 1280 x 720 videos of 12 to 36 frames, two true
tracks each, objects with a wavy outline, `found` result tracks a video; --data takes a
set that is there. Every run is a fresh process. The official code is compared with if
it is at hand, for instance the copy in mmdet:

    pip download --no-deps mmdet==3.3.0
    unzip mmdet-3.3.0-py3-none-any.whl "mmdet/evaluation/functional/ytvis*"
    python benchmarks/evaluator.py --official=mmdet/evaluation/functional
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

CATEGORIES = 40


def outline(hw, x, y, radius, phase):
    """Run lengths of a wavy disc, column by column; None out of sight."""
    height, width = hw
    columns = np.arange(max(0, int(x - radius)), min(width, int(x + radius) + 1))
    half = np.sqrt(np.maximum(0, radius**2 - (columns - x) ** 2))
    half *= 1 + 0.15 * np.sin(columns / 9 + phase)
    top = np.clip(np.round(y - half), 0, height).astype(int)
    end = np.clip(np.round(y + half), 0, height).astype(int)
    keep = end > top
    if not keep.any():
        return None
    edges = (columns[keep] * height + [top[keep], end[keep]]).T.ravel()
    counts = np.diff(edges, prepend=0, append=height * width)
    return coco_mask.frPyObjects({"size": list(hw), "counts": counts.tolist()}, *hw)


def track(rng, hw, path, miss):
    """One mask per frame along a path; miss: how far off it is, and how often away."""
    x, y, radius = path
    off = rng.normal(0, miss, 3) * [1, 1, 0.3] * radius
    masks = []
    for t in range(len(x)):
        code = None
        if rng.random() > miss:
            code = outline(hw, x[t] + off[0], y[t] + off[1], radius + off[2], t / 5)
        masks.append(code and {**code, "counts": code["counts"].decode()})
    return masks


def make(folder, videos, found, seed=0):
    """Write instances.json and results.json; return the number of result masks."""
    rng = np.random.default_rng(seed)
    names = [{"id": c + 1, "name": f"class {c}"} for c in range(CATEGORIES)]
    content = {"videos": [], "categories": names, "annotations": []}
    rows, masks = [], 0
    for v in range(1, videos + 1):
        hw = (720, 1280) if rng.random() < 0.75 else (360, 640)
        frames = int(rng.integers(12, 37))
        names = [f"{v:05}/{t:05}.jpg" for t in range(frames)]
        video = {"id": v, "height": hw[0], "width": hw[1], "file_names": names}
        content["videos"].append(video)
        paths = []
        for _ in range(2):
            x, y = (rng.uniform(0.2, 0.8) * s for s in (hw[1], hw[0]))
            drift = np.cumsum(rng.normal(0, hw[0] / 90, (2, frames)), axis=1)
            path = x + drift[0], y + drift[1], rng.uniform(0.05, 0.4) * hw[0]
            category = int(rng.integers(1, CATEGORIES + 1))
            paths.append((category, path))
            segmentations = track(rng, hw, path, 0.0)
            areas = [s and int(coco_mask.area(s)) for s in segmentations]
            annotation = {
                "id": len(content["annotations"]) + 1,
                "video_id": v,
                "category_id": category,
                "iscrowd": 0,
                "areas": areas,
                "segmentations": segmentations,
            }
            content["annotations"].append(annotation)
        for n in range(found):
            category, path = paths[n % 2]
            miss = abs(rng.normal(0, 0.1)) if n < 2 else rng.uniform(0.05, 0.6)
            if rng.random() < 0.3:
                category = int(rng.integers(1, CATEGORIES + 1))
            row = {"video_id": v, "category_id": category, "score": 1 - float(miss)}
            rows.append(row | {"segmentations": track(rng, hw, path, miss)})
            masks += sum(s is not None for s in rows[-1]["segmentations"])
    (folder / "instances.json").write_text(json.dumps(content))
    (folder / "results.json").write_text(json.dumps(rows))
    return masks


def run(how, folder, official):
    """One evaluation in this process; prints the AP."""
    paths = str(folder / "instances.json"), str(folder / "results.json")
    if how == "official":
        ap = official_ap(paths, official)
    elif how == "stan score":
        from stan_jax.evaluation import score

        ap = score.score_files(*paths).official["AP"]
    else:
        from stan_jax.evaluation import youtube_vis_ap

        workers = int(how.rpartition("=")[2]) if "=" in how else 1
        ap = youtube_vis_ap.evaluate_files(*paths, workers=workers)["AP"]
    print(repr(float(ap)))


def official_ap(paths, folder):
    """Return the official code's AP; folder: of ytvis.py and ytviseval.py."""
    # It was written for a NumPy that had this name and took floats for numbers.
    linspace = np.linspace
    vars(np).update(
        float=float,
        linspace=lambda a, b, number, **rest: linspace(a, b, int(number), **rest),
    )
    sys.path.insert(0, folder)
    YTVIS = importlib.import_module("ytvis").YTVIS
    YTVISeval = importlib.import_module("ytviseval").YTVISeval
    with contextlib.redirect_stdout(io.StringIO()):
        truth = YTVIS(paths[0])
        evaluation = YTVISeval(truth, truth.loadRes(paths[1]), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


def measure(how, folder, official):
    """A fresh process: wall and CPU seconds, peak MB, the AP."""
    line = [sys.executable, __file__, "--run", how, "--data", folder]
    line += ["--official", official] if official else []
    start = time.perf_counter()
    child = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    printed = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{how} failed")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, float(printed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=302)
    parser.add_argument("--found", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data", type=Path, help="a folder with the two files")
    parser.add_argument("--official", help="folder of ytvis.py and ytviseval.py")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        run(args.run, args.data, args.official)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = args.data or Path(name)
        if args.data is None:
            make(folder, args.videos, args.found)
        size = sum(path.stat().st_size for path in folder.glob("*s.json")) / 1e6
        kinds = ["official"] if args.official else []
        kinds += ["AP alone", "AP alone, workers=2", "stan score"]
        # In turn, so that all meet the same moods of the machine.
        runs = [
            [measure(how, folder, args.official) for how in kinds]
            for _ in range(args.repeats)
        ]
    versions = ", ".join(f"{p} {version(p)}" for p in ("numpy", "pycocotools"))
    print(
        f"{platform.machine()}, Python {platform.python_version()}, {versions}, "
        f"{time.strftime('%Y-%m-%d')}; {size:.0f} MB of json, medians of {args.repeats}"
    )
    print(
        f"{'':20} {'wall s':>8} {'CPU s':>8} {'peak MB':>8} {'wall':>6} {'CPU':>6}  AP"
    )
    for k, how in enumerate(kinds):
        wall, cpu, peak, ap = (
            statistics.median(turn[k][i] for turn in runs) for i in range(4)
        )
        # Of the first kind's, turn by turn.
        parts = (
            statistics.median(turn[k][i] / turn[0][i] for turn in runs) for i in (0, 1)
        )
        shares = " ".join(f"{part:6.0%}" for part in parts)
        print(f"{how:20} {wall:8.2f} {cpu:8.2f} {peak:8.0f} {shares}  {ap!r}")


if __name__ == "__main__":
    main()
