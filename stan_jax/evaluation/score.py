"""All that can be said of a results file: official numbers, by category, tracking."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stan_jax.errors import InputError
from stan_jax.evaluation import reasons, tracking_metrics, youtube_vis_ap
from stan_jax.evaluation.worker_pool import open_pool
from stan_jax.metrics import error_kinds, overlap, tracking
from stan_jax.metrics.error_kinds import Breakdown
from stan_jax.metrics.tracks import PredictedTrack, TrueTrack
from stan_jax.metrics.video_ap import (
    SIDES,
    THRESHOLDS,
    Matched,
    VideoAp,
    areas,
    match,
)
from stan_jax.results import readers
from stan_jax.results.readers import Truth


class Options(NamedTuple):
    """What is scored, and how."""

    class_agnostic: bool = False  # all categories are one
    errors: bool = False  # also say where the AP goes
    sides: tuple[int, int] = SIDES  # of squares that part small, medium and large
    min_score: float | None = None  # of the tracks that tracking metrics look at
    categories: Collection | None = None  # ids or names; the others are passed over
    videos: Collection | None = None  # ids; the others are passed over


OFFICIAL = Options()


class Category(NamedTuple):
    """Scores of one category; -1 where there is nothing to find."""

    id: Any
    name: str
    ap: float
    ap50: float
    ap75: float
    ar10: float
    tracks: int  # true ones
    found: int
    hota: float | None = None  # of its tracks alone; None where there are none
    mota: float | None = None
    idf1: float | None = None


class Scores(NamedTuple):
    """The twelve official numbers, each category, and the tracking metrics."""

    official: dict[str, float]
    options: Options
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
    tracks: Counter  # true ones by category
    found: Counter  # results by category, also of those that are passed over


def score_files(
    instances_path: str | Path,
    results_path: str | Path,
    workers: int = 1,
    options: Options = OFFICIAL,
) -> Scores:
    """Return all scores at once; each file is read once, and one video at a time.

    workers: processes that share the videos.
    Raises: InputError as `youtube_vis_ap.evaluate_files`, where there are no
    annotations, and for a category that is not there.
    """
    with open_pool(workers) as pool:
        truth = readers.true_tracks(instances_path)
        if not truth.tracks and not truth.odd:
            rule = "has no annotations: nothing to score"
            cure = "`stan submit` makes the zip for a server"
            raise InputError(instances_path, "", rule, cure)
        listed = {c["id"] for c in truth.categories}
        truth = _chosen(truth, options.categories, instances_path)
        ids = [c["id"] for c in truth.categories]
        score = VideoAp(ids, options.class_agnostic, options.sides)
        paths = instances_path, results_path
        work = partial(_one_video, options, score.groups, paths, ids)
        run = partial(pool.run, truth=truth, results_path=results_path)
        parts = run(work, only=options.videos)
        for video_id, part in parts.items():
            score.add_matched(video_id, part.matched)
        stats, reason = score.finish(), ""
        if stats["AP"] < reasons.NOTHING:
            told = run(partial(_facts, options, ids), only=options.videos)
            reason = f"AP is about 0: {reasons.reason(told.values())}"
    curves = {name: stats.pop(name) for name in ("precision", "recall", "scores")}
    official = {name: float(value) for name, value in stats.items()}
    corrected = {
        video_id: part.corrected for video_id, part in parts.items() if part.corrected
    }
    total, untold = _tracking(truth, parts, instances_path)
    tracks, found, odd = Counter(), Counter(), Counter()
    for part in parts.values():
        tracks.update(part.tracks)
        found.update(part.found)
        odd.update(part.odd)
    odd[UNLISTED] = sum(n for c, n in found.items() if c not in listed)
    rows = []
    if not options.class_agnostic:
        held = total.by_category() if total else {}
        rows = _categories(truth, (tracks, found), curves, held)
    told = [f"{instances_path}: {rule}" for rule in truth.odd]
    rules = sorted(odd.items())  # whoever had which video
    told += [f"{results_path}: {n} results {rule}" for rule, n in rules if n]
    return Scores(
        official,
        options,
        rows,
        total.summary() if total else {},
        _names(truth),
        error_kinds.total(ids, corrected) if options.errors else None,
        [*told, *untold],
        reason,
    )


def _chosen(truth: Truth, wanted: Collection | None, path: str | Path) -> Truth:
    """The truth with some of its categories, by id or by name."""
    if wanted is None:
        return truth
    named = {str(x) for c in truth.categories for x in (c["id"], c.get("name"))}
    for name in wanted:
        if str(name) not in named:
            names = ", ".join(sorted(str(c.get("name")) for c in truth.categories))
            raise InputError(path, "categories", f"has no '{name}', has {names:.200}")
    kept = {str(name) for name in wanted}
    return truth._replace(
        categories=[
            c for c in truth.categories if {str(c["id"]), str(c.get("name"))} & kept
        ]
    )


def _tracking(
    truth: Truth, parts: Mapping[Any, Part], instances_path: str | Path
) -> tuple[tracking.Total | None, list[str]]:
    """The tracking metrics; or none, and why."""
    counts = {}
    for video_id, part in parts.items():
        if isinstance(part.counts, InputError):
            return None, [f"{part.counts}: no tracking metrics"]
        counts[video_id] = part.counts
    total = tracking.Total()
    for video in tracking_metrics.in_order(truth, counts, instances_path):
        total.add(video)
    return total, []


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


def _of(category_ids: Collection, tracks: Sequence) -> list:
    return [track for track in tracks if track.category_id in category_ids]


def _facts(
    options: Options, ids: Collection, video: dict, true: Sequence, found: Sequence
) -> reasons.Facts:
    if options.categories is not None:
        true, found = _of(ids, true), _of(ids, found)
    return reasons.facts(video, true, found)


def _one_video(
    options: Options,
    groups: Sequence,
    paths: tuple,
    ids: Sequence,
    video: dict,
    true: Sequence[TrueTrack],
    found: Sequence[PredictedTrack],
) -> Part:
    odd, seen = _odd(video, found), Counter(track.category_id for track in found)
    if options.categories is not None:
        true, found = _of(ids, true), _of(ids, found)
    # Once for all that looks at it.
    overlaps = overlap.compare([x.masks for x in found], [x.masks for x in true])
    corrected = None
    if options.errors:
        corrected = error_kinds.one_video(ids, video, true, found, overlaps)
    counted = range(len(found))
    if options.min_score is not None:
        counted = [n for n in counted if found[n].score >= options.min_score]
    try:
        counts = tracking.count(
            video,
            true,
            [found[n] for n in counted],
            *paths,
            by_category=not options.class_agnostic,
            overlaps=overlaps.of(counted, range(len(true))),
        )
    except InputError as error:  # which AP is not concerned with
        counts = error
    matched = match(groups, true, found, areas(options.sides), overlaps.tracks)
    number = Counter(track.category_id for track in true)
    return Part(matched, counts, corrected, odd, number, seen)


def _names(truth: Truth) -> dict[Any, str]:
    return {c["id"]: str(c.get("name", c["id"])) for c in truth.categories}


def _categories(
    truth: Truth,
    counts: tuple[Counter, Counter],
    curves: dict[str, np.ndarray],
    held: dict[Any, dict[str, Any]],
) -> list[Category]:
    """The row of each category; counts: of true tracks and of results."""
    names = _names(truth)
    at = {round(float(x), 2): i for i, x in enumerate(THRESHOLDS)}
    rows = []
    for k, category_id in enumerate(sorted(names)):
        precision = curves["precision"][:, :, k, 0, 2]  # all sizes, 100 a video
        told = held.get(category_id, {})
        rows.append(
            Category(
                category_id,
                names[category_id],
                _mean(precision),
                _mean(precision[at[0.5]]),
                _mean(precision[at[0.75]]),
                _mean(curves["recall"][:, k, 0, 1]),
                *(number[category_id] for number in counts),
                *(told.get(name) for name in ("HOTA", "MOTA", "IDF1")),
            )
        )
    return rows


def _mean(values: np.ndarray) -> float:
    values = values[values > -1]
    return float(np.mean(values)) if values.size else -1.0


HEAD = "AP", "AP50", "AP75", "AR10", "tracks", "found", "HOTA", "MOTA", "IDF1"


def text(scores: Scores) -> str:
    """The tables that a person reads."""
    options, lines = scores.options, []
    if options.class_agnostic:
        lines.append("all categories taken for one:")
    if options.categories is not None:
        lines.append(f"of {', '.join(scores.names.values())} alone:")
    if options.videos is not None:
        lines.append(f"of {len(options.videos)} videos alone:")
    small, large = (f"{side} x {side}" for side in options.sides)
    lines += [youtube_vis_ap.table(scores.official)]
    lines += [f" area: mean pixels of a track, small to {small}, large from {large}"]
    if scores.categories:
        width = max(8, *(len(row.name) for row in scores.categories))
        last = len(HEAD) if scores.tracking else -3
        shown = "".join(f"{x:>8}" for x in HEAD[:last])
        lines += ["", f"{'category':{width}}{shown}"]
        for row in scores.categories:
            figures = [_figure(x) for x in row[2:8]]
            figures += [_plain_figure(x) for x in row[8:]]
            shown = "".join(f"{x:>8}" for x in figures[:last])
            lines.append(f"{row.name:{width}}{shown}")
    if scores.tracking:
        lines += ["", f"tracking, every category taken for one, {which(options)}:"]
    lines += [
        f"{name:>8} {_plain_figure(value)}" for name, value in scores.tracking.items()
    ]
    if scores.lost:
        lines += ["", error_kinds.text(scores.lost, scores.names)]
    if scores.reason:
        lines += ["", scores.reason]
    if scores.warnings:
        lines += ["", *(f"warning: {text}" for text in scores.warnings)]
    return "\n".join(lines)


def which(options: Options) -> str:
    """Return which tracks the tracking metrics look at."""
    if options.min_score is None:
        return "tracks of any score (--min-score)"
    return f"tracks with a score of {options.min_score:g} or more"


def _figure(value: float | int) -> str:
    return "-" if value == -1 else _plain_figure(value)


def _plain_figure(value: float | int | None) -> str:
    if value is None or isinstance(value, int):
        return "-" if value is None else str(value)
    return f"{value:.3f}"


def as_json(scores: Scores) -> dict[str, Any]:
    """The same for machines."""
    content: dict[str, Any] = {
        "official": scores.official,
        "class_agnostic": scores.options.class_agnostic,
        "min_score": scores.options.min_score,
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
