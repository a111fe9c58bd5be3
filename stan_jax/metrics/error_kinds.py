"""Kinds of errors: the AP that correcting every error of one kind would give back.

After Bolya et al., TIDE, 2020, carried over from boxes to tracks: every predicted track
has at most one kind of error, the one that costs it most, and at most one object that
it was meant for.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from stan_jax.masks.run_lengths import Masks
from stan_jax.metrics.overlap import Overlaps, compare, paired
from stan_jax.metrics.tracks import PredictedTrack, TrueTrack
from stan_jax.metrics.video_ap import VideoAp, match

KINDS = {
    "class": "right object, wrong class",
    "loose": "right object, loose mask",
    "duplicate": "a second track of an object",
    "background": "nothing there, or too little of it",
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
    category_id: Any  # as predicted; of the object where it is missed
    score: float  # of the predicted track; 0 for a missed object
    overlap: float  # over the whole video
    frames: tuple[int, int]  # first and last that show it
    true_category_id: Any  # of the object; None for background


class Breakdown(NamedTuple):
    """AP, what each kind costs, overall and by category, and the tracks."""

    ap: float
    gains: dict[str, float]
    by_category: dict[Any, dict[str, float]]
    errors: list[Error]  # the worst first


class Corrected(NamedTuple):
    """Share of one video in the AP as it is, and with each kind corrected."""

    matched: dict
    by_kind: dict[str, dict]
    errors: list[Error]


def total(category_ids: Sequence, parts: Mapping[Any, Corrected]) -> Breakdown:
    """Return what all videos together lose; parts: of each video, by id."""
    scores = {kind: VideoAp(category_ids) for kind in ("", *KINDS)}
    for video_id, part in parts.items():
        for kind, score in scores.items():
            matched = part.by_kind[kind] if kind else part.matched
            score.add_matched(video_id, matched)
    aps = {kind: _aps(score) for kind, score in scores.items()}
    order = {kind: i for i, kind in enumerate(KINDS)}
    return Breakdown(
        aps[""][0],
        {kind: aps[kind][0] - aps[""][0] for kind in KINDS},
        {
            c: {kind: aps[kind][1][c] - aps[""][1][c] for kind in KINDS}
            for c in aps[""][1]
            if aps[""][1][c] >= 0
        },
        sorted(
            (error for part in parts.values() for error in part.errors),
            key=lambda e: (order[e.kind], -e.score, str(e.video_id), e.row),
        ),
    )


def _aps(score: VideoAp) -> tuple[float, dict[Any, float]]:
    stats = score.finish()
    precision = stats["precision"][:, :, :, 0, 2]
    each = {c: float(precision[:, :, k].mean()) for k, (c,) in enumerate(score.groups)}
    return float(stats["AP"]), each


def one_video(
    category_ids: Sequence,
    video: dict[str, Any],
    truth: Sequence[TrueTrack],
    predicted: Sequence[PredictedTrack],
    overlaps: Overlaps | None = None,
) -> Corrected:
    """Sort the errors of one video and mend them, one kind at a time.

    overlaps: of `predicted` with `truth`, where they are known.
    """
    # Categories outside the file's list stand for nothing.
    columns, rows = (
        [i for i, track in enumerate(side) if track.category_id in category_ids]
        for side in (truth, predicted)
    )
    true, seen = [truth[i] for i in columns], [predicted[i] for i in rows]
    if overlaps is None:
        overlaps = compare([x.masks for x in seen], [x.masks for x in true])
    else:
        overlaps = overlaps.of(rows, columns)
    groups = [[c] for c in sorted(set(category_ids))]
    assigned = _assign(seen, true, overlaps)
    matched = match(groups, true, seen, overlap=overlaps.tracks)
    there = {*assigned.kinds, *(["missed"] if assigned.missed else [])}
    by_kind = {
        kind: match(groups, true, _corrected(kind, assigned, seen, true))
        if kind in there
        else matched
        for kind in KINDS
    }
    errors = [
        Error(
            assigned.kinds[n],
            video["id"],
            track.row,
            true[m].id if m >= 0 else None,
            track.category_id,
            track.score,
            float(assigned.overlap[n, m]) if m >= 0 else 0.0,
            _span(track.masks),
            true[m].category_id if m >= 0 else None,
        )
        for n, (track, m) in enumerate(zip(seen, assigned.targets, strict=True))
        if assigned.kinds[n]
    ]
    for g in (true[m] for m in assigned.missed):
        about = 0.0, 0.0, _span(g.masks), g.category_id
        errors.append(Error("missed", video["id"], -1, g.id, g.category_id, *about))
    return Corrected(matched, by_kind, errors)


def _corrected(
    kind: str,
    assigned: "Assigned",
    predicted: Sequence[PredictedTrack],
    truth: Sequence[TrueTrack],
) -> list[PredictedTrack]:
    """The predicted tracks with every error of one kind corrected, in their order."""
    if kind == "missed":
        # Above all others, of any video, so that they cost nothing else.
        added = [truth[m] for m in assigned.missed]
        return [
            *(PredictedTrack(np.inf, g.category_id, g.masks) for g in added),
            *predicted,
        ]
    taken, tracks = set(assigned.taker), {}
    for n in sorted(range(len(predicted)), key=lambda n: -predicted[n].score):
        if assigned.kinds[n] != kind:
            tracks[n] = predicted[n]
            continue
        m = assigned.targets[n]
        # What is meant for an object that another track has is one too many.
        own = assigned.taker.get(m) == n
        if kind not in ("duplicate", "background") and (own or m not in taken):
            taken.add(m)
            tracks[n] = _correct(kind, predicted[n], truth[m])
    return [tracks[n] for n in sorted(tracks)]


def _span(masks: Masks) -> tuple[int, int]:
    shown = np.flatnonzero(masks.areas)
    return (int(shown[0]), int(shown[-1])) if shown.size else (-1, -1)


class Assigned(NamedTuple):
    """Error and object assigned to each predicted track of a video."""

    kinds: list[str]  # "" for none
    targets: list[int]  # the object that it was meant for; -1 for none
    overlap: Float[np.ndarray, "n m"]
    taker: dict[int, int]  # object -> the predicted track that AP gives it to
    missed: list[int]


def _assign(
    predicted: list[PredictedTrack], truth: list[TrueTrack], overlaps: Overlaps
) -> Assigned:
    sides = [x.masks for x in predicted], [x.masks for x in truth]
    (areas, _), (true_areas, _), used = paired(*sides)
    both = (areas[:, None] + true_areas) * used  # [n m t]
    common = np.zeros_like(both)
    at = overlaps.predicted, overlaps.true, overlaps.t
    common[at] = np.rint(overlaps.masks * both[at] / (1 + overlaps.masks))
    union = both - common
    crowd = np.array([g.crowd for g in truth], bool)
    overlap = _ratio(common.sum(-1), union.sum(-1))
    shown = areas > 0
    # In the frames of the predicted track alone.
    there = _ratio(common.sum(-1), (union * shown[:, None]).sum(-1))
    follows = (common >= SAME * union) & (common > 0)  # [n m t]
    same = np.array(
        [[d.category_id == g.category_id for g in truth] for d in predicted], bool
    ).reshape(overlap.shape)
    kinds, targets = [""] * len(predicted), [-1] * len(predicted)
    taker: dict[int, int] = {}
    for n in sorted(range(len(predicted)), key=lambda n: -predicted[n].score):
        # As for AP: a free object, only without one a crowd.
        free = [m not in taker and not crowd[m] for m in range(len(truth))]
        fit = np.where(same[n] & np.array(free, bool), overlap[n], -1)
        if not (fit >= SAME).any():
            fit = np.where(same[n] & crowd, overlap[n], -1)
        m = int(fit.argmax()) if truth else -1
        if m >= 0 and fit[m] >= SAME:
            targets[n] = m
            if not truth[m].crowd:
                taker[m] = n
                if overlap[n, m] < EXACT:
                    lost = union[n, m] - common[n, m]
                    kinds[n] = _most_lost(lost, shown[n], follows[n], m)
        elif m >= 0:
            # An object that no track was meant for yet is the likelier target.
            spare = np.array([m not in targets for m in range(len(truth))])
            kinds[n], targets[n] = _why(
                same[n], overlap[n], there[n], follows[n], taker, spare, shown[n], shown
            )
        else:
            kinds[n] = "background"
    meant = set(targets)
    missed = [m for m, g in enumerate(truth) if m not in meant and not g.crowd]
    return Assigned(kinds, targets, overlap, taker, missed)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros(b.shape), where=b > 0)


def _most_lost(lost, shown, follows, m: int) -> str:
    """Return the kind that costs a track, which has its object, most pixels of it."""
    elsewhere = shown & ~follows[m] & follows.any(axis=0)
    kinds = {
        "loose": shown & ~elsewhere,
        "fragment": ~shown,
        "switch": elsewhere,
    }
    return max(kinds, key=lambda kind: lost[kinds[kind]].sum())


def _why(same, overlap, there, follows, taker, spare, own, shown) -> tuple[str, int]:
    """Return the kind and target of a track that has no object; own: its frames."""
    followed = np.flatnonzero(follows.any(-1))
    at = [frozenset(np.flatnonzero(follows[m]).tolist()) for m in followed]
    # Another object in frames where the first one is not followed: no mere overlap.
    if len(followed) > 1 and any(a - b and b - a for a in at for b in at):
        # One of its own class, if there is one, and the one it follows longest.
        worth = [
            (bool(spare[m]), bool(same[m]), len(a))
            for m, a in zip(followed, at, strict=True)
        ]
        best = int(followed[max(range(len(worth)), key=worth.__getitem__)])
        if overlap[best] < SAME:
            return "switch", best
    m = int(np.where(same, there, -1).argmax())
    if same[m] and there[m] >= SAME:
        if m not in taker:
            return "fragment", m
        shared = (own & shown[taker[m]]).sum()
        return ("duplicate" if 2 * shared > own.sum() else "fragment"), m
    m = int(overlap.argmax())
    if overlap[m] >= SAME:
        return "class", m
    m = int(np.where(same, overlap, -1).argmax())
    if same[m] and overlap[m] >= NEAR:
        return ("duplicate" if m in taker else "loose"), m
    return "background", -1


def _correct(kind: str, track: PredictedTrack, true: TrueTrack) -> PredictedTrack:
    if kind == "class":
        return track._replace(category_id=true.category_id)
    if kind == "switch":
        return track._replace(masks=true.masks)
    # In the frames that it shows, or in those where it is missing: the true mask.
    texts, sizes = list(track.masks.texts), track.masks.sizes.copy()
    areas = track.masks.areas.copy()
    for t in range(min(len(texts), len(true.masks.texts))):
        if (areas[t] > 0) == (kind == "loose"):
            texts[t], sizes[t] = true.masks.texts[t], true.masks.sizes[t]
            areas[t] = true.masks.areas[t]
    return track._replace(masks=Masks(texts, sizes, areas))


def text(breakdown: Breakdown, names: dict[Any, str], worst: int = 3) -> str:
    """The tables that a person reads, and the worst tracks of each kind."""
    counts = Counter(error.kind for error in breakdown.errors)
    lines = ["AP that mending every error of one kind would give back:"]
    for kind, meaning in KINDS.items():
        gain = f"{breakdown.gains[kind]:+.3f}"
        lines.append(f"{kind:>12} {gain} {counts[kind]:>6} tracks: {meaning}")
    width = max([8, *(len(str(names.get(c, c))) for c in breakdown.by_category)])
    lines += ["", f"{'category':{width}}" + "".join(f"{kind:>11}" for kind in KINDS)]
    for c, gains in sorted(breakdown.by_category.items()):
        figures = "".join(f"{gains[kind]:>+11.3f}" for kind in KINDS)
        lines.append(f"{names.get(c, c)!s:{width}}{figures}")
    lines.append("")
    for kind in KINDS:
        for error in [e for e in breakdown.errors if e.kind == kind][:worst]:
            lines.append(_line(error, names))
    return "\n".join(lines)


def _line(error: Error, names: dict[Any, str]) -> str:
    first, last = error.frames
    frames = f"frames {first}-{last}" if first >= 0 else "no frame"
    where = f"video {error.video_id}, {frames}"
    return f"{error.kind:>12} {where}: {describe(error, names)}"


def describe(error: Error, names: dict[Any, str]) -> str:
    """Return in words which track it is, and which object it was meant for."""
    name, true_name = (
        str(names.get(c, c)) for c in (error.category_id, error.true_category_id)
    )
    if error.row < 0:
        return f"{name}, annotation {error.true_id}"
    text = f"results[{error.row}], {name}, score {error.score:.2f}"
    if error.true_id is None:
        return text
    other = f" ({true_name})" if true_name != name else ""
    return f"{text}; annotation {error.true_id}{other}, overlap {error.overlap:.2f}"
