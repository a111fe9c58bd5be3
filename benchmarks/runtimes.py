"""What a frame of a whole tracker takes in each runtime, and if they agree with JAX.

    python benchmarks/runtimes.py --rounds=20 --json=runtimes.json
    python benchmarks/runtimes.py --config=ytvis19_r50_sta:openmmlab --frames=30

640 x 360, random weights, moving discs, from the files that `stan export` writes. Each
runtime is a process that waits; they are called in turn, so that a busy minute meets
all, and the ratio is the median over the turns. Before, each walks through the first
frames, and what it finds in them is compared.
"""

import argparse
import importlib
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import compare  # noqa: E402
import numpy as np  # noqa: E402
import turns  # noqa: E402
from PIL import Image  # noqa: E402

RUNTIMES = ("jax", "onnxruntime", "openvino", "int8")  # the last in onnxruntime
SHOWN = ("valid", "ids", "labels", "scores", "boxes", "masks")


def make(config, folder):
    """Write both files of a model with random weights; print what it took."""
    from flax import nnx

    from stan_jax.export import jax_folder, onnx_file
    from stan_jax.export.flat import FlatTracker
    from stan_jax.model import parameters
    from stan_jax.model.build import build
    from stan_jax.pretrained import record

    name, *argument = config.split(":")  # as train.py takes it
    c = importlib.import_module(f"stan_jax.configs.{name}").get_config(*argument)
    c.thresholds.score_threshold = 0.0  # random weights: all rows are used
    c.thresholds.detections = 10
    classes = [f"class {n}" for n in range(40)]
    about = record.from_config(c.to_dict(), classes)
    model = build(num_classes=len(classes), **c.model, rngs=nnx.Rngs(0))
    weights = parameters.by_path(parameters.split(model)[1])
    for path in weights:
        # Else each block of a ResNet doubles what it adds to, and all scores are 1; and
        # those of heads that have learned nothing are all the same.
        if path.startswith("params/backbone") and path.endswith("scale"):
            weights[path] = 0.3 * weights[path]
        elif path in ("params/box_head/logits/kernel", "params/rpn/logits/kernel"):
            weights[path] = 100.0 * weights[path]
    tracker = FlatTracker(about, weights)
    found: dict = {"canvas": list(tracker.canvas_hw), "scale_hw": list(c.data.scale_hw)}
    pictures, _, _ = turns.frames(8, tuple(c.data.scale_hw))
    (folder / "pictures").mkdir()
    for n, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / "pictures" / f"{n}.png")

    def write_int8(tracker, path):
        onnx_file.write(tracker, path, "int8", [str(folder / "pictures")])

    for write, name in (
        (onnx_file.write, "tracker.onnx"),
        (jax_folder.write, "jax"),
        (write_int8, "int8.onnx"),
    ):
        begun = time.perf_counter()
        write(tracker, folder / name)
        seconds = time.perf_counter() - begun
        files = [folder / name, *(folder / name).glob("*")]
        size = sum(path.stat().st_size for path in files if path.is_file())
        found[name] = dict(seconds=seconds, megabytes=size / 1e6)
    print(json.dumps(found))


def runner(runtime, folder):
    """Return the memory of no frame, and results by name for inputs by name."""
    if runtime != "jax":
        from stan_jax.runtimes.sessions import open_session

        file = folder / ("int8.onnx" if runtime == "int8" else "tracker.onnx")
        session = open_session(file, "onnxruntime" if runtime == "int8" else runtime)
        memory = {
            name: np.zeros(*given)
            for name, given in session.inputs.items()
            if name.startswith("memory_")
        }
        return memory, session.run
    import jax
    from jax import export
    from safetensors.numpy import load_file

    from stan_jax import compiling
    from stan_jax.export import jax_folder

    content = (folder / "jax" / jax_folder.PROGRAM).read_bytes()
    program = export.deserialize(bytearray(content))
    weights = jax.device_put(load_file(folder / "jax" / jax_folder.WEIGHTS))
    (_, inputs), _ = jax.tree.unflatten(program.in_tree, program.in_avals)
    memory = {
        name: jax.device_put(np.zeros(x.shape, x.dtype))
        for name, x in inputs.items()
        if name.startswith("memory_")
    }
    step = compiling.jit_for_frames(program.call)

    def run(given):
        found = step(weights, given)
        return found | {name: np.asarray(found[name]) for name in SHOWN}

    return memory, run


