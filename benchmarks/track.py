"""What `stan track` costs beside the model, how fast it is, and what memory it takes.

    python benchmarks/track.py cost                      # R50 + STA, 640 x 360, float32
    python benchmarks/track.py speed --model=runs/demo   # a 1280 x 720 mp4, end to end
    python benchmarks/track.py memory                    # long videos, many tracks

cost: clips through the model alone, and in turn the same frames decoded from an mp4,
tracked, drawn, encoded and written as lines and page; random weights, 10 detections.
memory: everything but the model, each length in a process of its own.
"""

import argparse
import importlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import timing  # noqa: E402

LENGTHS = ((500, 10), (10_000, 10), (2_000, 500))  # frames, tracks
BAR_MB = 50


def moving(frames, height, width):
    """Pictures with blocks that move, as a codec and a tracker meet them."""
    import numpy as np

    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 255, (height // 40, width // 40, 3))
    ground = np.kron(blocks, np.ones((40, 40, 1))).astype(np.uint8)
    for t in range(frames):
        yield np.roll(ground, 2 * t, axis=1)


def write(path, frames, height, width):
    from stan_jax.media.mp4 import Mp4

    with Mp4(path, rate=30) as video:
        for image in moving(frames, height, width):
            video.add(image)
    return path


def cost(args):
    import jax
    import numpy as np
    from flax import nnx

    from stan_jax.media.open import open_source
    from stan_jax.model import parameters
    from stan_jax.model.build import build
    from stan_jax.pretrained import record
    from stan_jax.tracking.program import Program
    from stan_jax.tracking.tracker import Tracker
    from stan_jax.training import mesh
    from stan_jax.video.recording import Recording

    mesh.configure(cpu_devices=1)
    c = importlib.import_module("stan_jax.configs.ytvis19_r50_sta").get_config()
    # Random weights: all ten rows are used, wherever they lie. Each frame is taken for
    # a scene of its own, else most rows would contend for one track and be dropped.
    c.thresholds.score_threshold, c.thresholds.box_nms = 0.0, 1.0
    c.tracking.clip_length = 1
    classes = [f"class {n}" for n in range(40)]
    settings = record.from_config(c.to_dict(), classes).settings
    model = build(num_classes=len(classes), **c.model, rngs=nnx.Rngs(0))
    structure, values = parameters.split(model)
    tracker = Tracker(Program(structure, values, settings), values, classes)
    count, length = args.frames, settings.clip_length
    ratios, alone, whole = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "in.mp4", count, 360, 640)
        padded = np.zeros((length, *settings.canvas, 3), np.uint8)
        padded[:, :360, :640] = np.stack(list(moving(length, 360, 640)))
        size, valid = np.array([360, 640], np.int32), np.ones(length, bool)
        clock = np.arange(length, dtype=np.int32)

        def model_alone():
            memory = tracker.program.empty(settings.canvas)
            for _ in range(count // length):
                memory, tracks = tracker.program.clip(
                    tracker.parameters, memory, padded, size, valid, clock
                )
                jax.block_until_ready(tracks)

        def end_to_end(n):
            found = 0
            with (
                open_source(path) as source,
                Recording(Path(folder) / str(n), source, classes) as recording,
            ):
                scenes = (frame._replace(fresh=True) for frame in source)
                for frame, tracks in tracker.pairs(scenes):
                    recording.add(frame, tracks)
                    found += len(tracks.ids)
            return found / count

        model_alone()
        for n in range(args.repeats):
            start = time.perf_counter()
            model_alone()
            middle = time.perf_counter()
            found = end_to_end(n)
            end = time.perf_counter()
            alone.append((middle - start) / count)
            whole.append((end - middle) / count)
            ratios.append(whole[-1] / alone[-1])
    print(timing.where(args.repeats))
    print(f"{found:.1f} detections a frame, {count} frames a turn")
    for name, seconds in (("model alone", alone), ("end to end", whole)):
        print(f"{name:12} {statistics.median(seconds):.3f} s a frame")
    print(f"ratio        {statistics.median(ratios):.3f} (bar 1.15)")


def speed(args):
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "in.mp4", args.frames, 720, 1280)
        command = [sys.executable, "-m", "stan_jax.commands.main", "track", str(path)]
        command += ["--model", args.model, "--out", folder + "/out", "--overwrite"]
        rates = []
        for n in range(args.repeats + 1):
            start = time.perf_counter()
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            seconds = time.perf_counter() - start
            line = next(x for x in done.stdout.splitlines() if "without comp" in x)
            if n:  # the first one compiles
                rates.append(args.frames / seconds)
        print(timing.where(args.repeats))
        print(f"the last one said: {line}")
        print(f"{statistics.median(rates):.1f} frames/s with start and end (bar 12)")


def memory(args):
    print(timing.where(1))
    peaks = []
    for frames, tracks in LENGTHS:
        command = [sys.executable, __file__, "alone", str(frames), str(tracks)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks.append(float(done.stdout))
        print(f"{frames:6} frames, {tracks:3} tracks: {peaks[-1]:.0f} MB", flush=True)
    print(f"most over the first: {max(peaks) - peaks[0]:.0f} MB (bar {BAR_MB})")


def alone(frames, tracks):
    import numpy as np

    from stan_jax.masks import codec
    from stan_jax.media.source import WHOLE, Raw, Source
    from stan_jax.tracking.frame_tracks import FrameTracks
    from stan_jax.video.recording import Recording

    class Made(Source):
        def raw(self):
            self.rate = Fraction(30)
            for t, image in enumerate(moving(frames, 360, 640)):
                yield Raw(t / 30, 1 / 30, lambda image=image: image)

    yy, xx = np.mgrid[:360, :640]
    rles = [
        codec.encode((yy - 180) ** 2 + (xx - 100 - 7 * i) ** 2 < (20 + i % 7 * 5) ** 2)
        for i in range(64)
    ]
    each, names = 10, ("cat", "dog")
    also = ["results", "csv", "mot", "cvat"]
    with (
        tempfile.TemporaryDirectory() as folder,
        Made("made", WHOLE) as source,
        Recording(Path(folder), source, names, also=also) as recording,
    ):
        for t, frame in enumerate(source):
            ids = np.arange(each) + t * each // 4 % max(tracks - each, 1)
            shown = FrameTracks(
                index=t,
                size_hw=(360, 640),
                ids=ids,
                labels=ids % 2,
                scores=np.full(each, 0.5, np.float32),
                boxes=np.tile(np.array([[10, 10, 60, 60]], np.float32), (each, 1)),
                segmentations=tuple(rles[(i + t) % 64] for i in range(each)),
                evicted=0,
                seconds=frame.seconds,
                categories=names,
            )
            recording.add(frame, shown)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("cost", "speed", "memory", "alone"))
    parser.add_argument("numbers", nargs="*", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--model", default="runs/demo")
    parser.add_argument("--frames", type=int, help="24 for cost, 300 for speed")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    args.frames = args.frames or {"speed": 300}.get(args.part, 24)
    if args.part == "alone":
        alone(*args.numbers)
    else:
        {"cost": cost, "speed": speed, "memory": memory}[args.part](args)


if __name__ == "__main__":
    main()
