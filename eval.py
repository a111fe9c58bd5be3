"""Track the videos of a dataset: results.json, the official numbers, and pictures.

    python eval.py --workdir=runs/demo [--annotations=FILE --frames=FOLDER] [--out=FILE]

The workdir is of train.py or of `stan import`. Reads its newest checkpoint, or with
--best the one of the best AP, and tracks as it was trained to; a --config changes how.
Videos: those named here, else data.val of the config, else that of the training run.
A dataset without annotations (the val and test files of YouTube-VIS) gives the
results file, ready for the challenge server. Videos are dealt over all GPUs or TPU
cores, and over several machines with --coordinator, as train.py has it.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from stan_jax import dealing, inference
from stan_jax.annotations import youtube_vis
from stan_jax.annotations.youtube_vis import Dataset
from stan_jax.commands import script
from stan_jax.errors import InputError
from stan_jax.evaluation import youtube_vis_ap
from stan_jax.files import replacing
from stan_jax.pretrained import record
from stan_jax.pretrained.load import load, read_record
from stan_jax.tracking.frame_tracks import FrameTracks
from stan_jax.tracking.tracker import Tracker
from stan_jax.training import mesh, processes
from stan_jax.video import overlay, progress

OVERLAYS, OVERLAY_SCORE = 4, 0.4  # of a workdir without settings of its own

config_flags.DEFINE_config_file("config", None, "How to track.", lock_config=True)
flags.DEFINE_string("workdir", None, "Of train.py, or of `stan import`.")
flags.DEFINE_string("annotations", None, "Json of the videos.")
flags.DEFINE_string("frames", None, "Folder that its file_names are relative to.")
flags.DEFINE_string("out", None, "Where the results go; default: WORKDIR/results.json.")
flags.DEFINE_bool("best", False, "Take the checkpoint of the best AP, not the newest.")
script.define_processes()
flags.mark_flags_as_required(["workdir"])


def main(argv: list[str]) -> None:
    """Join the other processes, if there are some, and do it."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}; options start with --")
    workdir = Path(flags.FLAGS.workdir)
    out = Path(flags.FLAGS.out or workdir / "results.json")
    logging.set_verbosity(logging.WARNING)
    script.join_processes()
    mesh.configure(cpu_devices=1)
    with processes.only_first_prints():
        evaluate(workdir, out)


def evaluate(workdir: Path, out: Path) -> None:
    """Track every video, then score; read from top to bottom."""
    # ---- what there is, and what it is to track
    with processes.in_all():
        theirs = read_record(workdir, best=flags.FLAGS.best)
        config = settings_of(workdir)
        dataset = load_dataset(config)
    categories = [c.name for c in dataset.categories]

    # ---- model
    print(f"step {theirs.step} of {workdir}")
    changes = {}
    if flags.FLAGS.config:
        ours = record.from_config(config.to_dict(), categories)
        record.require_same(workdir, theirs, ours)
        changes = ours.settings._asdict()
    record.require_same(workdir, theirs, theirs._replace(categories=tuple(categories)))
    tracker = load(workdir, step=theirs.step, **changes)

    # ---- the videos
    scores = track(tracker, dataset, out, workdir / "overlays", config)

    # ---- the numbers
    if scores and processes.is_first():
        with replacing(workdir / "scores.json") as path:
            path.write_text(json.dumps(scores, indent=2) + "\n")
        print(youtube_vis_ap.table(scores))


def settings_of(workdir: Path) -> ConfigDict:
    """Return the config given, else that of the training run, else an empty one."""
    if flags.FLAGS.config:
        return flags.FLAGS.config
    path = workdir / "config.json"
    return ConfigDict(json.loads(path.read_text()) if path.is_file() else {})


def load_dataset(config: ConfigDict) -> Dataset:
    """Return the videos to track. Raises: InputError where none are named."""
    annotations, frames = flags.FLAGS.annotations, flags.FLAGS.frames
    if (annotations is None) != (frames is None):
        raise InputError("--annotations", "", "and --frames go together")
    if annotations is None:
        if "data" not in config:
            rule = "must be named: this workdir was not trained here"
            raise InputError("--annotations and --frames", "", rule)
        annotations, frames = config.data.val.annotations, config.data.val.frames
    upright = config.get("data", ConfigDict()).get("upright", True)
    dataset = youtube_vis.load(annotations, frames, upright=upright)
    youtube_vis.check_frames(dataset)
    return dataset


def track(
    tracker: Tracker, dataset: Dataset, out: Path, pictures: Path, config: ConfigDict
) -> dict[str, float]:
    """Track every video, draw some, write the results; return the numbers, if any."""
    run = config.get("run", ConfigDict())
    together = run.get("overlays", OVERLAYS)
    drawn = {video.id for video in dataset.videos[:together]}
    here = dealing.share(dataset.videos, mesh.workers(), together=together)
    names = youtube_vis.unique_names(dataset.videos)
    evicted: dict[int, int] = {}
    with (
        progress.Bar("track", frames_of(here)) as bar,
        overlay.Overlays(pictures) as overlays,
    ):

        def watch(video: youtube_vis.Video, frame: FrameTracks) -> None:
            if video.id in drawn:
                shown = frame.above(run.get("overlay_score", OVERLAY_SCORE))
                overlays.add(
                    names[video.id],
                    (frame.index, len(video.file_names)),
                    youtube_vis.read_frame(dataset, video, frame.index),
                    shown,
                )
            evicted[video.id] = frame.evicted
            bar.advance({"video": video.name, "tracks": len(frame.ids)})
            if frame.index + 1 == len(video.file_names):
                bar.lap(video.name)

        scores = inference.evaluate(
            tracker, dataset, out, watch=watch, together=together
        )
    print(f"{len(dataset.videos)} videos, {frames_of(dataset.videos)} frames: {out}")
    if lost := sum(processes.of_all(sum(evicted.values()))):
        print(f"{lost} tracks left a full queue: raise tracking.slots?")
    if drawn:
        print(f"pictures: {pictures}")
    return scores


def frames_of(videos: Sequence[youtube_vis.Video]) -> int:
    """Return how many frames videos have together."""
    return sum(len(video.file_names) for video in videos)


if __name__ == "__main__":
    script.run(main)
