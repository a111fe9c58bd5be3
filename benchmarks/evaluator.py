"""Seconds and memory of the evaluator, on a set the size of YouTube-VIS 2019 val.

    python benchmarks/evaluator.py [--videos=302] [--found=20] [--repeats=5]

Makes the set itself: 640 x 360 and 1280 x 720 videos of 12 to 36 frames, two true
tracks each, objects with a wavy outline, `found` result tracks a video. Every run is a
fresh process, so its peak of memory is its own.
"""

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
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
        video = {"id": v, "height": hw[0], "width": hw[1], "file_names": [""] * frames}
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


def measure(folder):
    """One evaluation in this process: wall and CPU seconds, peak MB, the AP."""
    from stan_jax.evaluation import youtube_vis_ap

    wall, cpu = time.perf_counter(), time.process_time()
    stats = youtube_vis_ap.evaluate_files(
        folder / "instances.json", folder / "results.json"
    )
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return wall, cpu, peak, stats["AP"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=302)
    parser.add_argument("--found", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        masks = make(folder, args.videos, args.found)
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            max_workers=1, mp_context=context, max_tasks_per_child=1
        ) as pool:
            runs = list(pool.map(measure, [folder] * args.repeats))
    wall, cpu, peak, ap = (
        statistics.median(column) for column in zip(*runs, strict=True)
    )
    packages = ("numpy", "pycocotools")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    print(f"{platform.processor() or platform.machine()}, Python", end=" ")
    print(f"{platform.python_version()}, {versions}; median of {args.repeats} runs")
    print(
        f"{'videos':>8} {'masks':>9} {'json MB':>8} {'wall s':>8} {'CPU s':>8}", end=""
    )
    print(f" {'peak MB':>8} {'masks/s':>9} {'AP':>7}")
    print(f"{args.videos:>8} {masks:>9} {size:>8.0f} {wall:>8.2f} {cpu:>8.2f}", end="")
    print(f" {peak:>8.0f} {masks / wall:>9.0f} {ap:>7.4f}")


if __name__ == "__main__":
    main()
