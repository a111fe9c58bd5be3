"""Options for which objects are tracked, of several commands."""

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from stan_jax.errors import InputError

if TYPE_CHECKING:
    from stan_jax.tracking.frame_tracks import FrameTracks


def add_arguments(parser: argparse.ArgumentParser, *, score: str) -> Any:
    """Add the options to a parser; return their group.

    score: what help says of the default.
    """
    found = parser.add_argument_group("which objects")
    found.add_argument(
        "--score", type=float, metavar="X", help=f"of a detection ({score})"
    )
    found.add_argument("--classes", nargs="+", metavar="NAME", help="only these")
    found.add_argument("--max-objects", type=int, metavar="N", help="in a frame")
    found.add_argument(
        "--class-agnostic-nms",
        action="store_true",
        help="one box at a place, whatever its class",
    )
    return found


def check(args: argparse.Namespace) -> None:
    """Raise InputError for values that no model could have."""
    if args.max_objects is not None and args.max_objects < 1:
        rule = f"must be at least 1, is {args.max_objects}"
        raise InputError("--max-objects", "", rule)
    if args.score is not None and not 0 <= args.score < 1:
        raise InputError("--score", "", f"must lie in [0, 1), is {args.score}")


def changes(
    args: argparse.Namespace, settings: Any, categories: Sequence[str]
) -> dict[str, Any]:
    """Return what of a model's settings the options change, as `load` takes it."""
    found: dict[str, Any] = {}
    if args.score is not None:
        found["score_threshold"] = args.score
    if args.max_objects is not None:
        found["detections"] = args.max_objects
        found["slots"] = max(settings.slots, args.max_objects)
    if args.class_agnostic_nms:
        found["class_agnostic_nms"] = True
    if args.classes:
        found["classes"] = labels(args.classes, categories)
    return found


def shown(
    args: argparse.Namespace, categories: Sequence[str]
) -> "Callable[[FrameTracks], FrameTracks]":
    """Return what leaves of the tracks in a frame those that the options ask for.

    It is for a tracker whose settings cannot be changed: those left out have been
    tracked like the others.
    """
    import numpy as np

    wanted = labels(args.classes, categories) if args.classes else None

    def choose(tracks: "FrameTracks") -> "FrameTracks":
        tracks = tracks if args.score is None else tracks.above(args.score)
        if wanted is not None:
            rows = [n for n, x in enumerate(tracks.labels.tolist()) if x in wanted]
            tracks = tracks.rows(np.array(rows, int))
        return tracks.rows(np.arange(len(tracks.ids))[: args.max_objects])

    return choose


def labels(wanted: Sequence[str], categories: Sequence[str]) -> tuple[int, ...]:
    """Return the labels of classes by name. Raises: InputError for unknown ones."""
    if wrong := [name for name in wanted if name not in categories]:
        rule = f"the model knows no {', '.join(wrong)}, but {', '.join(categories)}"
        raise InputError("--classes", "", rule)
    return tuple(sorted(categories.index(name) for name in set(wanted)))
