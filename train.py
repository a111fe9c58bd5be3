"""Train STAN on YouTube-VIS style data.

    python train.py --config=configs/shapes_sta.py --workdir=runs/demo

A workdir that holds a checkpoint is resumed, bit for bit. Any setting can be changed
on the command line, e.g. --config.optim.peak_lr=0.01. On several machines, which share
the workdir: the same line on each, with --coordinator=auto where a cluster says who is
who, else --coordinator=HOST:PORT --processes=2 --process=0 (and 1).
"""

import contextlib
import json
import math
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging
from flax import nnx
from ml_collections import ConfigDict, config_flags

from stan_jax import inference
from stan_jax.annotations import classes, coco_images, youtube_vis
from stan_jax.annotations.youtube_vis import Dataset, Video
from stan_jax.commands import script
from stan_jax.dealing import Stopped
from stan_jax.errors import InputError
from stan_jax.files import replacing, require_room, sole_user
from stan_jax.loading import batches, sources
from stan_jax.model import parameters
from stan_jax.model.build import build
from stan_jax.model.parameters import Parameters
from stan_jax.model.stan import Thresholds
from stan_jax.pretrained import record
from stan_jax.pretrained.checkpoint import Checkpoints
from stan_jax.pretrained.record import Record
from stan_jax.pretrained.start import start
from stan_jax.signals import Signals
from stan_jax.tracking.frame_tracks import FrameTracks
from stan_jax.tracking.program import Program
from stan_jax.tracking.tracker import Tracker
from stan_jax.training import mesh as meshes
from stan_jax.training import optimizer, processes, train_step
from stan_jax.training.losses import LossKinds, Sampling
from stan_jax.training.metrics import MetricWriter
from stan_jax.training.train_step import TrainState
from stan_jax.video import progress, recording

