"""Where does the AP go: what it would be if every error of one kind were mended.

After Bolya et al., TIDE, 2020, carried over from boxes to tracks: every found track has
at most one kind of error and one true track that it was meant for.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from pycocotools import mask as coco_mask

from stan_jax.evaluation import youtube_vis_ap
from stan_jax.evaluation.run_lengths import Masks
from stan_jax.evaluation.video_ap import FoundTrack, TrueTrack, VideoAp, match

KINDS = {
    "class": "right object, wrong class",
    "loose": "right object, mask too loose",
    "duplicate": "a second track of an object",
    "background": "no object there",
    "missed": "object that no track was meant for",
    "switch": "goes over from one object to another",
    "fragment": "frames of its object are missing",
}
SAME = 0.5  # overlap from which a track is that of an object
NEAR = 0.1  # overlap from which it was meant for it
EXACT = 0.95  # the strictest overlap that AP asks for


class Error(NamedTuple):
    """One track that costs AP."""

    kind: str
    video_id: Any
    row: int  # of the results file; -1 for a missed object
    true_id: Any  # the object; None for background
    category_id: Any  # as found; of the object where it is missed
    score: float  # of the found track; 0 for a missed object
    overlap: float  # over the whole video
    frames: tuple[int, int]  # first and last that show it


class Breakdown(NamedTuple):
    """AP, what each kind costs, overall and by category, and the tracks."""

    ap: float
    gains: dict[str, float]
    by_category: dict[Any, dict[str, float]]
    errors: list[Error]  # the worst first


class Mended(NamedTuple):
    """What one video adds: to the AP as it is, and with each kind mended."""

    matched: dict
    by_kind: dict[str, dict]
    errors: list[Error]


def evaluate_files(
    instances_path: str | Path, results_path: str | Path, workers: int = 1
) -> Breakdown:
    """Read both files and go through them one video at a time.

    Raises: InputError as `youtube_vis_ap.evaluate_files`.
    """
    with youtube_vis_ap.pool(workers) as executor:
        truth, found = youtube_vis_ap.read_both(instances_path, results_path, executor)
        ids = [c["id"] for c in truth.categories]
        scores = {kind: VideoAp(ids) for kind in ("", *KINDS)}
        errors = []
        for video_id, part in youtube_vis_ap.each_video(
            one_video, truth, found, executor
        ):
            # Categories outside the file's list stand for nothing.
            groups = {c: k for k, (c,) in enumerate(scores[""].groups)}
            for kind, score in scores.items():
                matched = part.by_kind[kind] if kind else part.matched
                matched = {groups[c]: m for c, m in matched.items() if c in groups}
                score.add_matched(video_id, matched)
            errors += [e for e in part.errors if e.category_id in groups]
    aps = {kind: _aps(score) for kind, score in scores.items()}
    order = {kind: i for i, kind in enumerate(KINDS)}
    errors.sort(key=lambda e: (order[e.kind], -e.score, str(e.video_id), e.row))
    return Breakdown(
        aps[""][0],
        {kind: aps[kind][0] - aps[""][0] for kind in KINDS},
        {
            c: {kind: aps[kind][1][c] - aps[""][1][c] for kind in KINDS}
            for c in aps[""][1]
            if aps[""][1][c] >= 0
        },
        errors,
    )


def _aps(score: VideoAp) -> tuple[float, dict[Any, float]]:
    stats = score.finish()
    precision = stats["precision"][:, :, :, 0, 2]
    each = {c: float(precision[:, :, k].mean()) for k, (c,) in enumerate(score.groups)}
    return float(stats["AP"]), each


def one_video(
    video: dict[str, Any], truth: Sequence[TrueTrack], found: Sequence[FoundTrack]
) -> Mended:
    """Sort the errors of one video and mend them, one kind at a time."""
    truth, found = list(truth), list(found)
    common, areas, true_areas = _common(found, truth)
    kinds, targets, overlap = _judge(found, truth, common, areas, true_areas)
    categories = sorted({t.category_id for t in [*truth, *found]}, key=str)

    def compared(tracks: list[FoundTrack]) -> dict:
        groups = [[c] for c in categories]
        return {categories[k]: m for k, m in match(groups, truth, tracks).items()}

    claimed = {
        m for kind, m in zip(kinds, targets, strict=True) if kind in ("", "loose")
    }
    meant = {m for m in targets if m >= 0}
    missed = [m for m, g in enumerate(truth) if m not in meant and not g.crowd]
    by_kind = {}
    for kind in KINDS:
        tracks, taken = [], set(claimed)
        best_first = sorted(range(len(found)), key=lambda n: -found[n].score)
        for n in best_first:
            if kinds[n] != kind or kind == "missed":
                tracks.append((n, found[n]))
                continue
            m = targets[n]
            free = m not in taken or kind == "loose"
            if m >= 0 and kind != "duplicate" and free:
                taken.add(m)
                tracks.append((n, _mend(kind, found[n], truth[m])))
        if kind == "missed":
            # Above all others, so that a missed object costs nothing else.
            top = max((d.score for d in found), default=1.0)
            added = [
                FoundTrack(top, truth[m].category_id, truth[m].masks) for m in missed
            ]
            tracks += [(-1, d) for d in added]
        by_kind[kind] = compared([d for _, d in sorted(tracks, key=lambda x: x[0])])
    errors = [
        Error(
            kinds[n],
            video["id"],
            d.row,
            truth[targets[n]].id if targets[n] >= 0 else None,
            d.category_id,
            d.score,
            float(overlap[n, targets[n]]) if targets[n] >= 0 else 0.0,
            _span(d.masks),
        )
        for n, d in enumerate(found)
        if kinds[n]
    ]
    for m in missed:
        g = truth[m]
        span = _span(g.masks)
        errors.append(
            Error("missed", video["id"], -1, g.id, g.category_id, 0.0, 0.0, span)
        )
    return Mended(compared(found), by_kind, errors)


def _span(masks: Masks) -> tuple[int, int]:
    shown = np.flatnonzero(masks.areas)
    return (int(shown[0]), int(shown[-1])) if shown.size else (-1, -1)


def _judge(found, truth, common, areas, true_areas) -> tuple[list, list, np.ndarray]:
    """Kind ("" for none) and target (-1 for none) of each found track; overlaps."""
    union = areas[:, None] + true_areas - common  # [n m t]
    total = union.sum(-1)
    overlap = np.divide(
        common.sum(-1), total, out=np.zeros(total.shape), where=total > 0
    )
    shown = (areas > 0)[:, None]
    within = (union * shown).sum(-1)  # in the frames of the found track alone
    there = np.divide(
        common.sum(-1), within, out=np.zeros(within.shape), where=within > 0
    )
    follows = (common >= SAME * union) & (common > 0)  # [n m t]
    same = np.array(
        [[d.category_id == g.category_id for g in truth] for d in found], bool
    ).reshape(overlap.shape)
    kinds, targets = [""] * len(found), [-1] * len(found)
    taker: dict[int, int] = {}
    for n in sorted(range(len(found)), key=lambda n: -found[n].score):
        if not truth:
            kinds[n] = "background"
            continue
        fit = np.where(same[n], overlap[n], -1)
        free = np.array([m not in taker or truth[m].crowd for m in range(len(truth))])
        m = int(np.where(free, fit, -1).argmax())
        if free[m] and fit[m] >= SAME:
            targets[n], taker[m] = m, n
            if truth[m].crowd:
                continue
            if overlap[n, m] < EXACT:
                kinds[n] = "loose" if there[n, m] < EXACT else "fragment"
            continue
        kinds[n], targets[n] = _why(
            same[n], overlap[n], there[n], follows[n], taker, areas[n] > 0, areas
        )
    return kinds, targets, overlap


def _why(same, overlap, there, follows, taker, shown, areas) -> tuple[str, int]:
    """What is wrong with a track that is nobody's."""
    followed = np.flatnonzero(follows.any(-1))
    at = [frozenset(np.flatnonzero(follows[m]).tolist()) for m in followed]
    # Another object in frames where the first one is not followed: no mere overlap.
    if len(followed) > 1 and any(a - b and b - a for a in at for b in at):
        length = [
            len(a) + same[m] * len(shown) for m, a in zip(followed, at, strict=True)
        ]
        best = int(followed[np.argmax(length)])  # of its own class, if one is
        if overlap[best] < SAME:
            return "switch", best
    m = int(np.where(same, there, -1).argmax())
    if same[m] and there[m] >= SAME:
        if m not in taker:
            return "fragment", m
        shared = (shown & (areas[taker[m]] > 0)).sum()
        return ("duplicate" if 2 * shared > shown.sum() else "fragment"), m
    m = int(overlap.argmax())
    if overlap[m] >= SAME:
        return "class", m
    m = int(np.where(same, overlap, -1).argmax())
    if same[m] and overlap[m] >= NEAR:
        return ("duplicate" if m in taker else "loose"), m
    return "background", -1


