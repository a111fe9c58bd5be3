r"""What a choice is worth: configs trained with several seeds, compared pair by pair.

    python -m stan_jax.shapes --out=data/shapes_blank --weather=blank --val_videos=96
    python benchmarks/ablation.py shapes_ablation:blank-baseline \
        shapes_ablation:blank-paper shapes_ablation:blank-finest --seeds=3 --jobs=2 \
        --json=study.json --figure=study.png -- --config.optim.steps=1500

Trains and evaluates every config with every seed under runs/ablation, on one device a
run, so many side by side as --jobs says; a run cut short goes on. What a run found is
kept in --records, a small file a run: where that is, nothing is trained again, so a
comparison can be made over days and machines. What was made with other overrides is
refused. What follows `--` goes to train.py.

The first config is the baseline of the others. Reported are mean and deviation over
seeds, and the mean paired difference to the baseline with a 95 % interval: bootstrap
over videos and seeds, both drawn anew for baseline and variant alike. Where the set
knows which frames its weather met, AP and recall are of these and of the clean ones
apart: masks of the other frames are left out on both sides.
"""

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stan_jax.evaluation.worker_pool import open_pool
from stan_jax.metrics import overlap, tracking
from stan_jax.metrics.video_ap import VideoAp, match
from stan_jax.pretrained import load
from stan_jax.results import readers
from stan_jax.shapes.generate import SPOILT

ROOT = Path(__file__).resolve().parents[1]
DRAWS = 400  # of the bootstrap: ten lie beyond each end of an interval
COLUMNS = 4  # of the figure
UNITS = 10_000  # of figures in a record
SPENT = "seconds.json"  # what a run took so far
FOUND = 0.5  # IoU from which on an object of a frame is found


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="+", help="NAME or NAME:ARGUMENT of configs/")
    parser.add_argument(
        "--seeds", type=numbers, default=range(3), help="how many, or which: 0,1,3"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "ablation")
    parser.add_argument("--records", type=Path, help="of each run; default: --folder")
    parser.add_argument("--json", type=Path, help="where all figures go")
    parser.add_argument("--figure", type=Path, help="png of all differences")
    split = argv.index("--") if "--" in argv else len(argv)
    args = parser.parse_args(argv[:split])
    overrides = argv[split + 1 :]
    work = [(c, s) for s in args.seeds for c in args.configs]
    records = args.records or args.folder
    records.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(args.jobs) as pool:
        found = pool.map(lambda w: record(*w, args.folder, records, overrides), work)
        measured = dict(zip(work, found, strict=True))
    report = compare(args.configs, args.seeds, measured)
    print("\n" + table(report))
    if args.json:
        hours = sum(r["seconds"] for r in measured.values()) / 3600
        note = {"command": argv, "date": time.strftime("%Y-%m-%d"), "hours": hours}
        args.json.write_text(json.dumps(note | {"configs": report}, indent=1))
    if args.figure:
        draw(report, args.figure)


def numbers(text):
    """Return the seeds that `--seeds` asks for."""
    return [int(n) for n in text.split(",")] if "," in text else range(int(text))


def record(config, seed, folder, records, overrides):
    """Return what a run found, from its record or by making the run.

    A record has the figures over all videos, and `draws`: each figure over the videos
    of every draw of the bootstrap, in units of 1 / UNITS.
    """
    name = f"{config.replace(':', '-')}_{seed}"
    path = records / f"{name}.json"
    if path.is_file():
        found = json.loads(path.read_text())
        agree(found["overrides"], overrides, path)
        return found
    workdir = run(config, seed, folder / name, overrides)
    measured = measure(workdir)
    ids = sorted(measured.videos["all"])
    rng = np.random.default_rng(0)  # the same videos for every run
    draws = [figures(measured, rng.choice(ids, len(ids))) for _ in range(DRAWS)]
    found = {
        "date": time.strftime("%Y-%m-%d"),
        "overrides": overrides,
        "seconds": round(spent(workdir)),
        "attention": measured.attention,
        "figures": (whole := figures(measured, ids)),
        "draws": {k: [round(d[k] * UNITS) for d in draws] for k in whole},
    }
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in found.items())
    path.write_text("{" + lines + "}\n")
    print(f"{config} seed {seed}: AP {whole['AP all']:.3f}, {found['seconds']} s")
    return found


