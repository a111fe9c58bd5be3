"""Seconds and memory of RoIAlign: median of repeated runs, compiled and warm.

    python benchmarks/roi_align.py [--repeats=20]

Forward alone, and forward with the gradient of the levels. The bar for the first row
is torchvision's 0.38 s (forward, 2 CPU cores).
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import timing

from stan_jax.ops import roi_align

STRIDES = (4, 8, 16, 32)
# name: images, frame, channels, boxes per image, bins per side, samples per bin side
ROWS = {
    "1000 boxes, 7x7, 256 ch": (1, (384, 640), 256, 1000, 7, 2),
    "128 boxes, adaptive": (1, (384, 640), 256, 128, 7, 0),
    "128 boxes, 7x7, 256 ch": (1, (384, 640), 256, 128, 7, 2),
    "32 boxes, 14x14, 256 ch": (1, (384, 640), 256, 32, 14, 2),
    "demo 8x64 boxes, 7x7, 64 ch": (8, (96, 160), 64, 64, 7, 2),
    "demo 8x16 boxes, 14x14, 64 ch": (8, (96, 160), 64, 16, 14, 2),
}


def scene(batch, frame_hw, channels, num, rng):
    """Levels of a frame, and boxes of all sizes from 1/80 to 1/2 of its width."""
    height, width = frame_hw
    levels = tuple(
        jnp.asarray(
            rng.standard_normal((batch, height // s, width // s, channels)), jnp.float32
        )
        for s in STRIDES
    )
    centre = rng.uniform(0, [width, height], (batch, num, 2))
    half = np.exp(rng.uniform(np.log(width / 160), np.log(width / 4), centre.shape))
    boxes = np.concatenate([centre - half, centre + half], -1)
    return levels, jnp.asarray(boxes.clip(0, [width, height] * 2), jnp.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    print(timing.where(repeats))
    print(f"{'':43}{timing.COLUMNS}")
    rng = np.random.default_rng(0)
    for name, (batch, frame_hw, channels, num, out, sampling) in ROWS.items():
        levels, boxes = scene(batch, frame_hw, channels, num, rng)
        shape = (batch, num, out, out, channels)
        weight = jnp.asarray(rng.standard_normal(shape), jnp.float32)

        def forward(levels, boxes, _, out=out, sampling=sampling):
            return roi_align.roi_align(
                levels, boxes, strides=STRIDES, out=out, sampling=sampling
            )

        def loss(levels, boxes, weight, forward=forward):
            return (forward(levels, boxes, weight) * weight).sum()

        for what, function in (("forward", forward), ("with gradient", jax.grad(loss))):
            found = timing.measure(function, (levels, boxes, weight), repeats)
            print(f"{name:30}{what:13}{found}", flush=True)


if __name__ == "__main__":
    main()