def serve(runtime, folder, frames):
    """Walk through the first frames, keep what is in them, then do one a line."""
    about = json.loads((folder / "made.json").read_text())
    pictures, _, _ = turns.frames(frames, tuple(about["scale_hw"]))
    height, width = about["scale_hw"]
    canvas = np.zeros((len(pictures), *about["canvas"], 3), np.uint8)
    canvas[:, :height, :width] = pictures
    memory, run = runner(runtime, folder)
    size, seen, kept = np.array(about["scale_hw"], np.int32), 0, []

    def call():
        nonlocal memory, seen
        frame, now = canvas[seen % len(canvas)], np.array(1000 * seen, np.int32)
        found = run({"frame": frame, "size_hw": size, "clock": now} | memory)
        memory, seen = {name: found["new_" + name] for name in memory}, seen + 1
        return found

    for _ in range(frames):
        found = call()
        kept.append([np.asarray(found[name]) for name in SHOWN])
    arrays = dict(zip(SHOWN, map(np.stack, zip(*kept, strict=True)), strict=True))
    np.savez(folder / f"{runtime}.npz", **arrays)
    turns.serve(call)


def agreement(folder, runtime):
    """Return how many rows are not JAX's, and by how much numbers of the others are."""
    one, other = (dict(np.load(folder / f"{name}.npz")) for name in ("jax", runtime))
    rows = one["valid"] & other["valid"]
    found: dict = {
        name: int((one[name] != other[name]).sum())
        for name in ("valid", "ids", "labels")
    }
    found["rows"] = int(rows.sum())
    for name in ("scores", "boxes", "masks"):
        apart = np.abs(one[name][rows] - other[name][rows])
        found[name] = float(apart.max(initial=0))
    frames = zip(one["scores"], rows, strict=True)
    found["tied"] = sum(valid.sum() - len(np.unique(x[valid])) for x, valid in frames)
    return found | {"tied": int(found["tied"])}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--config", default="ytvis19_r50_sta", help="NAME or NAME:START"
    )
    parser.add_argument("--frames", type=int, default=10, help="that are compared")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, help="where all figures go")
    parser.add_argument("--make", type=Path, help="a folder: write the files there")
    parser.add_argument("--serve", choices=RUNTIMES, help="from the files of --folder")
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.make:
        make(args.config, args.make)
    elif args.serve:
        serve(args.serve, args.folder, args.frames)
    else:
        with tempfile.TemporaryDirectory() as folder:
            measure(args, Path(folder))


def measure(args, folder):
    """Make the files, time the runtimes in turn, print and keep the figures."""
    script = [sys.executable, __file__]
    command = [*script, f"--config={args.config}", f"--make={folder}"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    made = json.loads(done.stdout.splitlines()[-1])
    (folder / "made.json").write_text(json.dumps(made))
    subjects: dict = {}
    found: dict = {name: [] for name in RUNTIMES}
    try:
        for name in RUNTIMES:
            words = [f"--serve={name}", f"--folder={folder}", f"--frames={args.frames}"]
            subjects[name] = turns.Subject(shlex.join([*script, *words]))
        for _ in range(args.rounds):
            for name, subject in subjects.items():
                found[name].append(subject.turn())
    finally:
        for subject in subjects.values():
            subject.stop()
    for name in ("tracker.onnx", "jax", "int8.onnx"):
        print(
            f"{name}: {made[name]['megabytes']:.1f} MB, {made[name]['seconds']:.1f} s"
        )
    for name, rows in found.items():
        seconds, memory = (
            statistics.median(row[key] for row in rows)
            for key in ("seconds", "gigabytes")
        )
        print(f"{name:12} {seconds:.3f} s a frame, {memory:.2f} GB")
    agreed = {}
    for name in RUNTIMES[1:]:
        low, ratio, high = compare.spread(found[name], found["jax"])
        print(f"{name} takes {ratio:.2f} ({low:.2f} to {high:.2f}) of the time of JAX")
        agreed[name] = agreement(folder, name)
        print(f"of {args.frames} frames: {agreed[name]}")
    if args.json:
        report = dict(machine=compare.machine(), date=time.strftime("%F"), made=made)
        report |= dict(turns=found, agreement=agreed)
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