def agree(made, overrides, path):
    if made != overrides:
        sys.exit(f"{path} was made with {made}: delete it, or name another folder")


def run(config, seed, workdir, overrides):
    """Train and evaluate what is not there yet; return the workdir."""
    workdir.mkdir(parents=True, exist_ok=True)
    note = workdir / "overrides.json"
    if not note.is_file():
        note.write_text(json.dumps(overrides))
    agree(json.loads(note.read_text()), overrides, workdir)
    if (workdir / "scores.json").is_file():
        return workdir
    name, _, argument = config.partition(":")
    given = f"--config=configs/{name}.py" + (f":{argument}" if argument else "")
    options = [given, f"--config.seed={seed}", "--config.run.cpu_devices=1", *overrides]
    for script, more in (("train.py", options), ("eval.py", [])):
        command = [sys.executable, script, f"--workdir={workdir}", *more]
        with (workdir / f"{script}.log").open("a") as log:
            begun = time.monotonic()
            try:
                subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=True)
            finally:  # also of a run that was cut short
                seconds = spent(workdir) + time.monotonic() - begun
                (workdir / SPENT).write_text(json.dumps(seconds))
    return workdir


def spent(workdir):
    """Return the seconds that a run has taken, over all its parts."""
    path = workdir / SPENT
    return json.loads(path.read_text()) if path.is_file() else 0.0


def measure(workdir):
    """Return what a run found by video, of each kind of frames, and its attention."""
    config = json.loads((workdir / "config.json").read_text())["data"]["val"]
    path = ROOT / config["annotations"]
    truth = json.loads(path.read_text())
    results = json.loads((workdir / "results.json").read_text())
    lengths = {v["id"]: len(v["file_names"]) for v in truth["videos"]}
    kinds = {"all": {i: set(range(n)) for i, n in lengths.items()}}
    kinds["later"] = {i: set(range(1, n)) for i, n in lengths.items()}
    if (path.parent / SPOILT).is_file():
        met = json.loads((path.parent / SPOILT).read_text())
        kinds["spoilt"] = {i: set(met.get(str(i), ())) for i in lengths}
        kinds["clean"] = {i: kinds["all"][i] - kinds["spoilt"][i] for i in lengths}
    videos = {
        kind: by_video(
            truth | {"annotations": only(truth["annotations"], frames)},
            only(results, frames),
        )
        for kind, frames in kinds.items()
    }
    categories = [c["id"] for c in truth["categories"]]
    return Run(categories, videos, attention(workdir))


class Run(NamedTuple):
    """What one run found."""

    categories: list[int]
    videos: dict[str, dict[int, "Video"]]  # by kind of frames and id
    attention: dict[str, list[float]]


class Video(NamedTuple):
    """What a run found in one video."""

    matched: dict  # see `video_ap.match`
    hota: dict
    found: int  # objects of frames that a mask of any class and score overlaps
    shown: int  # objects of frames


def only(records, frames):
    """Return tracks with the masks of some frames of each video; empty ones go."""
    found = []
    for record in records:
        kept = frames[record["video_id"]]
        lists = {
            key: [x if t in kept else None for t, x in enumerate(record[key])]
            for key in ("segmentations", "bboxes", "areas")
            if key in record
        }
        if any(lists["segmentations"]):
            found.append(record | lists)
    return found


def by_video(truth, results):
    """Return a `Video` for each video, by its id."""
    groups = VideoAp([c["id"] for c in truth["categories"]]).groups

    def one(video, true, predicted):
        masks = {track.id: track.masks for track in true}
        length = len(video["file_names"])
        found = [track.masks for track in predicted]
        overlaps = overlap.compare(found, [track.masks for track in true])
        scene = tracking.scene(masks, found, overlaps, length)
        hit = scene.overlap >= FOUND
        return Video(
            match(groups, true, predicted, overlap=overlaps.tracks),
            tracking.hota(scene),
            len({*zip(scene.t[hit].tolist(), scene.n[hit].tolist(), strict=True)}),
            scene.masks_true,
        )

    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder, "truth.json"), Path(folder, "results.json")
        for path, content in zip(paths, (truth, results), strict=True):
            path.write_text(json.dumps(content))
        with open_pool(1) as pool:
            known = readers.true_tracks(paths[0])
            return pool.run(one, known, paths[1], may_be_empty=True)


