"""The rules of the official format, and of results: one list for all who read them.

Read strictly (`check`, the loader, `convert`, `merge`, `submit`) a record must keep
every rule of level "error". The evaluation reads leniently, as the official code does:
it asks for `Rule.lenient` alone. What is of level "warning" only `check` says.
"""

import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, TypeGuard

from stan_jax.errors import InputError
from stan_jax.masks import segmentations
from stan_jax.masks.codec import RLE

LISTS = "videos", "categories", "annotations"
HUGE = 2**53  # whole numbers above are rounded by readers that take them for floats
ABSENT = object()  # in the place of a list that is not there

Id = int | float | str


class Size(NamedTuple):
    """What the rules need of a video; 0 where the file does not say."""

    height: int
    width: int
    frames: int


def size(video: dict) -> Size:
    """Return the size that a record of a video gives."""
    names = video.get("file_names")
    sides = (
        side if _is_whole(side) and side > 0 else 0
        for side in (video.get("height"), video.get("width"))
    )
    return Size(*sides, len(names) if isinstance(names, list) else 0)


class Known(NamedTuple):
    """What stands elsewhere; None where nobody has read it."""

    videos: Container | None = None  # ids; a mapping to `Size` for strict readers
    categories: Container | None = None
    seen: Mapping[Any, Size] | None = None  # what records further up tell of videos

    def size(self, row: dict) -> Size | None:
        """Return what is known of the video of a record."""
        number = row.get("video_id")
        for sizes in (self.videos, self.seen):
            if isinstance(sizes, Mapping) and isinstance(number, Id):
                if number in sizes:
                    return sizes[number]
        return None


NOTHING = Known()
# What must hold and what was found; None where it holds.
Test = Callable[[Any, Known], str | None]


class Rule(NamedTuple):
    """One rule. Tests leave a record alone that breaks a rule further up."""

    record: str  # "list", "entry", "video", "annotation", "area" (of a frame), ...
    level: Literal["error", "warning"]
    test: Test
    cure: str
    lenient: Test | None = None  # what the official evaluation asks instead


class Broken(NamedTuple):
    """A rule that a record breaks, and how."""

    level: Literal["error", "warning"]
    rule: str
    cure: str


def broken(
    record: str, row: Any, known: Known = NOTHING, *, lenient: bool = False
) -> Iterator[Broken]:
    """Yield what a record breaks of the rules of its kind."""
    for rule in _OF[record, lenient]:
        if (text := rule.test(row, known)) is not None:
            yield Broken(rule.level, text, rule.cure)


def require(
    record: str,
    row: Any,
    known: Known = NOTHING,
    *,
    file: str | Path,
    where: str,
    lenient: bool = False,
) -> None:
    """Raise InputError for the first rule of level "error" that a record breaks."""
    for found in broken(record, row, known, lenient=lenient):
        if found.level == "error":
            raise InputError(file, where, found.rule, found.cure)


def require_each(
    record: str,
    entries: Iterable,
    *,
    file: str | Path,
    where: str,
    lenient: bool = False,
) -> None:
    """Raise InputError for the first entry, one a frame, that breaks a rule."""
    rules = [rule for rule in _OF[record, lenient] if rule.level == "error"]
    for t, entry in enumerate(entries):
        for rule in rules:
            if (text := rule.test(entry, NOTHING)) is not None:
                raise InputError(file, f"{where}, frame {t}", text, rule.cure)


def mask(entry: object, size: Size, *, file: str | Path, where: str) -> RLE | None:
    """Return the mask of a frame, None where there is no pixel.

    Raises: InputError where it is none, or of another size than its video.
    """
    try:
        return segmentations.compress(entry, size.height, size.width)
    except ValueError as error:
        raise InputError(file, where, f"mask: {error}", REDRAW) from None


def masks(
    entries: Sequence, size: Size, *, file: str | Path, where: str
) -> list[RLE | None]:
    """Return the masks of a track, one a frame.

    Raises: InputError as `mask`, for the first one that is none.
    """
    if found := segmentations.compress_texts(entries, size.height, size.width):
        return found[0]
    return [
        mask(entry, size, file=file, where=f"{where}, frame {t}")
        for t, entry in enumerate(entries)
    ]


REDRAW = "draw or export the mask again"


