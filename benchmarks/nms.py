"""Seconds and memory of NMS: median of repeated runs, compiled and warm.

    python benchmarks/nms.py [--repeats=30]

One call on 5000 boxes, one image's calls per level and per class, batches under vmap;
and the two inputs that are worst: all boxes in one heap, and one long chain.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import timing

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

    return timing.measure(jax.vmap(call) if items else call, args, repeats)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30)
    repeats = parser.parse_args().repeats
    print(timing.where(repeats))
    print(f"{'':28}{timing.COLUMNS}{'kept':>8}")
    for name, row in ROWS.items():
        found = measure(*row, repeats)
        print(f"{name:28}{found}{int(found.result.sum()):8d}", flush=True)


if __name__ == "__main__":
    main()
