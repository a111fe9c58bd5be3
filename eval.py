"""Track the videos of a dataset: results.json, the official numbers, and pictures.

    python eval.py --config=configs/shapes_sta.py --workdir=runs/demo [--out=FILE]

Reads the newest checkpoint of the workdir, or with --best the one of the best AP.
A dataset without annotations (the val and test files of YouTube-VIS) gives the
results file, ready for the challenge server.
"""

import json
from pathlib import Path

import numpy as np
from absl import app, flags, logging
from flax import nnx
from ml_collections import config_flags

from stan_jax import errors, inference
from stan_jax.annotations import youtube_vis
from stan_jax.evaluation import youtube_vis_ap
from stan_jax.files import replacing
from stan_jax.model.stan import STAN, architecture
from stan_jax.pretrained.checkpoint import find_step, restore_params
from stan_jax.training import mesh, train_step
from stan_jax.video import overlay, progress, write

config_flags.DEFINE_config_file("config", None, "What was trained.", lock_config=True)
flags.DEFINE_string("workdir", None, "Where train.py left its checkpoints.")
flags.DEFINE_string("out", None, "Where the results go; default: WORKDIR/results.json.")
flags.DEFINE_bool("best", False, "Take the checkpoint of the best AP, not the newest.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    """Track every video, then score; read from top to bottom."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}; options start with --")
    config, workdir = flags.FLAGS.config, Path(flags.FLAGS.workdir)
    out = Path(flags.FLAGS.out or workdir / "results.json")
    logging.set_verbosity(logging.WARNING)
    mesh.configure(cpu_devices=1)

    # ---- input
    dataset = youtube_vis.load(config.data.val.annotations, config.data.val.frames)
    youtube_vis.check_frames(dataset)
    categories = [c.name for c in dataset.categories]

    # ---- model
    model = STAN(num_classes=len(categories), **config.model, rngs=nnx.Rngs(0))
    parts = train_step.split(model)
    checkpoints = workdir / "checkpoints"
    step = find_step(checkpoints, best="AP" if flags.FLAGS.best else None)
    print(f"step {step} of {checkpoints}")
    params = restore_params(
        checkpoints,
        parts.params,
        step=step,
        fingerprint=architecture(config.model.to_dict(), categories),
    )
    frozen = restore_params(checkpoints, parts.frozen, step=step, prefix="frozen")
    tracker = inference.Tracker(
        train_step.merge(parts._replace(frozen=frozen), params),
        canvas=config.data.canvas,
        scale_hw=config.data.scale_hw,
        dtype=config.run.dtype,
        **config.tracking,
    )

    # ---- the videos
    total = sum(len(video.file_names) for video in dataset.videos)
    drawn = {video.id for video in dataset.videos[: config.run.overlays]}
    with (
        progress.Bar("track", total) as bar,
        overlay.Overlays(workdir / "overlays", categories) as overlays,
    ):

        def watch(video: youtube_vis.Video, frame: inference.FrameTracks) -> None:
            if video.id in drawn:
                overlays.add(
                    video.name,
                    (frame.index, len(video.file_names)),
                    youtube_vis.read_frame(dataset, video, frame.index),
                    **inference.sure_of(frame, config.run.overlay_score),
                )
            bar.advance({"video": video.name, "tracks": int(np.sum(frame.valid))})
            if frame.index + 1 == len(video.file_names):
                bar.lap(video.name)

        scores = inference.evaluate(tracker, dataset, out, watch=watch)
    print(f"{len(dataset.videos)} videos, {total} frames: {out}")
    if tracker.evicted:
        print(f"{tracker.evicted} tracks left a full queue: raise tracking.slots?")
    if drawn:
        without = "" if write.available() else " (no mp4: needs the extra `video`)"
        print(f"pictures: {workdir / 'overlays'}{without}")

    # ---- the numbers
    if scores:
        with replacing(workdir / "scores.json") as path:
            path.write_text(json.dumps(scores, indent=2) + "\n")
        print(youtube_vis_ap.table(scores))


if __name__ == "__main__":
    with errors.as_messages():
        app.run(main)