def place(key: str, i: int, row: Any) -> str:
    """Return how messages name entry i of a list: by its id, where it has one."""
    number = row.get("id") if isinstance(row, dict) else None
    if _is_whole(number):
        return f"{NAMES[key]} {number}"
    return f"entry {i} of {key}"


def twice(key: str, i: int, row: dict) -> tuple[str, str]:
    """Return rule and cure for an entry whose id another one has."""
    text = f"its id must be used only once, entry {i} of {key} has it again"
    if key == "annotations":
        text += f", of video {row.get('video_id')!r:.20}"
    return text, "give every one its own id, over the whole file"


NAMES = {"videos": "video", "categories": "category", "annotations": "annotation"}


def kind(value: object) -> str:
    """Return what a value is called in messages."""
    return "null" if value is None else type(value).__name__


# ---- tests


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: object) -> TypeGuard[int | float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)


def _found(row: dict, key: str) -> str:
    return f"is {row[key]!r:.40}" if key in row else "is absent"


def _stands(pair: tuple[str, Any], known: Known) -> str | None:
    key, value = pair
    return f"must have '{key}'" if value is ABSENT and key != "annotations" else None


def is_meta(videos: object) -> bool:
    """Return whether videos are those of a meta.json: by name, each an object."""
    return isinstance(videos, dict) and any(
        isinstance(video, dict) for video in videos.values()
    )


# What is wrong with a file that people take for the annotations, and what to do.
META = (
    "is the meta.json of YouTube-VOS, not annotations of YouTube-VIS",
    "name the instances.json",
)


def _no_meta(pair: tuple[str, Any], known: Known) -> str | None:
    return META[0] if pair[0] == "videos" and is_meta(pair[1]) else None


def _list(pair: tuple[str, Any], known: Known) -> str | None:
    key, value = pair
    # OVIS has null for the annotations of val: as if there were none.
    if value is ABSENT or isinstance(value, list):
        return None
    if key == "annotations" and value is None:
        return None
    return f"'{key}' must be a list, is a {kind(value)}"


def _lists_videos(number: int, known: Known) -> str | None:
    return None if number else "must list at least one video, lists none"


def _object(row: Any, known: Known) -> str | None:
    return None if isinstance(row, dict) else f"must be an object, is a {kind(row)}"


def _member(key: str, holds: Callable[[Any], bool], text: str) -> Test:
    def test(row: dict, known: Known) -> str | None:
        if key not in row:
            return f"must have '{key}'"
        if holds(row[key]):
            return None
        return f"'{key}' must be {text}, is {row[key]!r:.40}"

    return test


def _whole(key: str) -> Test:
    return _member(key, _is_whole, "a whole number")


def _number(key: str) -> Test:
    return _member(key, lambda value: isinstance(value, Real), "a number")


def _number_or_text(key: str) -> Test:
    return _member(key, lambda x: isinstance(x, Real | str), "a number or a text")


def _exact(key: str) -> Test:
    def test(row: dict, known: Known) -> str | None:
        value = row.get(key)
        if not _is_whole(value) or abs(value) <= HUGE:
            return None
        return f"'{key}' {value} is beyond 2^53"

    return test


def _side(key: str) -> Test:
    def test(row: dict, known: Known) -> str | None:
        if _is_whole(row.get(key)) and row[key] > 0:
            return None
        return f"{key} must be a whole number from 1 up, {_found(row, key)}"

    return test


def _file_names(row: dict, known: Known) -> str | None:
    names = row.get("file_names")
    if not isinstance(names, list):
        found = kind(names) if "file_names" in row else "absent"
        return f"file_names must be a list, is {found}"
    return None if names else "must have at least one frame, has none"


def _length(row: dict, known: Known) -> str | None:
    names, length = row.get("file_names"), row.get("length")
    if length is None or not isinstance(names, list) or length == len(names):
        return None
    return f"length must be that of file_names, {len(names)}, is {length!r:.40}"


def _file_name(name: Any, known: Known) -> str | None:
    if isinstance(name, str) and name:
        return None
    return f"file name must be a text, is {name!r:.40}"


def _inside(name: Any, known: Known) -> str | None:
    if not isinstance(name, str):
        return None
    name = posix(name)
    path = PurePosixPath(name)
    if not path.is_absolute() and ".." not in path.parts:
        return None
    return f"{name!r} must be a path inside the folder of the frames"


