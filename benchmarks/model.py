"""Seconds and peak memory of the whole model: backbone, step, clip, training step.

    python benchmarks/model.py [--config=ytvis19_r50_sta] [--repeats=5] [PART ...]
    python benchmarks/model.py step train --variants=baseline,paper,best --json=C.json
    python benchmarks/model.py train --batch=8 --accumulate=8

Variants are those of `configs/shapes_ablation.py`, laid over the config.

Frames of the config's size, 640 x 360 by default, random weights, moving discs. A part
runs in a process of its own, so that its peak memory is its own. `step` and `clip`
are those of the tracker, with the masks pasted at that size and encoded. What a
training step is planned to hold is the compiler's own figure.
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
import turns  # noqa: E402

PARTS = ("backbone", "step", "clip", "train")


def prepare(part, config, variant, detections, batch, accumulate):
    """Return what does a part once, its frames, and the bytes it is planned to hold.

    batch, accumulate: pairs of a training step, and parts that they are cut into.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    from stan_jax.configs import shapes_ablation
    from stan_jax.model import parameters
    from stan_jax.model.build import build
    from stan_jax.model.stan import Thresholds
    from stan_jax.planning import programs
    from stan_jax.pretrained import record
    from stan_jax.tracking.program import Program
    from stan_jax.tracking.tracker import Tracker
    from stan_jax.training import mesh, optimizer, train_step
    from stan_jax.training.losses import LossKinds, Sampling
    from stan_jax.types import Pair

    mesh.configure(cpu_devices=1)
    c = importlib.import_module(f"stan_jax.configs.{config}").get_config()
    with c.unlocked():
        c.update_from_flattened_dict(shapes_ablation.VARIANTS[variant])
    c.thresholds.score_threshold = 0.0  # random weights: all rows are used
    c.thresholds.detections = detections
    c.tracking.slots = max(c.tracking.slots, 2 * detections)
    classes = [f"class {n}" for n in range(40)]
    settings = record.from_config(c.to_dict(), classes).settings
    model = build(num_classes=len(classes), **c.model, rngs=nnx.Rngs(0))
    if part != "train":  # random embeddings would make one track of all boxes
        model.track_head.fc2.kernel[...] = jnp.zeros_like(model.track_head.fc2.kernel)
    structure, values = parameters.split(model)
    (fh, fw), size = c.data.canvas, np.array(c.data.scale_hw)
    number = max(c.tracking.clip_length, c.data.frames)
    pictures, boxes, masks = turns.frames(number, size)
    edge = [(0, fh - size[0]), (0, fw - size[1])]
    frames = np.pad(pictures, [(0, 0), *edge, (0, 0)])
    sizes = np.tile(size, (len(frames), 1))
    per_call, planned = len(frames) if part == "clip" else 1, None

    if part == "backbone":
        run = jax.jit(lambda p, x, hw: parameters.merge(structure, p).features(x, hw))

        def call():
            jax.block_until_ready(run(values, frames[:1], sizes[:1]))

    elif part in ("step", "clip"):
        settings = settings._replace(clip_length=per_call)
        tracker = Tracker(Program(structure, values, settings), values, classes)

        def call():
            for found in tracker.track(list(pictures[:per_call])):
                assert len(found.ids) > detections / 2, len(found.ids)

    else:
        m, f = c.data.max_objects, c.data.frames
        beyond = [(0, m - boxes.shape[1]), (0, 0)]
        arrays = dict(
            frames=frames[None, :f],
            size_hw=size[None],
            boxes=np.pad(boxes[None, f - 2 : f], [(0, 0)] * 2 + beyond),
            present=np.broadcast_to(np.arange(m) < boxes.shape[1], (1, 2, m)),
            labels=np.zeros((1, m), np.int32),
            masks=np.pad(masks[f - 1], [beyond[0], *edge])[None],
            seen=np.full(1, f - 1, np.int32),
        )
        arrays = {name: np.repeat(x, batch, axis=0) for name, x in arrays.items()}
        one = mesh.make_mesh(1)
        pairs = Pair(**{name: jnp.asarray(x) for name, x in arrays.items()})
        pairs = mesh.shard(pairs, one)
        rule = c.optim.to_dict()
        rule.pop("accumulate")
        tx = optimizer.build(values.params, **rule, frozen=model.frozen_paths)
        update = train_step.make_train_step(
            structure,
            values.statistics,
            tx,
            one,
            seed=0,
            loss_weights=c.loss.weights.to_dict(),
            thresholds=Thresholds(**c.thresholds),
            sampling=Sampling(**c.loss.sampling),
            kinds=LossKinds(**c.loss.kinds),
            dtype=c.run.dtype,
            accumulate=accumulate,
        )
        # As in train.py: a state laid out otherwise would be compiled for once more.
        state = [mesh.replicate(train_step.start(values.params, tx), one)]
        del model, values
        update = train_step.compiled(update, state[0], pairs)
        planned = programs.memory(update, state[0], pairs).peak

        def call():
            state[0], metrics = update(state[0], pairs)
            jax.block_until_ready(metrics)

    return call, per_call, planned


def measure(part, config, variant, detections, batch, accumulate, repeats):
    call, per_call, planned = prepare(
        part, config, variant, detections, batch, accumulate
    )
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
        planned=planned and planned / 1e9,
    )
    print(json.dumps(found))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=PARTS)
    parser.add_argument("--config", default="ytvis19_r50_sta")
    parser.add_argument("--variants", default="paper", help="joined by commas")
    parser.add_argument("--detections", type=int, default=10, help="of a frame")
    parser.add_argument("--batch", type=int, default=1, help="pairs of a training step")
    parser.add_argument("--accumulate", type=int, default=1, help="parts of a batch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where all figures go")
    parser.add_argument("--alone", action="store_true", help="in this very process")
    parser.add_argument("--serve", action="store_true", help="see turns.py")
    args = parser.parse_args()
    pairs = args.batch, args.accumulate
    what = args.parts[0], args.config, args.variants, args.detections, *pairs
    if args.serve:
        turns.serve(*prepare(*what)[:2])
        return
    if args.alone:
        measure(*what, args.repeats)
        return
    where = timing.where(args.repeats)
    print(f"{args.config}: {where}")
    head = f"{'':25}{'s a frame':>12}{'best':>10}{'first call':>12}{'peak GB':>10}"
    print(f"{head}{'planned GB':>12}")
    rows = []
    for variant in args.variants.split(","):
        for part in args.parts:
            command = [sys.executable, __file__, part, "--alone"]
            options = vars(args) | {"variants": variant}
            names = "config variants detections batch accumulate repeats".split()
            command += [f"--{name}={options[name]}" for name in names]
            done = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True
            )
            row = json.loads(done.stdout.splitlines()[-1])
            rows.append(row)
            print(
                f"{variant:17}{part:8}{row['seconds']:12.3f}{row['best']:10.3f}"
                f"{row['first']:12.1f}{row['gigabytes']:10.2f}"
                f"{row['planned'] or 0:12.2f}",
                flush=True,
            )
    if args.json:
        note = {"config": args.config, "where": where, "date": time.strftime("%F")}
        args.json.write_text(json.dumps(note | {"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
