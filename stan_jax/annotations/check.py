"""All that is wrong with an annotation file, in one pass, and what the set holds.

`youtube_vis.load` stops at the first broken rule; this goes on, and also warns of what
training survives but an evaluator, or a reader, stumbles over.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from stan_jax import json_stream
from stan_jax.annotations import rules, youtube_vis
from stan_jax.annotations.formats import coco
from stan_jax.annotations.rules import LISTS
from stan_jax.errors import InputError, grouped, kind_of
from stan_jax.masks import codec, segmentations
from stan_jax.media.pictures import natural

SHOWN = 3  # findings of one text that are printed; the json has all


class Finding(NamedTuple):
    """One problem; `error`: loading or scoring fails, or works with wrong data."""

    level: str  # "error" or "warning"
    file: str
    record: str  # e.g. "annotation 17, frame 3"
    rule: str  # what must hold and what was found
    advice: str  # what to do

    def __str__(self) -> str:
        where = ": ".join(x for x in (self.file, self.record) if x)
        return f"{self.level}: {where}: {self.rule}; {self.advice}"


class Report(NamedTuple):
    """Everything found, and a count of what the set holds."""

    findings: list[Finding]
    summary: dict[str, Any]

    @property
    def errors(self) -> int:
        """Number of findings that are errors."""
        return sum(finding.level == "error" for finding in self.findings)


def check(
    annotations: str | Path,
    frames: str | Path | None = None,
    *,
    open_images: bool = False,
    upright: bool = True,
) -> Report:
    """Look at every record of a json (or .json.gz).

    frames: folder in which every frame must be; with `open_images` each is decoded too,
    `upright` or as stored.
    Memory holds the videos and what was found, not the masks.
    """
    checker = _Checker(Path(annotations))
    try:
        checker.read()
    except InputError as error:  # the json itself: nothing behind it can be read
        found = checker.findings
        cure = error.cure or WHOLE
        found.append(Finding("error", error.file, error.record, error.rule, cure))
        return Report(found, checker.summary())
    if checker.by_image == {"video"} or (
        checker.by_image == {"still"} and "videos" not in checker.lists
    ):
        root = youtube_vis.read_json(Path(annotations))
        stills = checker.by_image == {"still"} and not coco.has_tracks(root)
        read = coco.read_stills if stills else coco.read_tracks
        faults: list[InputError] = []
        try:
            found = read(root, annotations, faults)
            if not faults:
                checker = _Checker(Path(annotations), found.official())
                checker.format = "COCO" if stills else "CocoVID"
                checker.read()
        except InputError as error:  # of a list, not of a record
            faults.append(error)
        if faults:
            checker.findings = [
                Finding("error", str(annotations), e.record, e.rule, e.cure or WHOLE)
                for e in faults
            ]
            return Report(checker.findings, checker.summary())
        for (unit, reason), (number, example) in found.balance.left.items():
            rule = f"{number:,} {unit} {reason}, e.g. {example}"
            checker.warn("annotations", rule, "draw masks: without they are left out")
        kind = "coco" if stills else "cocovid"
        rule = f"has annotations by image, as {checker.format} has"
        checker.warn("", rule, f"`stan convert {kind}` writes the official format")
    checker.finish()
    if frames is not None:
        checker.look_at(Path(frames), open_images, upright)
    return Report(checker.findings, checker.summary())


def require(annotations: str | Path, content: dict | None = None) -> None:
    """Raise InputError unless a file is in the official format without an error.

    content: of the file, where it is still to be written.
    Raises: InputError that names the first error.
    """
    if content is None:
        report = check(annotations)
    else:
        checker = _Checker(Path(annotations), content)
        checker.read()
        checker.finish()
        report = Report(checker.findings, checker.summary())
    first = next((f for f in report.findings if f.level == "error"), None)
    if first is not None:
        rule = f"{first.rule}; {first.advice} (`stan check` lists all {report.errors})"
        raise InputError(first.file, first.record, rule)
    if report.summary["format"] != "official":
        rule = f"is {report.summary['format']}: `stan convert` it first"
        raise InputError(annotations, "", rule)


WHOLE = "is it the right file, and whole?"


class _Checker:
    """Findings, gathered record by record; one method for each kind of record."""

    def __init__(self, path: Path, content: dict | None = None):
        self.path, self._content = path, content
        self.format = "official"
        self.by_image: set[str] = set()  # "video" or "still": formats by image
        self.broken: set[str] = set()  # lists that are none
        self.findings: list[Finding] = []
        self.lists: set[str] = set()
        self.names: dict[Any, list[str]] = {}  # of the frames of each video
        self.sizes: dict[Any, rules.Size] = {}
        self.categories: dict[Any, str] = {}
        self.seen: dict[str, set] = {name: set() for name in LISTS}
        self.counts: Counter = Counter()
        self.tracks_of: Counter = Counter()  # by category
        self.masks_of: Counter = Counter()
        self.lengths: list[int] = []  # masks of each track
        self.masks_at: dict[Any, set] = defaultdict(set)  # of each video
        self.backslashes: list[str] = []
        self.boxes_told: Counter = Counter()  # boxes beside a mask, and what they are
        self._masks: list = []

    def say(self, level: str, record: str, rule: str, advice: str) -> None:
        self.findings.append(Finding(level, str(self.path), record, rule, advice))

    def error(self, record: str, rule: str, advice: str) -> None:
        self.say("error", record, rule, advice)

    def ask(
        self, record: str, row: Any, where: str, known: rules.Known = rules.NOTHING
    ) -> bool:
        """Say what a record breaks of its rules; return whether it is without error."""
        found = [*rules.broken(record, row, known)]
        for level, rule, cure in found:
            self.say(level, where, rule, cure)
        return all(level != "error" for level, _, _ in found)

    def warn(self, record: str, rule: str, advice: str) -> None:
        self.say("warning", record, rule, advice)

    def read(self) -> None:
        """The lists in the order that checking needs, whatever that of the file is."""
        late = False
        for key, i, value in self._members():
            if i is None and key == "videos" and rules.is_meta(value):
                raise InputError(self.path, "", *rules.META)
            if i is None and key in LISTS:
                if not self.ask("list", (key, value), ""):
                    self.lists.add(key)
                    self.broken.add(key)
            elif i == json_stream.START and key in LISTS:
                if key in self.lists:
                    rule = f"'{key}' must stand once"
                    self.error("", rule, "join the two lists")
                self.lists.add(key)
                late |= key == "annotations" and not self.lists >= {
                    "videos",
                    "categories",
                }
            elif key == "images" and isinstance(value, dict):
                self.by_image.add("video" if "video_id" in value else "still")
            elif key in LISTS and not (late and key == "annotations"):
                self._record(key, i, value)
        for key in LISTS:
            if key not in self.lists:
                self.ask("list", (key, rules.ABSENT), "")
        if late:
            for key, i, value in self._members():
                if key == "annotations" and i not in (None, json_stream.START):
                    self._record(key, i, value)

    def _members(self) -> Iterator[tuple[str, int | None, Any]]:
        if self._content is None:
            yield from json_stream.members(self.path)
            return
        for key, value in self._content.items():
            if not isinstance(value, list):
                yield key, None, value
                continue
            yield key, json_stream.START, None
            yield from ((key, i, row) for i, row in enumerate(value))

    def _record(self, key: str, i: int | None, row: Any) -> None:
        where = rules.place(key, i or 0, row)
        if not self.ask("entry", row, where):
            return
        name, number = rules.NAMES[key], row.get("id")
        self.ask(name, row, where)
        if isinstance(number, bool) or not isinstance(number, int):
            number = None
        elif number in self.seen[key]:
            self.error(where, *rules.twice(key, i or 0, row))
        self.seen[key].add(number)
        getattr(self, f"_{name}")(where, number, row)

    # ---- videos

    def _video(self, where: str, number: int | None, row: dict) -> None:
        self.counts["videos"] += 1
        self.ask("size", row, where)
        names = row.get("file_names")
        names = self._file_names(where, names if isinstance(names, list) else [])
        if number is not None and number not in self.sizes:
            self.names[number] = names
            self.sizes[number] = rules.size(row)

    def _file_names(self, where: str, names: list) -> list[str]:
        seen: set[str] = set()
        for t, name in enumerate(names):
            record = f"{where}, frame {t}"
            if not self.ask("file name", name, record):
                continue
            if name in seen:
                rule = f"{name} stands twice in the video"
                self.warn(record, rule, "is a frame repeated on purpose?")
            seen.add(name)
            if "\\" in name:
                self.backslashes.append(name)
        self.counts["frames"] += len(names)
        names = [rules.posix(name) if isinstance(name, str) else "" for name in names]
        if (falls := _falls(names)) is not None:
            rule = f"numbers of the frames fall from {falls[0]} to {falls[1]}"
            self.warn(where, rule, "list the frames in the order they were taken")
        return names

    # ---- categories

    def _category(self, where: str, number: int | None, row: dict) -> None:
        name = row.get("name")
        if not isinstance(name, str) or not name.strip():
            name = str(number)
        elif name in self.categories.values():
            rule = f"the name {name!r} is used twice"
            self.warn(where, rule, "join the two categories or rename one")
        if number is not None:
            self.categories.setdefault(number, name)

    # ---- annotations

    def _annotation(self, where: str, number: int | None, row: dict) -> None:
        self.counts["tracks"] += 1
        known = rules.Known(self.sizes, self.categories)
        for record in ("belongs", "track"):
            self.ask(record, row, where, known)
        self.counts["crowds"] += row.get("iscrowd") in (1, True)
        category, size = row.get("category_id"), known.size(row)
        if not isinstance(category, int) or category not in self.categories:
            category = None
        if category is not None:
            self.tracks_of[category] += 1
        masks = self._segmentations(where, row, size)
        self._boxes(where, row, size, masks)
        self._areas(where, row, masks)
        if masks is None:
            return
        shown = [t for t, mask in enumerate(masks) if mask is not None]
        self.counts["masks"] += len(shown)
        self.lengths.append(len(shown))
        if category is not None:
            self.masks_of[category] += len(shown)
        if shown:
            video = row["video_id"]
            self.counts["tracks with gaps"] += shown[-1] - shown[0] >= len(shown)
            key = hash(tuple((t, masks[t]["counts"]) for t in shown))
            if key in self.masks_at[video]:
                rule = "has the masks of another track of its video, in every frame"
                self.warn(where, rule, "remove one of the two")
            self.masks_at[video].add(key)
        else:
            rule = "shows nothing: every mask is null or empty"
            self.warn(where, rule, "remove the track, or add its masks")

    def _segmentations(
        self, where: str, row: dict, size: rules.Size | None
    ) -> list | None:
        """The masks; None where they are not sound, or the video is not."""
        given = _per_frame(row, "segmentations", size)
        if given is None or size is None or not all(size[:2]):
            return None  # the reason was said where it stands
        # At once, and one by one only if something is odd about one.
        quick = segmentations.compress_texts(given, *size[:2])
        if quick is not None and not quick[1].any():
            found = quick[0]
        elif (found := self._one_by_one(where, given, size)) is None:
            return None
        for t, entry in enumerate(given):
            if entry and found[t] is None:
                rule, advice = (
                    "the mask has no pixel",
                    "write null where nothing is seen",
                )
                self.warn(f"{where}, frame {t}", rule, advice)
        return found

    def _one_by_one(self, where: str, given: list, size: rules.Size) -> list | None:
        found = []
        for t, entry in enumerate(given):
            record = f"{where}, frame {t}"
            try:
                found.append(rules.mask(entry, size, file=self.path, where=record))
            except InputError as error:
                self.error(record, error.rule, error.cure)
                return None
            if entry:
                self.ask("mask", entry, record)
        return found

    def _boxes(
        self, where: str, row: dict, size: rules.Size | None, masks: list | None
    ) -> None:
        given = _per_frame(row, "bboxes", size, masks)
        tight = None if masks is None else codec.tight_boxes(masks)
        for t, box in enumerate(given or ()):
            record = f"{where}, frame {t}"
            shown = masks is not None and masks[t] is not None
            if box is None or box == []:
                if shown:
                    rule = "has a mask and no box"
                    self.warn(record, rule, "boxes are made from masks: remove bboxes")
                continue
            if not self.ask("box", box, record):
                continue
            x, y, w, h = box
            if tight is not None and shown:
                self.boxes_told["all"] += 1
                ours = tight[t].tolist()
                if _near(ours, box) and not _near(ours, [x, y, x + w, y + h]):
                    self.boxes_told["corners"] += 1
                    continue  # said once, of all of them
            if masks is not None and not shown and any(box):
                rule = "has a box and no mask"
                self.warn(record, rule, "the mask alone says where an object is")
            elif size is not None and all(size[:2]):
                if (
                    x < -1
                    or y < -1
                    or x + w > size.width + 1
                    or y + h > size.height + 1
                ):
                    rule = (
                        f"box {box!r:.60} leaves its {size.height} x {size.width} frame"
                    )
                    self.warn(record, rule, "clip it")
                elif shown and tight is not None:
                    ours, theirs = tight[t], np.array([x, y, x + w, y + h])
                    if np.abs(ours - theirs).max() > 2 + 0.1 * max(w, h):
                        rule = f"box {box!r:.60} is not that of the mask"
                        self.warn(record, rule, "is x, y, width, height meant?")

    def _areas(self, where: str, row: dict, masks: list | None) -> None:
        given = _per_frame(row, "areas", None, masks)
        for t, area in enumerate(given or ()):
            record = f"{where}, frame {t}"
            shown = masks is not None and masks[t] is not None
            if not self.ask("area", area, record):
                continue
            if shown:
                pixels = codec.area(masks[t])
                if area is None or abs(area - pixels) > 1 + 0.1 * pixels:
                    rule = f"area is {area}, the mask has {pixels} pixels"
                    advice = "correct it: evaluators sort by it into small and large"
                    self.warn(record, rule, advice)
            elif masks is not None and area:
                rule = f"area is {area}, and there is no mask"
                self.warn(record, rule, "write null, or add the mask")

    # ---- the whole

    def finish(self) -> None:
        if "videos" in self.lists - self.broken:
            self.ask("videos", self.counts["videos"], "videos")
        if self.backslashes:
            number, frames = len(self.backslashes), self.counts["frames"]
            rule = f"{number:,} of {frames:,} have backslashes, e.g."
            rule += f" {self.backslashes[0]}: they are read as slashes"
            self.warn("file_names", rule, "write forward slashes: other readers do not")
        if number := self.boxes_told["corners"]:
            rule = (
                f"{number:,} of {self.boxes_told['all']:,} are corners x1, y1, x2, y2"
            )
            self.warn("bboxes", rule, "write x, y, width, height, or remove bboxes")
        owner: dict[str, Any] = {}
        for number, names in self.names.items():
            for t, name in enumerate(names):
                if name and owner.setdefault(name, number) != number:
                    rule = f"{name} is also a frame of video {owner[name]}"
                    advice = "give each video its own folder"
                    self.warn(f"video {number}, frame {t}", rule, advice)
                    break

    def look_at(self, frames: Path, open_images: bool, upright: bool) -> None:
        if not frames.is_dir():
            finding = "error", str(frames), "", "folder of the frames must exist"
            self.findings.append(Finding(*finding, "name the folder that holds them"))
            return
        turned, ids = defaultdict(list), []
        for number, names in self.names.items():
            size = self.sizes[number][:2]
            video = youtube_vis.Video(number, tuple(names), *size, ())
            dataset = youtube_vis.Dataset(
                self.path, frames, (), (video,), False, upright=upright
            )
            for t, name in enumerate(names):
                if not name:
                    continue
                path, record = frames / name, f"video {number}, frame {t}"
                try:
                    if not open_images or not all(size):
                        youtube_vis.check_file(path, record)
                    else:
                        youtube_vis.read_frame(dataset, video, t)
                        tag = youtube_vis.orientation(dataset, video, t)
                        if tag > 1 and upright:
                            turned[tag].append(name)
                        if youtube_vis.holds_ids(dataset, video, t):
                            ids.append(name)
                except InputError as e:
                    advice = e.cure or "copy the frame again, or correct the file"
                    self.findings.append(
                        Finding("error", e.file, e.record, e.rule, advice)
                    )
        for tag, names in turned.items():
            rule = f"EXIF orientation {tag} turns {len(names)} of them, e.g. {names[0]}"
            self.warn(str(frames), rule, "say --as-stored if the masks lie beside")
        if ids:
            rule = f"{len(ids):,} frames are id masks, no pictures, e.g. {ids[0]}"
            self.error(str(frames), rule, "name the folder of the pictures")

    def summary(self) -> dict[str, Any]:
        frames = sorted(map(len, self.names.values()))
        masks = sorted(self.lengths)
        sizes = Counter("x".join(map(str, size[:2])) for size in self.sizes.values())
        names = "videos frames tracks masks crowds".split()
        return {
            "format": self.format,
            **{name: self.counts[name] for name in [*names, "tracks with gaps"]},
            "annotated": "annotations" in self.lists,
            "frames of a video": _spread(frames),
            "masks of a track": _spread(masks),
            "sizes": dict(sizes.most_common()),
            "categories": {
                name: {"tracks": self.tracks_of[i], "masks": self.masks_of[i]}
                for i, name in sorted(self.categories.items())
            },
        }


def _near(a: list, b: list) -> bool:
    """Return whether two boxes differ by 2 pixels at most."""
    return all(abs(x - y) <= 2 for x, y in zip(a, b, strict=True))


def _falls(names: list[str]) -> tuple[int, int] | None:
    """The numbers by which a frame comes after one that people count before it."""
    keys = [natural(PurePosixPath(name))[0] for name in names]
    for before, after in itertools.pairwise(keys):
        differ = next(
            ((a, b) for a, b in zip(before, after, strict=False) if a != b), None
        )
        if differ and isinstance(differ[0], int) and differ[1] < differ[0]:
            return differ
    return None


def _spread(values: list[int]) -> dict[str, float]:
    if not values:
        return {}
    median = float(np.median(values))
    return {"least": float(values[0]), "median": median, "most": float(values[-1])}


def _per_frame(
    row: dict, key: str, size: rules.Size | None, masks: list | None = None
) -> list | None:
    """A list of one entry a frame; None where it is none, which the rules say."""
    frames = size.frames if size else 0
    if not frames and masks is not None:
        frames = len(masks)
    given = row.get(key)
    if not isinstance(given, list) or (frames and len(given) != frames):
        return None
    return given


def text(report: Report, *, everything: bool = False) -> str:
    """Return what a person reads: findings, then the contents of the set.

    Of one kind of fault SHOWN stand there and the number of the others, or everything.
    """
    kinds = [(f.level, kind_of(f.rule), f.advice) for f in report.findings]
    texts = map(str, report.findings)
    lines = []
    for some, left in grouped(
        list(zip(kinds, texts, strict=True)), None if everything else SHOWN
    ):
        lines += some
        if left:
            level, _, rest = some[0].partition(": ")
            lines.append(f"{level}: {left:,} more of this kind (--all), as {rest}")
    summary = dict(report.summary)
    sizes, categories = summary.pop("sizes"), summary.pop("categories")
    for name, value in summary.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v:g}" for k, v in value.items()) or "-"
        lines.append(f"{name:>18}: {value}")
    lines.append(f"{'sizes (h x w)':>18}: " + ", ".join(map(_times, sizes.items())))
    width = max([8, *map(len, categories)])
    lines.append(f"{'category':{width}} {'tracks':>8} {'masks':>8}")
    for name, row in categories.items():
        lines.append(f"{name:{width}} {row['tracks']:>8} {row['masks']:>8}")
    warnings = len(report.findings) - report.errors
    lines.append(f"{report.errors} errors, {warnings} warnings")
    return "\n".join(lines)


def _times(pair: tuple[str, int]) -> str:
    return f"{pair[1]} of {pair[0]}"
