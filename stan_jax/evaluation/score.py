"""All that can be said of a results file: official numbers, by category, tracking."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stan_jax.errors import InputError
from stan_jax.evaluation import reasons, tracking_metrics, youtube_vis_ap
from stan_jax.evaluation.worker_pool import open_pool
from stan_jax.metrics import error_kinds, tracking
from stan_jax.metrics.error_kinds import Breakdown
from stan_jax.metrics.tracks import PredictedTrack
from stan_jax.metrics.video_ap import THRESHOLDS, Matched, VideoAp, match
from stan_jax.results import readers
from stan_jax.results.readers import Truth


class Category(NamedTuple):
    """Average precision of one category; -1 where there is nothing to find."""

    id: Any
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
    class_agnostic: bool
    categories: list[Category]
    tracking: dict[str, float]  # empty where it cannot be told
    names: dict[Any, str]  # of the categories
    lost: Breakdown | None  # where the AP goes, if it was asked for
    warnings: list[str]  # what counts otherwise than one would think
    reason: str = ""  # why the AP is about 0, if it is


class Part(NamedTuple):
    """Share of one video in the scores."""

    matched: dict[int, Matched]
    counts: tracking.Counts | InputError  # or why there are none
    corrected: error_kinds.Corrected | None
    odd: Counter  # results by what is odd about them


def score_files(
    instances_path: str | Path,
    results_path: str | Path,
    class_agnostic: bool = False,
    workers: int = 1,
    *,
    errors: bool = False,
) -> Scores:
    """Return all scores at once; each file is read once, and one video at a time.

    Args:
      class_agnostic: all categories are one; tracking metrics always see them so.
      workers: processes that share the videos.
      errors: also say where the AP goes.
    Raises: InputError as `youtube_vis_ap.evaluate_files`, and where there are no
    annotations.
    """
    with open_pool(workers) as pool:
        truth = readers.true_tracks(instances_path)
        if not truth.tracks and not truth.odd:
            rule = "has no annotations: nothing to score"
            cure = "`stan submit` makes the zip for a server"
            raise InputError(instances_path, "", rule, cure)
        ids = [c["id"] for c in truth.categories]
        score = VideoAp(ids, class_agnostic)
        paths = instances_path, results_path
        work = partial(_one_video, score.groups, paths, ids if errors else None)
        parts, found = pool.run(work, truth, results_path)
        for video_id, part in parts.items():
            score.add_matched(video_id, part.matched)
        stats, reason = score.finish(), ""
        if stats["AP"] < reasons.NOTHING:
            told = pool.run(reasons.facts, truth, results_path).parts
            reason = f"AP is about 0: {reasons.reason(told.values())}"
    curves = {name: stats.pop(name) for name in ("precision", "recall", "scores")}
    rows = [] if class_agnostic else _categories(truth, found, curves)
    official = {name: float(value) for name, value in stats.items()}
    corrected = {
        video_id: part.corrected for video_id, part in parts.items() if part.corrected
    }
    tracked, untold = _tracking(truth, parts, instances_path)
    odd = Counter({UNLISTED: sum(n for c, n in found.items() if c not in set(ids))})
    for part in parts.values():
        odd.update(part.odd)
    told = [f"{instances_path}: {rule}" for rule in truth.odd]
    rules = sorted(odd.items())  # whoever had which video
    told += [f"{results_path}: {n} results {rule}" for rule, n in rules if n]
    return Scores(
        official,
        class_agnostic,
        rows,
        tracked,
        _names(truth),
        error_kinds.total(ids, corrected) if errors else None,
        [*told, *untold],
        reason,
    )


def _tracking(
    truth: Truth, parts: Mapping[Any, Part], instances_path: str | Path
) -> tuple[dict[str, float], list[str]]:
    """The tracking metrics; or none, and why."""
    counts = {}
    for video_id in truth.videos:
        if isinstance(found := parts[video_id].counts, InputError):
            return {}, [f"{found}: no tracking metrics"]
        counts[video_id] = found
    total = tracking.Total()
    for video in tracking_metrics.in_order(truth, counts, instances_path):
        total.add(video)
    return total.summary(), []


UNLISTED = "are of a category that is not listed: they count for nothing in AP"


def _odd(video: dict, found: Sequence[PredictedTrack]) -> Counter:
    """Results of a video that count otherwise than one would think, by how."""
    names = video.get("file_names")
    odd: Counter = Counter()
    for track in found:
        length = len(names) if isinstance(names, list) else len(track.masks.texts)
        if not math.isfinite(track.score):
            odd["have a score that is not finite: NaN comes last"] += 1
        if len(track.masks.texts) != length:
            odd["are longer or shorter than their video: the rest is left out"] += 1
        if not track.masks.areas.any():
            odd["show nothing"] += 1
    return odd


def _one_video(groups, paths, category_ids, video, true, found) -> Part:
    corrected = None
    if category_ids is not None:
        corrected = error_kinds.one_video(category_ids, video, true, found)
    try:
        counts = tracking.count(video, true, found, *paths)
    except InputError as error:  # which AP is not concerned with
        counts = error
    return Part(match(groups, true, found), counts, corrected, _odd(video, found))


def _names(truth: Truth) -> dict[Any, str]:
    return {c["id"]: str(c.get("name", c["id"])) for c in truth.categories}


def _categories(
    truth: Truth, found: Counter, curves: dict[str, np.ndarray]
) -> list[Category]:
    names = _names(truth)
    at = {round(float(x), 2): i for i, x in enumerate(THRESHOLDS)}
    rows = []
    for k, category_id in enumerate(sorted(names)):
        precision = curves["precision"][:, :, k, 0, 2]  # all sizes, 100 a video
        rows.append(
            Category(
                category_id,
                names[category_id],
                _mean(precision),
                _mean(precision[at[0.5]]),
                _mean(precision[at[0.75]]),
                _mean(curves["recall"][:, k, 0, 1]),
                truth.tracks.counts[category_id],
                found[category_id],
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
            figures = "".join(f"{_figure(x):>8}" for x in row[2:])
            lines.append(f"{row.name:{width}}{figures}")
    if scores.class_agnostic:
        lines.insert(0, "all categories taken for one:")
    if scores.tracking:
        lines += ["", "tracking, every category taken for one:"]
    lines += [f"{name:>8} {_figure(value)}" for name, value in scores.tracking.items()]
    if scores.lost:
        lines += ["", error_kinds.text(scores.lost, scores.names)]
    if scores.reason:
        lines += ["", scores.reason]
    if scores.warnings:
        lines += ["", *(f"warning: {text}" for text in scores.warnings)]
    return "\n".join(lines)


def _figure(value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    return "-" if value == -1 else f"{value:.3f}"


def as_json(scores: Scores) -> dict[str, Any]:
    """The same for machines."""
    content: dict[str, Any] = {
        "official": scores.official,
        "class_agnostic": scores.class_agnostic,
        "categories": [row._asdict() for row in scores.categories],
        "tracking": scores.tracking or None,
        "warnings": scores.warnings,
        "reason": scores.reason or None,
    }
    if scores.lost:
        errors = [error._asdict() for error in scores.lost.errors]
        content["errors"] = scores.lost._asdict() | {"errors": errors}
    return _plain(content)


def _plain(value: Any) -> Any:
    """Return what json may hold: null for what is no finite number."""
    if isinstance(value, dict):
        return {str(key): _plain(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