config_flags.DEFINE_config_file("config", None, "What to train.", lock_config=True)
flags.DEFINE_string("workdir", None, "Where checkpoints and metrics go.")
script.define_processes()
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    """Train in a workdir that nobody else is using."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}; options start with --")
    config, workdir = flags.FLAGS.config, Path(flags.FLAGS.workdir)
    logging.set_verbosity(logging.WARNING)
    check_settings(config)
    script.join_processes()
    meshes.configure(cpu_devices=config.run.cpu_devices)
    with processes.only_first_prints(), contextlib.ExitStack() as stack:
        with processes.in_all():
            if processes.is_first():
                stack.enter_context(sole_user(workdir))
        train(config, workdir)


def train(config: ConfigDict, workdir: Path) -> None:
    """Train until the last step, or until SIGTERM; read from top to bottom."""

    # ---- devices
    mesh = meshes.make_mesh()
    rule = config.optim.to_dict()
    accumulate = rule.pop("accumulate", 1)  # configs of before do not have it
    meshes.check_batch(config.data.batch, mesh, accumulate)

    # ---- input: everything that can be wrong with the files is found here
    with processes.in_all():
        datasets, val = load_sets(config)
        iterator = make_batches(datasets, config)
    categories = [c.name for c in datasets[0][0].categories]

    # ---- model and optimizer
    ours = record.from_config(config.to_dict(), categories, config.init_from)
    model = build(
        num_classes=len(categories), **config.model, rngs=nnx.Rngs(config.seed)
    )
    structure, fresh = parameters.split(model)
    tx = optimizer.build(fresh.params, **rule, frozen=model.frozen_paths)
    program = Program(structure, fresh, ours.settings)
    count = sum(x.size for x in jax.tree.leaves(fresh.params))
    pairs = sum(
        batches.num_pairs(dataset, negatives=negatives(config))
        for dataset, _ in datasets
    )
    print(f"{count:,} parameters, {len(categories)} classes, {pairs:,} training frames")
    for line in warnings(config, datasets, pairs):
        print(line)
    average = config.run.get("average", 0.0)  # configs of before do not have it
    # Parameters, two moments and their mean, in the checkpoints kept and one written.
    size = 16 * count if average else 12 * count
    require_room(workdir, size * (config.run.keep_checkpoints + 2))
    print(f"{mesh.size} x {jax.devices()[0].device_kind}, jax {jax.__version__}")
    if not processes.alone():
        rows = config.data.batch // jax.process_count()
        print(f"{jax.process_count()} processes, {rows} pairs each")

    # ---- where the parameters come from: the workdir's own checkpoint, or `start`
    checkpoints = Checkpoints(
        workdir / "checkpoints",
        keep_last=config.run.keep_checkpoints,
        best="AP",
        record=record.to_json(ours),
    )
    begun = fresh
    if checkpoints.latest is None:
        how = dict(only=config.init_only, force=config.init_force)
        begun, lines = start(config.init_from, fresh, ours, **how)
        for line in lines:
            print(line)
    state = train_step.start(begun.params, tx, average=average)
    shard_state = config.run.get("shard_state", False)  # configs of before, likewise
    state = (meshes.spread if shard_state else meshes.replicate)(state, mesh)
    statistics = meshes.replicate(begun.statistics, mesh)
    found = checkpoints.restore(
        saved(state, statistics), check=partial(require_same_run, workdir, ours)
    )
    if found:
        tree, position, step = found
        statistics = tree.pop("statistics")
        state = TrainState(**tree)
        iterator.set_state(position)
        print(f"resumed at step {step} from {checkpoints.folder}")
        if step > config.optim.steps:
            rule = f"is {config.optim.steps}, the run is at step {step}: raise it"
            raise InputError("optim.steps", "", f"{rule}, or name another --workdir")
    del model, fresh, begun, found  # those of the state count from here on

    # Not earlier: a workdir that refuses this config keeps its own.
    if processes.is_first():
        note_config(workdir / "config.json", config)

    # ---- the loop
    update = train_step.make_train_step(
        structure,
        statistics,
        tx,
        mesh,
        seed=config.seed,
        loss_weights=config.loss.weights.to_dict(),
        thresholds=Thresholds(**config.thresholds),
        sampling=Sampling(**config.loss.sampling),
        kinds=LossKinds(**config.loss.kinds),
        dtype=config.run.dtype,
        average=average,
        accumulate=accumulate,
        shard_state=shard_state,
    )
    first, last = int(state.step) + 1, config.optim.steps
    pending, clock = [], time.monotonic()
    compiled: dict[tuple[int, ...], Any] = {}  # of landscape batches, and of portrait
    with (
        processes.AgreedSignals(mesh) as signals,
        metric_writer(workdir, first) as writer,
        progress.Bar("train", last, start=first - 1) as bar,
    ):
        for step in range(first, last + 1):
            batch = meshes.shard(next(iterator), mesh)
            shape = batch.frames.shape
            if shape not in compiled:
                begin = time.monotonic()
                compiled[shape] = train_step.compiled(update, state, batch)
                seconds = time.monotonic() - begin
                bar.line(f"compiled in {seconds:.0f} s")
                clock += seconds
            with jax.transfer_guard("disallow"):
                state, metrics = compiled[shape](state, batch)
            pending.append(metrics)
            stop = signals.after_step()
            every = config.run.eval_every
            scored = val is not None and not stop and (step == last or not step % every)
            saves = step == last or stop or scored or step % config.run.save_every == 0
            figures = None
            # A checkpoint ends a mean: what it holds was found finite, and a run that
            # was killed writes the same lines when it goes on.
            if saves or step % config.run.log_every == 0:
                means = finite_means(pending, step)
                seconds = (time.monotonic() - clock) / len(pending)
                means["frames_per_s"] = (
                    pair_frames(config) * config.data.batch / seconds
                )
                if writer:
                    writer.scalars(step, means)
                figures = {k: means[k] for k in ("loss", "frames_per_s")}
                left = progress.clock(seconds * (last - step))
                bar.line(f"step {step}/{last}  {progress.show(means)}  left {left}")
                pending, clock = [], time.monotonic()
            bar.advance(figures)

            scores = None
            if scored:
                # Through the host: each device tracks by itself.
                params = state.average if average else state.params
                host = jax.device_get(
                    Parameters(meshes.whole(params, mesh), statistics)
                )
                values = jax.device_put(host, jax.local_devices()[0])
                tracker = Tracker(program, values, categories)
                examples = Examples(val, config.run.overlay_score)
                scores = validate(tracker, val, workdir, signals, examples)
                if scores is not None and writer:
                    writer.scalars(step, {f"val/{k}": v for k, v in scores.items()})
                    writer.images(step, examples.images)
                    bar.line(f"step {step}/{last}  val  {progress.show(scores)}")
                asked = processes.of_all(signals.received)
                stop = next(filter(None, asked), "")
                clock = time.monotonic()
            if saves:
                tree = saved(state, statistics)
                checkpoints.save(step, tree, iterator.get_state(), scores)
            if stop:
                bar.line(f"stopped by {stop}; step {step} is saved, run again to go on")
                break
    iterator.close()
    checkpoints.close()


def load_sets(
    config: ConfigDict,
) -> tuple[list[tuple[Dataset, float]], Dataset | None]:
    """Return the training sets with their weights, and the one to score on, if any."""
    upright = config.data.get("upright", True)  # configs of before do not have it
    datasets = training_sets(config, upright)
    if not config.run.eval_every:
        return datasets, None
    files = config.data.val.annotations, config.data.val.frames
    val = youtube_vis.load(*files, upright=upright)
    youtube_vis.check_frames(val)
    require_scorable(val, [c.name for c in datasets[0][0].categories])
    return datasets, val


def training_sets(config: ConfigDict, upright: bool) -> list[tuple[Dataset, float]]:
    """Return the training sets with their weights, and print what is left out of them.

    The classes are those of the first set; the others are brought to them by name.
    """
    data, datasets = config.data, []
    class_map = data.get("class_map", {})  # configs of before do not have it
    first = (data.train.annotations, data.train.frames, 1.0)
    for annotations, frames, weight in (first, *data.extra):
        dataset, line = sources.load(annotations, frames, upright=upright), ""
        if datasets:
            ours = datasets[0][0].categories
            dataset, line = classes.matched(dataset, ours, dict(class_map))
        dataset, crowded = coco_images.without_crowded(dataset, data.max_objects)
        if line:
            print(line)
        if crowded:
            rule = f"still images show more than {data.max_objects} objects: left out"
            print(f"{dataset.path}: {crowded:,} {rule}")
        youtube_vis.check_frames(dataset)
        datasets.append((dataset, weight))
    return datasets


def warnings(
    config: ConfigDict, datasets: list[tuple[Dataset, float]], pairs: int
) -> list[str]:
    """Return a line for whatever of the data training will not see."""
    lines, data = [], config.data
    given = config_flags.get_override_values(flags.FLAGS["config"])
    if "data.batch" in given and "optim.peak_lr" not in given:
        rule = "is not the config's, optim.peak_lr is: change it in proportion"
        lines.append(f"data.batch {rule}")
    frames = sum(len(v.file_names) for d, _ in datasets for v in d.videos)
    if frames > pairs:
        lines.append(
            f"{frames - pairs:,} of {frames:,} frames show no object: left out; "
            "--config.data.negatives=True learns from them as well"
        )
    scales = data.train_scales_hw or (data.scale_hw,)
    counts = [batches.vanishing(d, data.canvas, scales) for d, _ in datasets]
    lost, masks = (sum(x) for x in zip(*counts, strict=True))
    if lost:
        height, width = min(scales, key=min)
        at = f"{lost:,} of {masks:,} masks vanish at scale {height} x {width}"
        lines.append(f"{at}: raise data.canvas and the scales")
    return lines


def negatives(config: ConfigDict) -> bool:
    """Return whether frames without an object are trained on."""
    return config.data.get("negatives", False)  # configs of before do not have it


def make_batches(datasets: list[tuple[Dataset, float]], config: ConfigDict) -> Any:
    """Return the endless batches of training pairs."""
    data = config.data
    return batches.pairs(
        datasets,
        batch=data.batch,
        canvas=data.canvas,
        gap=int(data.gap) if data.gap.isdigit() else data.gap,
        flip=data.flip,
        seed=config.seed,
        max_objects=data.max_objects,
        scales_hw=data.train_scales_hw,
        num_threads=data.num_threads,
        negatives=negatives(config),
        frames=pair_frames(config),
        still_motion=data.get("still_motion", 0.0),  # configs of before lack it
        shard_index=jax.process_index(),
        shard_count=jax.process_count(),
    )


def metric_writer(workdir: Path, first_step: int) -> Any:
    """Return a context with the writer of the first process; others have none."""
    if processes.is_first():
        return MetricWriter(workdir, first_step=first_step)
    return contextlib.nullcontext()


def pair_frames(config: ConfigDict) -> int:
    """Return how many frames a training pair has."""
    return config.data.get("frames", 2)  # configs of before do not have it


def require_same_run(
    workdir: Path, ours: Record, content: dict[str, Any]
) -> dict[str, Any]:
    """Return the record of a run that goes on: ours, begun where it had begun.

    content: the record in the checkpoint, see `record.read`.
    Raises: InputError where the checkpoint of the workdir is of another run.
    """
    theirs = record.read(workdir, content)
    record.require_same(workdir, theirs, ours)
    if ours.origin and ours.origin != theirs.origin:
        started = f"from {theirs.origin}" if theirs.origin else "from a seed"
        rule = f"has begun {started}, not from {ours.origin}"
        raise InputError(workdir, "init_from", f"{rule}: name another --workdir")
    return record.to_json(ours._replace(origin=theirs.origin))


def saved(state: TrainState, statistics: dict) -> dict:
    """Return what a checkpoint holds of a run."""
    tree = {
        "params": state.params,
        "statistics": statistics,
        "opt": state.opt,
        "step": state.step,
    }
    return tree if state.average is None else tree | {"average": state.average}


def finite_means(pending: list[dict], step: int) -> dict[str, float]:
    """Return the mean of each metric over some steps; stop the run on NaN or Inf."""
    rows = jax.device_get(pending)
    means = {k: float(sum(row[k] for row in rows)) / len(rows) for k in rows[0]}
    wrong = [k for k, v in means.items() if not math.isfinite(v)]
    if wrong:
        before = f"between steps {step - len(rows) + 1} and {step}"
        sys.exit(f"error: {', '.join(wrong)} not finite {before}; lower optim.peak_lr?")
    return means


def check_settings(config: ConfigDict) -> None:
    """Raise InputError for what would else fail late or without a name."""
    run = config.run
    for name, minimum in (
        ("log_every", 1),
        ("save_every", 1),
        ("eval_every", 0),
        ("keep_checkpoints", 1),
        ("cpu_devices", 1),
    ):
        if run[name] < minimum:
            rule = f"must be at least {minimum}, is {run[name]}"
            raise InputError(f"run.{name}", "", rule)
    looks_at = (config.model.sta or {}).get("frames", 1)
    if looks_at >= pair_frames(config):
        rule = f"must be more than model.sta.frames = {looks_at}"
        raise InputError("data.frames", "", f"{rule}, is {pair_frames(config)}")
    for theirs, ours in config.data.get("class_map", {}).items():
        if not isinstance(ours, str):
            rule = f"must name a class, or '' for none, for '{theirs}', names {ours}"
            raise InputError("data.class_map", "", rule)


def note_config(path: Path, config: ConfigDict) -> None:
    """Write the config to `path`; print what a resumed run changes in it."""
    new = config.to_json_best_effort(indent=2)
    old = path.read_text() if path.is_file() else new
    before, now = (flags_of(record.modern(json.loads(text))) for text in (old, new))
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            print(f"changed since: {name} from {before.get(name)} to {now.get(name)}")
    with replacing(path) as partial:
        partial.write_text(new + "\n")


def flags_of(tree: dict, prefix: str = "config") -> dict[str, Any]:
    """Return the settings of nested dicts by the names of their flags."""
    flat = {}
    for key, value in tree.items():
        name = f"{prefix}.{key}"
        flat |= flags_of(value, name) if isinstance(value, dict) else {name: value}
    return flat


def require_scorable(val: Dataset, categories: list[str]) -> None:
    """Raise InputError where val cannot be scored by such a model."""
    if not val.annotated:
        rule = "must have 'annotations' to be scored; or set run.eval_every=0"
        raise InputError(val.path, "", rule)
    if (names := [c.name for c in val.categories]) != categories:
        rule = f"must be those trained on, in this order: {categories}; are {names}"
        raise InputError(val.path, "categories", rule)


EXAMPLES = 3  # videos


class Examples:
    """Pictures of an evaluation: the middle frame of each of the first videos."""

    def __init__(self, dataset: Dataset, score: float):
        self.images: dict[str, np.ndarray] = {}
        self._dataset, self._score = dataset, score
        self._ids = {video.id for video in dataset.videos[:EXAMPLES]}

    def add(self, video: Video, frame: FrameTracks) -> None:
        """Draw the frame if it is one of the chosen."""
        if video.id in self._ids and frame.index == len(video.file_names) // 2:
            image = youtube_vis.read_frame(self._dataset, video, frame.index)
            self.images[f"val/{video.name}"] = recording.picture_of(
                image, frame.above(self._score)
            )


def validate(
    tracker: Tracker, val: Dataset, workdir: Path, signals: Signals, examples: Examples
) -> dict[str, float] | None:
    """Return the official numbers on the val set; None if a signal came meanwhile."""
    try:
        return inference.evaluate(
            tracker,
            val,
            workdir / "val_results.json",
            watch=examples.add,
            stop=lambda: bool(signals.received),
            together=EXAMPLES,
        )
    except Stopped:
        return None


if __name__ == "__main__":
    script.run(main)
