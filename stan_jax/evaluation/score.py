"""All that can be said of a results file: official numbers, by category, tracking."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stan_jax.evaluation import tracking_metrics, youtube_vis_ap
from stan_jax.evaluation.video_ap import THRESHOLDS


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


def score_files(
    instances_path: str | Path, results_path: str | Path, class_agnostic: bool = False
) -> Scores:
    """Everything at once, each file read once.

    class_agnostic: all categories are one; tracking metrics always see them so.
    Raises: InputError as `youtube_vis_ap.evaluate_files`.
    """
    truth = youtube_vis_ap.true_tracks(instances_path)
    found = youtube_vis_ap.found_tracks(results_path, truth.videos)
    stats = youtube_vis_ap.evaluate(truth, found, class_agnostic)
    curves = {name: stats.pop(name) for name in ("precision", "recall", "scores")}
    tracking = tracking_metrics.evaluate(truth, found, instances_path, results_path)
    rows = [] if class_agnostic else _categories(truth, found, curves)
    official = {name: float(value) for name, value in stats.items()}
    return Scores(official, rows, tracking)


def _categories(truth, found, curves: dict[str, np.ndarray]) -> list[Category]:
    names = {c["id"]: str(c.get("name", c["id"])) for c in truth.categories}
    true, seen = (
        [track.category_id for tracks in side.values() for track in tracks]
        for side in (truth.tracks, found)
    )
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
                true.count(category_id),
                seen.count(category_id),
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
    return scores._asdict() | {"categories": rows}
