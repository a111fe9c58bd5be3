"""Seconds and peak memory of the whole model: backbone, step, clip, training step.

    python benchmarks/model.py [--config=ytvis19_r50_sta] [--repeats=5] [PART ...]
    python benchmarks/model.py step train --variants=baseline,paper,best --json=C.json

Variants are those of `configs/shapes_ablation.py`, laid over the config.

One frame of 640 x 360 on its canvas, random weights, NumPy-made pictures. Each part
runs in a process of its own, so that its peak memory is its own. `step` and `clip`
are those of the tracker, with the masks pasted at 640 x 360 and encoded.
"""

import argparse
import importlib
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import timing  # noqa: E402

PARTS = ("backbone", "step", "clip", "train")


def measure(part, config, variant, repeats):
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    from stan_jax.configs import shapes_ablation
    from stan_jax.model import parameters
    from stan_jax.model.build import build
    from stan_jax.model.stan import Thresholds
    from stan_jax.pretrained import record
    from stan_jax.tracking.tracker import Program, Tracker
    from stan_jax.training import mesh, optimizer, train_step
    from stan_jax.training.losses import LossKinds, Sampling
    from stan_jax.types import Pair

    mesh.configure(cpu_devices=1)
    c = importlib.import_module(f"stan_jax.configs.{config}").get_config()
    with c.unlocked():
        c.update_from_flattened_dict(shapes_ablation.VARIANTS[variant])
    c.thresholds.score_threshold = 0.0  # random weights: all ten rows are used
    classes = [f"class {n}" for n in range(40)]
    settings = record.from_config(c.to_dict(), classes).settings
    model = build(num_classes=len(classes), **c.model, rngs=nnx.Rngs(0))
    structure, values = parameters.split(model)
    rng = np.random.default_rng(0)
    (fh, fw), size = c.data.canvas, np.array(c.data.scale_hw)
    frames = rng.integers(0, 256, (c.tracking.clip_length, fh, fw, 3), np.uint8)
    sizes = np.tile(size, (len(frames), 1))
    per_call = len(frames) if part == "clip" else 1

    if part == "backbone":
        run = jax.jit(lambda p, x, hw: parameters.merge(structure, p).features(x, hw))

        def call():
            jax.block_until_ready(run(values, frames[:1], sizes[:1]))

    elif part in ("step", "clip"):
        settings = settings._replace(clip_length=per_call)
        tracker = Tracker(Program(structure, values, settings), values, classes)
        some = [frame[: size[0], : size[1]] for frame in frames[:per_call]]

        def call():
            list(tracker.track(some))

    else:
        m = c.data.max_objects
        corner = rng.uniform(0, 0.6, (1, 2, m, 2)) * size[::-1]
        boxes = np.concatenate([corner, corner + 0.3 * size[::-1]], -1)
        pair = Pair(
            frames=jnp.asarray(frames[None, : c.data.frames]),
            size_hw=jnp.asarray(size[None]),
            boxes=jnp.asarray(boxes, jnp.float32),
            present=jnp.broadcast_to(jnp.arange(m) < 3, (1, 2, m)),
            labels=jnp.zeros((1, m), jnp.int32),
            masks=jnp.asarray(rng.random((1, m, fh, fw)) < 0.5),
            seen=jnp.full(1, c.data.frames - 1, jnp.int32),
        )
        tx = optimizer.build(values.params, **c.optim, frozen=model.frozen_paths)
        update = train_step.make_train_step(
            structure,
            values.statistics,
            tx,
            mesh.make_mesh(1),
            seed=0,
            loss_weights=c.loss.weights.to_dict(),
            thresholds=Thresholds(**c.thresholds),
            sampling=Sampling(**c.loss.sampling),
            kinds=LossKinds(**c.loss.kinds),
            dtype=c.run.dtype,
        )
        state = [train_step.start(jax.tree.map(jnp.copy, values.params), tx)]

        def call():
            state[0], metrics = update(state[0], pair)
            jax.block_until_ready(metrics)

    start = time.perf_counter()
    call()
    compile_s = time.perf_counter() - start
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append((time.perf_counter() - start) / per_call)
    found = dict(
        variant=variant,
        part=part,
        seconds=statistics.median(seconds),
        best=min(seconds),
        first=compile_s,
        gigabytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    )
    print(json.dumps(found))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=PARTS)
    parser.add_argument("--config", default="ytvis19_r50_sta")
    parser.add_argument("--variants", default="paper", help="joined by commas")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where all figures go")
    parser.add_argument("--alone", action="store_true", help="in this very process")
    args = parser.parse_args()
    if args.alone:
        measure(args.parts[0], args.config, args.variants, args.repeats)
        return
    where = timing.where(args.repeats)
    print(f"{args.config}: {where}")
    print(f"{'':25}{'s a frame':>12}{'best':>10}{'first call':>12}{'peak GB':>10}")
    rows = []
    for variant in args.variants.split(","):
        for part in args.parts:
            command = [sys.executable, __file__, part, "--alone"]
            options = (args.config, variant, args.repeats)
            names = ("config", "variants", "repeats")
            command += [f"--{n}={v}" for n, v in zip(names, options, strict=True)]
            done = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True
            )
            row = json.loads(done.stdout.splitlines()[-1])
            rows.append(row)
            print(
                f"{variant:17}{part:8}{row['seconds']:12.3f}{row['best']:10.3f}"
                f"{row['first']:12.1f}{row['gigabytes']:10.2f}",
                flush=True,
            )
    if args.json:
        note = {"config": args.config, "where": where, "date": time.strftime("%F")}
        args.json.write_text(json.dumps(note | {"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
