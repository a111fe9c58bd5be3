"""All that can be said of a results file: official numbers, by category, tracking."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stan_jax.evaluation import tracking_metrics, youtube_vis_ap
from stan_jax.evaluation.video_ap import THRESHOLDS, VideoAp, match


class Category(NamedTuple):
    """Average precision of one category; -1 where there is nothing to find."""

    name: str
    ap: float
    ap50: float
    ap75: float
    ar10: float
    tracks: int  # true ones
    found: int


class Scores(NamedTuple):
    """The twelve official numbers, each category, and the tracking metrics."""

    official: dict[str, float]
    categories: list[Category]
    tracking: dict[str, float]
    names: dict[Any, str]  # of the categories


def score_files(
    instances_path: str | Path,
    results_path: str | Path,
    class_agnostic: bool = False,
    workers: int = 1,
) -> Scores:
    """Everything at once; each file is read once, and one video at a time.

    class_agnostic: all categories are one; tracking metrics always see them so.
    workers: processes that share the videos.
    Raises: InputError as `youtube_vis_ap.evaluate_files`.
    """
    with youtube_vis_ap.pool(workers) as executor:
        truth, found = youtube_vis_ap.read_both(instances_path, results_path, executor)
        score = VideoAp([c["id"] for c in truth.categories], class_agnostic)
        work = partial(_one_video, score.groups, instances_path, results_path)
        tracking = {}
        for video_id, (matched, tracking[video_id]) in youtube_vis_ap.each_video(
            work, truth, found, executor
        ):
            score.add_matched(video_id, matched)
    stats = score.finish()
    curves = {name: stats.pop(name) for name in ("precision", "recall", "scores")}
    rows = [] if class_agnostic else _categories(truth, found, curves)
    official = {name: float(value) for name, value in stats.items()}
    total = tracking_metrics.Total()
    for counts in tracking_metrics.in_order(truth, tracking, instances_path):
        total.add(counts)
    names = {c["id"]: str(c.get("name", c["id"])) for c in truth.categories}
    return Scores(official, rows, total.summary(), names)


def _one_video(groups, instances_path, results_path, video, true, found) -> tuple:
    matched = match(groups, true, found)
    counts = tracking_metrics.count(video, true, found, instances_path, results_path)
    return matched, counts


def _categories(truth, found, curves: dict[str, np.ndarray]) -> list[Category]:
    names = {c["id"]: str(c.get("name", c["id"])) for c in truth.categories}
    at = {round(float(x), 2): i for i, x in enumerate(THRESHOLDS)}
    rows = []
    for k, category_id in enumerate(sorted(names)):
        precision = curves["precision"][:, :, k, 0, 2]  # all sizes, 100 a video
        rows.append(
            Category(
                names[category_id],
                _mean(precision),
                _mean(precision[at[0.5]]),
                _mean(precision[at[0.75]]),
                _mean(curves["recall"][:, k, 0, 1]),
                truth.tracks.counts[category_id],
                found.counts[category_id],
            )
        )
    return rows


def _mean(values: np.ndarray) -> float:
    values = values[values > -1]
    return float(np.mean(values)) if values.size else -1.0


def text(scores: Scores) -> str:
    """The tables that a person reads."""
    lines = [youtube_vis_ap.table(scores.official)]
    if scores.categories:
        width = max(8, *(len(row.name) for row in scores.categories))
        head = f"{'category':{width}}" + "".join(
            f"{x:>8}" for x in ("AP", "AP50", "AP75", "AR10", "tracks", "found")
        )
        lines += ["", head]
        for row in scores.categories:
            figures = "".join(f"{_figure(x):>8}" for x in row[1:])
            lines.append(f"{row.name:{width}}{figures}")
    lines += ["", "tracking, every category taken for one:"]
    lines += [f"{name:>8} {_figure(value)}" for name, value in scores.tracking.items()]
    return "\n".join(lines)


def _figure(value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    return "-" if value == -1 else f"{value:.3f}"


def as_json(scores: Scores) -> dict[str, Any]:
    """The same for machines."""
    rows = [row._asdict() for row in scores.categories]
    return {
        "official": scores.official,
        "categories": rows,
        "tracking": scores.tracking,
    }
