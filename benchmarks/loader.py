"""Training pairs a second from disk, and where their time goes.

python benchmarks/loader.py [--annotations=J --frames=F] [--canvas=384x640]

Without arguments it draws sets of its own: the size of the demo, of the real videos
used in the tests, 1280 x 720 frames that are decoded at half size, and stills of the
size of COCO's beside videos of it. Batches of 8 through two threads; median of the
repeats. Milliseconds are CPU time of one pair.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import grain
import numpy as np
import PIL
from PIL import Image, ImageDraw

from stan_jax.annotations import youtube_vis
from stan_jax.loading import batches, clips, plan
from stan_jax.media import glide
from stan_jax.ops import canvas as canvases

BATCH, THREADS, REPEATS, BATCHES = 8, 2, 5, 12
OWN_SETS = {  # height, width and frames of a video; canvas
    "96 x 160": ((96, 160), 12, (96, 160)),
    "360 x 640": ((360, 640), 12, (384, 640)),
    "720 x 1280 to half": ((720, 1280), 12, (384, 640)),
    "480 x 640": ((480, 640), 12, (384, 640)),
    "480 x 640, stills that move": ((480, 640), 1, (384, 640)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--annotations", type=Path)
    parser.add_argument("--frames", type=Path)
    parser.add_argument("--canvas", default="384x640")
    parser.add_argument("--max_objects", type=int, default=16)
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(
        f"{cores} cores, Python {platform.python_version()}, numpy {np.__version__},"
        f" pillow {PIL.__version__}, grain {grain.__version__}, {THREADS} threads"
    )
    if args.annotations:
        dataset = youtube_vis.load(args.annotations, args.frames)
        h, w = (int(x) for x in args.canvas.split("x"))
        measure(str(args.annotations), dataset, (h, w), args.max_objects)
        return
    for name, (size_hw, length, canvas) in OWN_SETS.items():
        with tempfile.TemporaryDirectory() as folder:
            dataset = draw_set(Path(folder), size_hw, length)
            measure(name, dataset, canvas, args.max_objects)


def measure(
    name: str, dataset: youtube_vis.Dataset, canvas: tuple[int, int], max_objects: int
) -> None:
    rates, costs = [], []
    for repeat in range(REPEATS):
        iterator = batches.pairs(
            [(dataset, 1.0)],
            batch=BATCH,
            canvas=canvas,
            gap="any",
            flip=0.5,
            seed=repeat,
            max_objects=max_objects,
            num_threads=THREADS,
            still_motion=1.0,
        )
        for _ in range(5):  # what was read ahead while we did not look
            next(iterator)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(BATCHES):
            next(iterator)
        rates.append(BATCH * BATCHES / (time.perf_counter() - wall))
        costs.append((time.process_time() - cpu) / (BATCH * BATCHES) * 1e3)
        iterator.close()
    print(
        f"{name}: {statistics.median(rates):.0f} pairs/s"
        f" ({min(rates):.0f} to {max(rates):.0f}), {statistics.median(costs):.2f} ms"
    )
    for part, function in parts(dataset, canvas).items():
        print(f"    {part:32s}{timed(function):8.3f} ms")


def parts(
    dataset: youtube_vis.Dataset, canvas: tuple[int, int]
) -> dict[str, Callable[[], object]]:
    item = plan.all_items(dataset)[0]
    video = item.video
    size_hw = (video.height, video.width)
    canvas_hw = canvases.canvas_of(*size_hw, canvas)
    _, new_h, new_w = canvases.fit(*size_hw, canvas_hw, canvas)
    frame = youtube_vis.read_frame(dataset, video, item.t, max_hw=(new_h, new_w))
    rle = next(s for x in plan.trained(video) for s in x.segmentations if s)
    mask = youtube_vis.mask(rle, *size_hw)
    groups = plan.groups([(dataset, 1.0)])
    (step,) = glide.glide(size_hw, 1, np.random.default_rng(0))
    of_mask = glide.rescaled(step, size_hw, (new_h, new_w), size_hw)
    step = glide.rescaled(step, size_hw, (new_h, new_w), frame.shape[:2])
    return {
        "keys of a batch": lambda: plan.batch_items(groups, BATCH, 0, 7),
        "one frame, whole": lambda: youtube_vis.read_frame(dataset, video, item.t),
        "one frame, as used": lambda: youtube_vis.read_frame(
            dataset, video, item.t, max_hw=(new_h, new_w)
        ),
        "resize of a frame": lambda: canvases.resize_frame(frame, (new_h, new_w)),
        "one mask decoded": lambda: youtube_vis.mask(rle, *size_hw),
        "resize of a mask": lambda: clips.resize_mask(mask, (new_h, new_w)),
        "box of a mask": lambda: clips.tight_box(mask),
        "one frame, moved": lambda: glide.warp(
            Image.fromarray(frame), step, (new_h, new_w)
        ),
        "one mask, moved": lambda: glide.warp_mask(rle, of_mask, (new_h, new_w)),
    }


def timed(function: Callable[[], object]) -> float:
    """Median CPU milliseconds of a call."""
    found = []
    for _ in range(5 * REPEATS):
        start = time.process_time()
        for _ in range(4):
            function()
        found.append((time.process_time() - start) / 4 * 1e3)
    return statistics.median(found)


def draw_set(
    folder: Path, size_hw: tuple[int, int], length: int
) -> youtube_vis.Dataset:
    """Videos of 36 noisy frames in all, three discs in each."""
    height, width = size_hw
    rng = np.random.default_rng(0)
    videos, rows = [], []
    for v in range(36 // length):
        names = [f"{v}/{t:05d}.jpg" for t in range(length)]
        videos.append({"id": v, "height": height, "width": width, "file_names": names})
        noise = rng.integers(60, 200, (height // 4, width // 4, 3), np.uint8)
        for t, name in enumerate(names):
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            image = Image.fromarray(np.roll(noise, t, axis=1)).resize((width, height))
            image.save(path, quality=90)
        for m in range(3):
            masks = [disc(size_hw, m, t) for t in range(length)]
            row = {"id": 10 * v + m, "video_id": v, "category_id": 1}
            rows.append(row | {"segmentations": masks})
    content = {
        "videos": videos,
        "annotations": rows,
        "categories": [{"id": 1, "name": "disc"}],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return youtube_vis.load(path, folder)


def disc(size_hw: tuple[int, int], m: int, t: int) -> dict:
    height, width = size_hw
    image = Image.new("L", (width, height))
    x, y, r = width * (0.2 + 0.25 * m + 0.01 * t), height / 2, height / 5
    ImageDraw.Draw(image).ellipse((x - r, y - r, x + r, y + r), fill=1)
    flat = np.asarray(image).ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=0, append=0))
    counts = np.diff(edges, prepend=0, append=flat.size)
    return {"size": [height, width], "counts": counts.tolist()}


if __name__ == "__main__":
    main()
