"""Seconds and memory that a json of the size of COCO train2017 takes to load.

python benchmarks/coco.py [--annotations=instances_train2017.json]

Without an argument it draws one: 118,287 images with 860,001 objects of 24 points each.
Seconds are CPU time; the peak is that of the whole process.
"""

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stan_jax.annotations import classes, coco_images
from stan_jax.annotations.youtube_vis import Category, Dataset
from stan_jax.loading import batches, plan

IMAGES, OBJECTS, HW = 118_287, 860_001, (480, 640)
NAMES = ["person", "car", "dog", *(f"class {i}" for i in range(77))]
OURS = tuple(Category(i, n) for i, n in enumerate(("person", "sedan", "dog"), start=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--annotations", type=Path)
    path = parser.parse_args().annotations
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, Python {platform.python_version()}, numpy {np.__version__}")
    if path is not None:
        measure(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(draw(Path(folder) / "coco.json"))


def measure(path: Path) -> None:
    print(f"{path.stat().st_size / 1e6:.0f} MB")
    dataset: Dataset = timed("loaded", lambda: coco_images.load(path, path.parent))
    mapped, line = timed(
        "matched", lambda: classes.matched(dataset, OURS, {"car": "sedan"})
    )
    print(line)
    few, _ = timed("crowded left out", lambda: coco_images.without_crowded(mapped, 16))
    timed("order of pairs", lambda: plan.groups([(few, 1.0)]))
    sizes = (384, 640), ((360, 640),)
    timed("vanishing masks", lambda: batches.vanishing(few, *sizes))


def timed(what: str, function: Callable[[], Any]) -> Any:
    begin = time.process_time()
    found = function()
    seconds = time.process_time() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{what:20s}{seconds:6.1f} s, peak {peak:.2f} GB", flush=True)
    return found


def draw(path: Path) -> Path:
    """Write the json: blobs of all sizes, a third of them persons."""
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        sizes = {"height": HW[0], "width": HW[1]}
        images = [{"id": i, "file_name": f"{i:012}.jpg"} | sizes for i in range(IMAGES)]
        names = [{"id": 1 + i, "name": name} for i, name in enumerate(NAMES)]
        head = json.dumps({"images": images, "categories": names})
        file.write(head[:-1] + ', "annotations": [')
        turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        for i in range(OBJECTS):
            radius = np.exp(rng.uniform(1.5, 4.5)) * rng.uniform(0.7, 1.3, 24)
            x = rng.uniform(0, HW[1]) + radius * np.cos(turns)
            y = rng.uniform(0, HW[0]) + radius * np.sin(turns)
            corners = np.stack([x.clip(0, HW[1]), y.clip(0, HW[0])], axis=1)
            category = int(rng.integers(1, 81)) if rng.random() < 0.7 else 1
            row: dict[str, Any] = {"id": i, "image_id": i % IMAGES}
            row |= {"category_id": category, "iscrowd": 0}
            row["segmentation"] = [corners.ravel().round(2).tolist()]
            file.write(", " * (i > 0) + json.dumps(row))
        file.write("]}")
    return path


if __name__ == "__main__":
    main()
