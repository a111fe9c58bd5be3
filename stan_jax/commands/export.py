"""A tracker as a file that other runtimes run: detection, masks, ids and memory in it.

    stan export --model runs/mine --format onnx --out tracker.onnx
    stan export --model runs/mine --format jax --out tracker      # a folder
    stan export --model runs/mine --format web --out site         # a page that tracks

Of one frame, or of --clip T at once. The memory goes in and out by name, memory_* and
new_memory_*; docs/export.md has a program that uses it. For weights alone, under the
names of mmdet or torchvision: `stan export-weights`.
"""

import argparse
import importlib.util
import time
from pathlib import Path

from stan_jax.commands import objects
from stan_jax.errors import InputError

FORMATS = ("onnx", "jax", "web")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    parser.add_argument("--model", required=True, help="what `stan track` takes")
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument(
        "--out", required=True, help="the file to write; of jax and web the folder"
    )
    parser.add_argument(
        "--canvas", metavar="H,W", help="padded size of frames (that of the model)"
    )
    parser.add_argument(
        "--clip", type=int, metavar="T", help="frames of a call (one, without an axis)"
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "float16", "int8"),
        default="float32",
        help="of the weights; int8 computes so too (float32; of onnx and web)",
    )
    parser.add_argument(
        "--calibrate",
        nargs="+",
        default=(),
        metavar="INPUT",
        help="videos or folders of images that int8 is fitted to",
    )
    objects.add_arguments(parser, score="that of the model")
    parser.add_argument(
        "--package", metavar="FOLDER", help="of web: onnxruntime-web (npm fetches it)"
    )


def run(args: argparse.Namespace) -> None:
    """Write the file and print what it is."""
    from stan_jax.files import require_place

    canvas_hw = _pair(args.canvas)
    if Path(args.model).suffix.lower() == ".onnx":
        rule = "is exported already: name what it was made of"
        raise InputError(args.model, "", rule)
    objects.check(args)
    if args.format == "jax" and args.precision != "float32":
        raise InputError("--precision", "", "is for onnx and web")
    if (args.precision == "int8") != bool(args.calibrate):
        rule = "names the videos that --precision int8 is fitted to: both or neither"
        raise InputError("--calibrate", "", rule)
    if args.format == "onnx" and Path(args.out).suffix.lower() != ".onnx":
        raise InputError(args.out, "", "must end in .onnx")
    if args.format != "onnx" and Path(args.out).is_file():
        raise InputError(args.out, "", "must be a folder, is a file")
    require_place(args.out, args.model)
    if args.format != "jax" and importlib.util.find_spec("onnx") is None:
        raise InputError("onnx", "", "is not installed", "pip install onnx")
    from stan_jax.export import flat
    from stan_jax.pretrained import load

    begun = time.perf_counter()
    found, arrays = load.read(args.model)
    changes = objects.changes(args, found.settings, found.categories)
    found = found._replace(settings=load.changed(found.settings, changes))
    options = {"canvas_hw": canvas_hw, "length": args.clip}
    tracker = flat.tracker_of(args.model, found, arrays, **options)
    if args.format == "onnx":
        from stan_jax.export import onnx_file

        onnx_file.write(tracker, args.out, args.precision, args.calibrate)
    elif args.format == "web":
        from stan_jax.export import web_folder

        how = {"precision": args.precision, "videos": args.calibrate}
        web_folder.write(tracker, args.out, args.package, **how)
    else:
        from stan_jax.export import jax_folder

        jax_folder.write(tracker, args.out)
    seconds = time.perf_counter() - begun
    files = [Path(args.out), *Path(args.out).glob("*")]
    size = sum(path.stat().st_size for path in files if path.is_file())
    height, width = tracker.canvas_hw
    what = "one frame" if args.clip is None else f"{args.clip} frames"
    print(f"{args.out}: {size / 1e6:.1f} MB, {seconds:.0f} s")
    print(
        f"{what} of {width} x {height} a call, {len(tracker.record.categories)} classes"
    )


def _pair(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        height, width = (int(side) for side in text.split(","))
    except ValueError:
        raise InputError("--canvas", "", f"must be H,W, is '{text}'") from None
    if min(height, width) < 32 or height % 32 or width % 32:
        rule = f"must have sides that divide by 32, is {text}"
        raise InputError("--canvas", "", rule)
    return height, width
