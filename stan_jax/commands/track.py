"""Tracks of a video: an overlay, the results, and a page to look at them.

    stan track street.mp4 --model runs/mine
    stan track a.mp4 b.mov frames/ --model masktrack.pth --out found --score 0.5
    stan track 0 --model runs/mine --max-frames 300           # the first camera
    ffmpeg ... -f matroska - | stan track - --model runs/mine
    stan track street.mp4 --model tracker.onnx --runtime openvino    # without JAX

Reads video files, folders and globs of images, "-" for a pipe, the number of a camera,
rtsp, http and tcp addresses. Leaves overlay.mp4, tracks.jsonl and index.html, which a
browser opens from disk; of several videos each has a folder of its own. Ctrl-C ends it
early, with every file whole.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stan_jax.commands import objects
from stan_jax.errors import InputError

if TYPE_CHECKING:
    from stan_jax.media.source import Source
    from stan_jax.signals import Signals
    from stan_jax.tracking.frame_tracks import FrameTracks
    from stan_jax.tracking.tracker import Tracker
    from stan_jax.video.screen import Screen

ROOM = 64 << 20  # bytes that a disk must have free before a video is begun
SCORE = 0.3  # of a detection


class Model(NamedTuple):
    """An opened model: what tracks, what it is called, what of its tracks is wanted."""

    tracker: "Tracker"
    name: str
    choose: "Callable[[FrameTracks], FrameTracks]" = lambda tracks: tracks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="what is tracked")
    parser.add_argument(
        "--model",
        required=True,
        help="folder of train.py or `stan import`, weights, or file of `stan export`",
    )
    parser.add_argument(
        "--runtime",
        choices=("jax", "onnxruntime", "openvino"),
        help="onnxruntime for files of `stan export`, else jax",
    )
    parser.add_argument("--out", default="tracks", help="folder of the files (tracks)")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the files of an earlier run"
    )
    frames = parser.add_argument_group("which frames")
    frames.add_argument("--start", type=float, default=0.0, metavar="S", help="seconds")
    frames.add_argument("--end", type=float, default=float("inf"), metavar="S")
    frames.add_argument("--every", type=int, default=1, metavar="N", help="each n-th")
    frames.add_argument("--max-frames", type=int, metavar="N", help="at most")
    frames.add_argument("--fps", type=float, default=6.0, help="of images (6)")
    frames.add_argument(
        "--new-at-cuts",
        action="store_true",
        help="memory starts anew at scene cuts",
    )
    which = objects.add_arguments(parser, score=str(SCORE))
    which.add_argument(
        "--min-frames", type=int, default=1, metavar="N", help="from a track's n-th on"
    )
    parser.add_argument(
        "--also",
        nargs="+",
        default=(),
        metavar="FORMAT",
        help="results, csv, mot, mots, cvat, masks, cutouts",
    )
    look = parser.add_argument_group("how it looks")
    look.add_argument("--line-width", type=int, metavar="PX")
    look.add_argument(
        "--hide", default="", metavar="A,B", help="labels, scores, boxes, masks"
    )
    look.add_argument("--color-by", choices=("track", "class"), default="track")
    look.add_argument(
        "--trail", type=float, default=1.0, metavar="S", help="seconds of way (1)"
    )
    look.add_argument("--show", action="store_true", help="in a window, meanwhile")
    look.add_argument("--no-overlay", action="store_true")
    look.add_argument("--no-page", action="store_true")
    parser.add_argument("--device", help="cpu, cuda or tpu (the best there is)")


def run(args: argparse.Namespace) -> int:
    """Track every video; return the exit status."""
    from stan_jax.media import open as media
    from stan_jax.media.source import Window
    from stan_jax.signals import Signals
    from stan_jax.video.screen import Screen

    window = Window(args.start, args.end, args.every, args.max_frames, args.new_at_cuts)
    check(args)
    openers = media.sources(args.inputs, window, frames_per_s=args.fps)
    folders = places(args, len(openers))
    live = any(map(media.is_live, args.inputs))
    # A wrong name is told before the model is read; but a camera does not wait.
    sources = [] if live else [openers[0]()]
    status = 0
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(Signals(("SIGINT", "SIGTERM", "SIGHUP")))
        screen = stack.enter_context(Screen("stan track")) if args.show else None
        model = open_model(args)
        if live:
            warm_up(model.tracker)
        for number, opener in enumerate(openers, start=1):
            try:
                source = sources.pop() if sources else opener()
                track(args, model, source, folders(source.name), signals, screen)
            except InputError as error:
                if len(openers) == 1:
                    raise
                print(f"error: {error}", file=sys.stderr)
                status = 1
            closed = screen is not None and screen.closed
            if signals.received or closed:
                left = len(openers) - number
                cause = signals.received or "closing the window"
                more = f", {left} videos were not begun" if left else ""
                status = signals.exit_status
                print(f"stopped by {cause}{more}: exit status {status}")
                break
    return status


def check(args: argparse.Namespace) -> None:
    """Raise InputError for values that no video could be tracked with."""
    from stan_jax.video.draw import PARTS
    from stan_jax.video.recording import ALSO

    objects.check(args)
    for name, minimum in (("min_frames", 1), ("line_width", 1)):
        value = getattr(args, name)
        if value is not None and value < minimum:
            option = "--" + name.replace("_", "-")
            raise InputError(option, "", f"must be at least {minimum}, is {value}")
    if not 0 < args.fps <= 1000:
        raise InputError("--fps", "", f"must be above 0, is {args.fps}")
    if not 0 <= args.trail < float("inf"):
        raise InputError("--trail", "", f"must be seconds from 0 up, is {args.trail}")
    hidden = filter(None, args.hide.split(","))
    for option, given, known in (("hide", hidden, PARTS), ("also", args.also, ALSO)):
        if wrong := set(given) - set(known):
            rule = f"knows {', '.join(known)}, not {', '.join(sorted(wrong))}"
            raise InputError(f"--{option}", "", rule)


def places(args: argparse.Namespace, number: int) -> Any:
    """Return what gives the folder of a video by its name, never one twice."""
    out, taken = Path(args.out), set()

    def folder(name: str) -> Path:
        free, count = name, 1
        while free in taken:
            count += 1
            free = f"{name}-{count}"
        taken.add(free)
        place = out if number == 1 else out / free
        require_free(args, place)
        return place

    if number == 1:  # told before the model is read
        require_free(args, out)
    return folder


def require_free(args: argparse.Namespace, folder: Path) -> None:
    """Raise InputError where results of another run lie, or no room is left."""
    from stan_jax.files import require_room
    from stan_jax.video.recording import ALSO, FILES

    if folder.exists() and not folder.is_dir():
        raise InputError(folder, "", "must be a folder, is a file")
    ours = [(folder / name).resolve() for name in (*FILES.values(), *ALSO.values())]
    for text in args.inputs:
        if any(Path(text).resolve().is_relative_to(path) for path in ours):
            rule = f"its {Path(text).name} is what is read: name another --out"
            raise InputError(folder, "", rule)
    names = [*FILES.values(), *(ALSO[name] for name in args.also)]
    there = [name for name in names if (folder / name).exists()]
    if there and not args.overwrite:
        rule = f"holds {there[0]} of an earlier run: name another --out, or --overwrite"
        raise InputError(folder, "", rule)
    require_room(folder, ROOM)


def open_model(args: argparse.Namespace) -> Model:
    """Return the model; print what it is and where it runs."""
    from stan_jax.runtimes.exported import SUFFIX

    exported = Path(args.model).suffix.lower() == SUFFIX
    runtime = args.runtime or ("onnxruntime" if exported else "jax")
    if exported != (runtime != "jax"):
        kind = "files of stan export --format onnx"
        rule = f"is for {kind}" if not exported else f"cannot be jax for {kind}"
        raise InputError("--runtime", "", rule)
    return (_exported if exported else _trained)(args, runtime)


def _trained(args: argparse.Namespace, _: str) -> Model:
    import jax

    from stan_jax.pretrained import load
    from stan_jax.training import mesh

    mesh.configure(cpu_devices=1, platform=args.device)
    found, arrays = load.read(args.model)
    args.score = SCORE if args.score is None else args.score
    changes = objects.changes(args, found.settings, found.categories)
    tracker = load.tracker_of(args.model, found, arrays, **changes)
    device = jax.devices()[0]
    origin = f"step {found.step}" if found.step else found.origin
    return _told(args, tracker, origin, f"{device.platform} ({device.device_kind})")


def _exported(args: argparse.Namespace, runtime: str) -> Model:
    from stan_jax.runtimes.exported import open_exported

    if args.class_agnostic_nms:
        cure = "stan export --class-agnostic-nms"
        rule = "is fixed when a tracker is exported"
        raise InputError("--class-agnostic-nms", "", rule, cure)
    if args.device not in (None, "cpu"):
        raise InputError("--device", "", f"of {runtime} is cpu, is {args.device}")
    tracker = open_exported(args.model, runtime)
    args.score = SCORE if args.score is None else args.score
    choose = objects.shown(args, tracker.categories)
    model = _told(args, tracker, "exported", f"cpu ({runtime})")
    least = tracker.settings.score_threshold
    if args.score > least:
        print(f"shown   from a score of {args.score}, tracked from {least}")
    return model._replace(choose=choose)


def _told(
    args: argparse.Namespace, tracker: "Tracker", origin: str, device: str
) -> Model:
    height, width = tracker.settings.canvas
    print(
        f"model   {args.model}, {origin}, {len(tracker.categories)} classes, "
        f"canvas {height} x {width}\ndevice  {device}"
    )
    return Model(tracker, f"{args.model}, {origin}")


def warm_up(tracker: "Tracker") -> None:
    """Compile the program for single frames, before a camera is opened."""
    import numpy as np

    print("compiling ...")
    began = time.monotonic()
    height, width = tracker.settings.canvas
    tracker.step(tracker.start(height, width), np.zeros((height, width, 3), np.uint8))
    print(f"ready after {time.monotonic() - began:.1f} s")


def track(
    args: argparse.Namespace,
    model: Model,
    source: "Source",
    folder: Path,
    signals: "Signals",
    screen: "Screen | None",
) -> None:
    """Track one video into its folder and say what came of it."""
    from stan_jax.video import progress
    from stan_jax.video.draw import Style
    from stan_jax.video.recording import Recording

    tracker, name, choose = model
    style = Style(
        line_width=args.line_width,
        hide=frozenset(filter(None, args.hide.split(","))),
        color_by=args.color_by,
        trail_s=args.trail,
    )
    recording = Recording(
        folder,
        source,
        tracker.categories,
        style=style,
        min_frames=args.min_frames,
        with_overlay=not args.no_overlay,
        with_page=not args.no_page,
        also=args.also,
        watch=screen.put if screen else None,
    )
    signals.then = source.stop
    print(f"input   {source.describe()}")
    evicted, begun, pace = 0, time.monotonic(), Pace()
    with source, recording, progress.Bar("track", source.total) as bar:
        compiled = tracker.program.ran
        if not compiled:
            bar.line("compiling ...")
        for frame, tracks in tracker.pairs(source):
            if not pace.frames and not compiled:
                bar.line(f"ready after {time.monotonic() - begun:.1f} s")
            tracks = choose(tracks)
            recording.add(frame, tracks)
            evicted = tracks.evicted
            pace.add(1 if source.live else tracker.settings.clip_length)
            bar.advance({"tracks": len(tracks.ids), "frames/s": round(pace.rate, 1)})
            if screen is not None:
                screen.refresh()
            if signals.received or (screen is not None and screen.closed):
                break
        recording.facts |= {"model": name, "speed": f"{pace.rate:.1f} frames/s"}
    signals.then = None
    if not recording.frames and not signals.received:
        raise InputError(source.name, "", "; ".join(["gave no frame", *source.notes]))
    print(
        f"{recording.frames} frames, {len(recording.tracks)} tracks, "
        f"{pace.rate:.1f} frames/s without compiling"
    )
    if source.bad:
        print(f"{source.bad} broken frames or packets were passed over")
    for note in source.notes:
        print(note)
    for missing in recording.unwritten:
        print(f"no font here has the letters of {missing}: its number is drawn")
    if evicted:
        print(f"{evicted} tracks left a full queue: slots of the model are too few")
    for what, path in recording.files.items():
        print(f"{what:<7} {path}")


class Pace:
    """Frames a second since the first ones came, which had to be compiled for."""

    def __init__(self) -> None:
        self.frames, self.rate = 0, 0.0
        self._first, self._since = 0, 0.0

    def add(self, together: int) -> None:
        """Count one more frame; together: frames that come at once."""
        self.frames += 1
        if self.frames <= together:  # the first clip says nothing of the pace
            self._first, self._since = self.frames, time.monotonic()
            return
        passed = max(time.monotonic() - self._since, 1e-9)
        self.rate = (self.frames - self._first) / passed