def attention(workdir):
    """Return gamma and what the prior's slope has become, by level."""
    _, arrays = load.read(workdir)
    return {
        name: np.asarray(arrays[f"params/sta/{name}"]).round(4).tolist()
        for name in ("gamma", "slope")
        if f"params/sta/{name}" in arrays
    }


def figures(run, ids):
    """Return every figure of a run over the videos of some ids, which may repeat."""
    found = {}
    for kind, by_id in run.videos.items():
        score = VideoAp(run.categories)
        videos = [by_id[i] for i in ids if i in by_id]
        for n, video in enumerate(videos):
            score.add_matched(n, video.matched)
        official = score.finish()
        found[f"AP {kind}"] = official["AP"]
        if kind == "all":
            found |= {k: official[k] for k in ("AP50", "AP75", "AR1", "AR10")}
            tracks = [video.hota for video in videos]
            found["AssA"] = float(tracking.combine_hota(tracks)["AssA"].mean())
        else:
            shown = sum(video.shown for video in videos)
            hits = sum(video.found for video in videos)
            found[f"recall {kind}"] = hits / max(shown, 1)
    return found


def compare(configs, seeds, measured):
    """Return figures of each config, its difference to the first of them and its ratio.

    measured: records by config and seed.
    """
    base = configs[0]
    rng = np.random.default_rng(1)
    who = rng.integers(len(seeds), size=(DRAWS, len(seeds)))  # of each draw
    report: dict[str, dict[str, Any]] = {}
    for config in configs:
        found = [measured[config, s] for s in seeds]
        report[config] = {"attention": [one["attention"] for one in found]}
        for name in found[0]["figures"]:
            values = [one["figures"][name] for one in found]
            row = {"values": values, "mean": statistics.mean(values)}
            row["sd"] = statistics.stdev(values) if len(seeds) > 1 else None
            if config != base:
                first = report[base][name]["mean"]
                row["difference"] = row["mean"] - first
                ours, theirs = (
                    drawn([measured[c, s] for s in seeds], name, who)
                    for c in (config, base)
                )
                row["interval"] = bounds(ours - theirs)
                if first and theirs.all():
                    row["ratio"] = row["mean"] / first
                    row["ratio_interval"] = bounds(ours / theirs)
            report[config][name] = row
    return report


def drawn(records, name, who):
    """Return the mean of a figure over the seeds and videos of each draw."""
    values = np.array([one["draws"][name] for one in records]).T / UNITS  # [draw seed]
    return np.take_along_axis(values, who, 1).mean(1)


def bounds(values):
    return np.quantile(values, [0.025, 0.975]).tolist()


def table(report, names=None):
    """Return the report as a table of Markdown, of some figures or of all."""
    names = names or [k for k in next(iter(report.values())) if k != "attention"]
    lines = [f"| config | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for config, row in report.items():
        cells = []
        for name in names:
            cell = f"{row[name]['mean']:.3f}"
            if row[name]["sd"] is not None:
                cell += f" +- {row[name]['sd']:.3f}"
            if "interval" in row[name]:
                low, high = row[name]["interval"]
                cell += f" ({row[name]['difference']:+.3f}: {low:+.3f} to {high:+.3f})"
            cells.append(cell)
        lines.append(f"| `{config}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(report, path):
    """Draw the differences to the baseline with their intervals."""
    importlib.import_module("matplotlib").use("agg")  # of the extra `study`
    pyplot = importlib.import_module("matplotlib.pyplot")

    base, *others = report
    names = [k for k in report[base] if k != "attention"]
    height = 1 + 0.3 * len(others)
    rows = -(-len(names) // COLUMNS)
    size = 3 * COLUMNS, height * rows + 0.5
    figure, axes = pyplot.subplots(rows, COLUMNS, figsize=size, squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    for axis, name in zip(axes.flat, names, strict=False):
        axis.axvline(0, color="grey", linewidth=0.8)
        for n, config in enumerate(others):
            row = report[config][name]
            axis.plot(row["interval"], [n, n], color="C0")
            axis.plot([row["difference"]], [n], "o", color="C0")
        axis.set_title(name)
        axis.set_yticks(range(len(others)), [c.partition(":")[2] or c for c in others])
    figure.suptitle(f"difference to {base}, 95 % intervals")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main(sys.argv[1:])