def _class_name(row: dict, known: Known) -> str | None:
    if isinstance(row.get("name"), str) and row["name"].strip():
        return None
    return f"name must be a text, {_found(row, 'name')}"


def _not_zero(row: dict, known: Known) -> str | None:
    if _is_whole(row.get("id")) and row["id"] == 0:
        return "id 0 reads as 'not matched' in the official evaluator"
    return None


def _listed(key: str, name: str) -> Test:
    def test(row: dict, known: Known) -> str | None:
        there, value = getattr(known, name), row.get(key)
        if there is None or not _is_whole(value) or value in there:
            return None
        return f"{key} {value} is not among the {name}"

    return test


def _crowd(row: dict, known: Known) -> str | None:
    crowd = row.get("iscrowd")
    if crowd is None or (isinstance(crowd, Real) and crowd in (0, 1)):
        return None
    return f"iscrowd must be 0 or 1, is {crowd!r:.40}"


def _crowd_is_number(row: dict, known: Known) -> str | None:
    crowd = row.get("iscrowd")
    if isinstance(crowd, Real | None):
        return None
    return f"iscrowd must be a number, is {crowd!r:.40}"


def _crowd_told(row: dict, known: Known) -> str | None:
    if row.get("iscrowd") is not None:
        return None
    return "iscrowd is absent, which the official evaluator needs"


def _of_video(row: dict, known: Known) -> str | None:
    if "video_id" in row or "image_id" not in row:
        return None
    return "is a result of COCO, of one image, not of a track"


def _masks(row: dict, known: Known) -> str | None:
    if row.get("segmentations") is None:
        return "must have 'segmentations'"
    return _is_list(row, "segmentations")


def _is_list(row: dict, key: str) -> str | None:
    if isinstance(row.get(key), list | None):
        return None
    return f"{key} must be a list, is a {kind(row[key])}"


def _some_list(key: str) -> Test:
    return lambda row, known: _is_list(row, key)


def _per_frame(key: str) -> Test:
    def test(row: dict, known: Known) -> str | None:
        given, size = row.get(key), known.size(row)
        masks = row.get("segmentations")
        frames = size.frames if size else 0
        # Where the video names no frames, the masks say how many there are.
        if not frames and isinstance(masks, list):
            frames = len(masks)
        if not isinstance(given, list) or not frames or len(given) == frames:
            return None
        return f"{key} must have {frames} entries, one a frame, has {len(given)}"

    return test


def _areas_told(row: dict, known: Known) -> str | None:
    if row.get("areas") is not None:
        return None
    return "areas are absent, which the official evaluator needs"


def _area(area: Any, known: Known) -> str | None:
    if area is None or (_is_finite(area) and area >= 0):
        return None
    return f"area must be a number from 0 up or null, is {area!r:.40}"


def _area_is_number(area: Any, known: Known) -> str | None:
    if isinstance(area, Real | None):
        return None
    return f"area must be a number or null, is {area!r:.40}"


def _box(box: Any, known: Known) -> str | None:
    if box is None or box == []:
        return None
    if isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box)):
        return None
    return f"box must be 4 finite numbers x, y, w, h, is {box!r:.40}"


def _sides(box: Any, known: Known) -> str | None:
    if _box(box, known) is not None or not box or min(box[2:]) >= 0:
        return None
    return f"box must not have a negative side, is {box!r:.60}"


def _text_mask(entry: Any, known: Known) -> str | None:
    if isinstance(entry, dict | None):
        return None
    return f"a mask must be a compressed RLE or null, is {entry!r:.40}"


def _loose_ends(entry: Any, known: Known) -> str | None:
    return segmentations.loose_ends(entry) or None


def _runs(entry: Any, known: Known) -> str | None:
    if segmentations.odd_runs(entry):
        return "a run inside the mask has length 0"
    return None


def _score(row: dict, known: Known) -> str | None:
    score = row.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float):
        return f"score must be a number, {_found(row, 'score')}"
    return None if math.isfinite(score) else f"score must be finite, is {score}"


def _video_there(row: dict, known: Known) -> str | None:
    number = row.get("video_id")
    if known.videos is None or not isinstance(number, Id) or number in known.videos:
        return None
    return f"video_id {number!r:.40} is not among the videos"


def posix(name: str) -> str:
    """Return the name of a frame with the backslashes of Windows as slashes."""
    return name.replace("\\", "/")