def _mend(kind: str, track: FoundTrack, true: TrueTrack) -> FoundTrack:
    if kind == "class":
        return track._replace(category_id=true.category_id)
    if kind == "switch":
        return track._replace(masks=true.masks)
    texts, sizes = list(track.masks.texts), track.masks.sizes.copy()
    areas = track.masks.areas.copy()
    for t in range(min(len(texts), len(true.masks.texts))):
        shows = areas[t] > 0
        if true.masks.areas[t] > 0 and (shows if kind == "loose" else not shows):
            texts[t], sizes[t] = true.masks.texts[t], true.masks.sizes[t]
            areas[t] = true.masks.areas[t]
    return track._replace(masks=Masks(texts, sizes, areas))


def _common(
    found: list[FoundTrack], truth: list[TrueTrack]
) -> tuple[
    Float[np.ndarray, "n m t"], Float[np.ndarray, "n t"], Float[np.ndarray, "m t"]
]:
    """Common pixels of each pair in each frame, and the areas of either side."""
    length = max((len(x.masks.texts) for x in [*found, *truth]), default=0)
    areas = np.zeros((len(found), length))
    true_areas = np.zeros((len(truth), length))
    for side, rows in ((found, areas), (truth, true_areas)):
        for row, track in zip(rows, side, strict=True):
            row[: len(track.masks.areas)] = track.masks.areas
            _ = track.masks.broken  # raises where comparing would never end
    common = np.zeros((len(found), len(truth), length))
    for t in range(length):
        n, m = np.flatnonzero(areas[:, t]), np.flatnonzero(true_areas[:, t])
        if n.size and m.size:
            seen, there = (
                [
                    {"size": x.masks.sizes[t].tolist(), "counts": x.masks.texts[t]}
                    for x in (side[i] for i in chosen)
                ]
                for side, chosen in ((found, n), (truth, m))
            )
            # Masks of different sizes have nothing in common: -1 there.
            ratio = np.maximum(coco_mask.iou(seen, there, [0] * len(m)), 0)
            both = areas[n, t][:, None] + true_areas[m, t]
            common[n[:, None], m, t] = np.rint(ratio * both / (1 + ratio))
    return common, areas, true_areas


def text(breakdown: Breakdown, names: dict[Any, str], worst: int = 3) -> str:
    """The table that a person reads, and the worst tracks of each kind."""
    counts = Counter(error.kind for error in breakdown.errors)
    lines = ["AP that mending every error of one kind would give back:"]
    for kind, meaning in KINDS.items():
        gain = f"{breakdown.gains[kind]:+.3f}"
        lines.append(f"{kind:>12} {gain} {counts[kind]:>6} tracks: {meaning}")
    for kind in KINDS:
        for error in [e for e in breakdown.errors if e.kind == kind][:worst]:
            lines.append(_line(error, names))
    return "\n".join(lines)


def _line(error: Error, names: dict[Any, str]) -> str:
    who = f"results[{error.row}], score {error.score:.2f}, " if error.row >= 0 else ""
    meant = "" if error.true_id is None else f", annotation {error.true_id}"
    first, last = error.frames
    name = names.get(error.category_id, error.category_id)
    return (
        f"{error.kind:>12} video {error.video_id}, frames {first}-{last}: {who}{name}"
        f"{meant}, overlap {error.overlap:.2f}"
    )
