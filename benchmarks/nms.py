"""Seconds and memory of NMS: median of repeated runs, compiled and warm.

    python benchmarks/nms.py [--repeats=30]

One call on 5000 boxes, one image's calls per level and per class, batches under vmap;
and the two inputs that are worst: all boxes in one heap, and one long chain.
"""

import argparse
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from stan_jax.ops.nms import nms

# name: rows, items under vmap, groups (0: none), kind of scene, threshold
ROWS = {
    "5000 boxes": (5000, 0, 0, "frame", 0.5),
    "5000 boxes, 40 classes": (5000, 0, 40, "frame", 0.5),
    "5000 boxes in one heap": (5000, 0, 0, "heap", 0.5),
    "5000 boxes in one chain": (5000, 0, 0, "chain", 0.5),
    "1000 boxes, 5 levels": (1000, 0, 5, "frame", 0.7),
    "8 images of 1000, 5 levels": (1000, 8, 5, "frame", 0.7),
    "8 x 5 levels of 200": (200, 40, 0, "frame", 0.7),
}


def scene(num, kind, rng):
    """Boxes and scores: spread over a 640 px frame, in one heap, or in one chain."""
    side = {"frame": 640, "heap": 20, "chain": 640}[kind]
    centre = rng.uniform(0, side, (num, 2))
    half = np.exp(rng.uniform(np.log(4), np.log(100), (num, 2)))
    boxes, scores = np.hstack([centre - half, centre + half]), rng.random(num)
    if kind == "chain":
        x = np.arange(num)[:, None]
        boxes, scores = np.hstack([x, 0 * x, x + 4, 0 * x + 4]), 1 - x[:, 0] / num
    return boxes.astype(np.float32), scores.astype(np.float32)


def measure(num, items, groups, kind, threshold, repeats):
    rng = np.random.default_rng(0)
    boxes, scores = zip(
        *(scene(num, kind, rng) for _ in range(items or 1)), strict=True
    )
    args = [np.stack(boxes), np.stack(scores), np.ones((items or 1, num), bool)]
    if groups:
        args.append(rng.integers(0, groups, (items or 1, num)).astype(np.int32))
    args = [jnp.asarray(x if items else x[0]) for x in args]

    def call(boxes, scores, valid, groups=None):
        return nms(boxes, scores, valid, threshold=threshold, groups=groups)

    run = jax.jit(jax.vmap(call) if items else call).lower(*args).compile()
    kept = int(run(*args).sum())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run(*args).block_until_ready()
        seconds.append(time.perf_counter() - start)
    analysis = run.memory_analysis()  # not every backend has one
    memory = analysis.temp_size_in_bytes if analysis else float("nan")
    return statistics.median(seconds), min(seconds), memory, kept


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30)
    repeats = parser.parse_args().repeats
    device = jax.devices()[0]
    print(
        f"{device.platform} {device.device_kind}, {platform.machine()}, "
        f"jax {jax.__version__}, python {platform.python_version()}, "
        f"{repeats} runs, {time.strftime('%Y-%m-%d')}"
    )
    print(f"{'':28}{'median ms':>10}{'best ms':>9}{'extra MB':>10}{'kept':>8}")
    for name, row in ROWS.items():
        median, best, memory, kept = measure(*row, repeats)
        print(
            f"{name:28}{median * 1e3:10.2f}{best * 1e3:9.2f}"
            f"{memory / 1e6:10.2f}{kept:8d}"
        )


if __name__ == "__main__":
    main()