# ---- the list

E, W = "error", "warning"
WHOLE = "give a whole number, without quotes or a decimal point"
SHORT = "number from 1: some readers round such numbers"
NULLS = "write null where the object is out of sight"
PIXELS = "write the size of the frames in pixels"
OTHER_SET = "are these annotations those of the results?"


def _ids(record: str, key: str, lenient: Test) -> tuple[Rule, ...]:
    """Rules of a member that is an id; lenient: what the evaluation takes for one."""
    return (
        Rule(record, E, _whole(key), WHOLE, lenient),
        Rule(record, W, _exact(key), SHORT),
    )


RULES: tuple[Rule, ...] = (
    Rule("list", E, _stands, "add the list", _stands),
    Rule("list", E, _no_meta, META[1], _no_meta),
    Rule("list", E, _list, "write a list of objects", _list),
    Rule("videos", E, _lists_videos, "add the videos"),
    Rule("entry", E, _object, "remove it or write an object", _object),
    *_ids("video", "id", _number_or_text("id")),
    # The evaluation needs the size of videos that have true masks.
    Rule("size", E, _side("height"), PIXELS, _side("height")),
    Rule("size", E, _side("width"), PIXELS, _side("width")),
    Rule("video", E, _file_names, "list the frames, in order"),
    Rule("video", E, _length, "correct or remove 'length'"),
    Rule("file name", E, _file_name, "name the file of the frame"),
    Rule("file name", W, _inside, "write it relative to that folder"),
    *_ids("category", "id", _number_or_text("id")),
    Rule("category", E, _class_name, "name the class"),
    *_ids("annotation", "id", _number("id")),
    Rule("annotation", W, _not_zero, "number tracks from 1, or it can never be found"),
    # Where it belongs; the evaluation passes over one whose video is not listed.
    *_ids("belongs", "video_id", _number_or_text("video_id")),
    Rule("belongs", E, _listed("video_id", "videos"), "correct it, or add the video"),
    *_ids("belongs", "category_id", _number_or_text("category_id")),
    Rule("belongs", E, _listed("category_id", "categories"), "correct it, or add it"),
    # What it shows.
    Rule("track", W, _crowd_told, "add 'iscrowd': 0, or 1 for a group"),
    Rule("track", E, _crowd, "write 1 for a group, else 0", _crowd_is_number),
    Rule("track", E, _masks, "add one mask or null for each frame", _masks),
    Rule("track", E, _per_frame("segmentations"), NULLS),
    Rule("track", E, _some_list("bboxes"), "write one entry for each frame"),
    Rule("track", E, _per_frame("bboxes"), NULLS),
    Rule("track", W, _areas_told, "add the pixels of each mask, null for null"),
    Rule(
        "track",
        E,
        _some_list("areas"),
        "write one entry for each frame",
        _some_list("areas"),
    ),
    Rule("track", E, _per_frame("areas"), NULLS),
    Rule("area", E, _area, "write the pixels of the mask", _area_is_number),
    Rule("box", E, _box, "correct it, or write null"),
    Rule("box", E, _sides, "write x, y, width, height, not two corners"),
    Rule("mask", W, _loose_ends, "remove them: they are passed over"),
    Rule("mask", W, _runs, "encode it again: evaluators disagree on it"),
    # Results.
    Rule("result", E, _of_video, "give one result a track", _of_video),
    *_ids("result", "video_id", _number_or_text("video_id")),
    Rule("result", E, _listed("video_id", "videos"), OTHER_SET, _video_there),
    *_ids("result", "category_id", _number_or_text("category_id")),
    Rule("result", E, _listed("category_id", "categories"), OTHER_SET),
    Rule("result", E, _score, "say how sure it is", _number("score")),
    Rule("result", E, _masks, "add one mask or null for each frame", _masks),
    Rule("result", E, _per_frame("segmentations"), NULLS),
    Rule("result mask", E, _text_mask, "encode it by pycocotools.mask.encode"),
)

# By record, and whether it is read leniently.
_OF: dict[tuple[str, bool], list[Rule]] = {
    (rule.record, lenient): [] for rule in RULES for lenient in (False, True)
}
for rule in RULES:
    _OF[rule.record, False].append(rule)
    if rule.lenient is not None:
        _OF[rule.record, True].append(rule._replace(test=rule.lenient))
