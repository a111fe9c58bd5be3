"""Split an annotation file by video, every category on both sides.

    stan split instances.json folder --val=0.2
    stan split instances.json folder --folds=5
    stan split instances.json folder --videos=val.txt

Writes train.json and val.json, or train_0.json, val_0.json and so on, in the official
format. The same videos each time and on every machine, in whatever order they stand.
"""

import argparse

OPEN = 100  # files at a time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    parser.add_argument("annotations", help="json in the official format, or .json.gz")
    parser.add_argument("out", help="folder to write to")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--val",
        type=float,
        default=0.2,
        help="share of the videos (0.2); more if a class would lack a side otherwise",
    )
    kind.add_argument("--folds", type=int, help="so many pairs of files instead")
    kind.add_argument(
        "--videos",
        metavar="FILE",
        help="the videos of val: a folder or id in each line",
    )
    parser.add_argument("--seed", type=int, default=0, help="another split")


def run(args: argparse.Namespace) -> None:
    """Write the files and count them."""
    from collections import Counter
    from pathlib import Path

    from stan_jax.annotations import check, split
    from stan_jax.errors import InputError
    from stan_jax.files import require_place

    if not 0 < args.val < 1:
        raise InputError("--val", "", f"must lie between 0 and 1, is {args.val}")
    if args.folds is not None and args.folds < 2:
        raise InputError("--folds", "", f"must be at least 2, is {args.folds}")
    source = Path(args.annotations)
    check.require(source)
    categories, folds = split.categories_of(source), args.folds or 2
    if len(categories) < folds:
        rule = f"must have at least {folds} videos, has {len(categories)}"
        raise InputError(source, "", rule)
    given = split.listed(source, args.videos) if args.videos else None
    shares = [1 / folds] * folds if args.folds else [1 - args.val, args.val]
    if given is None:
        dealt = split.parts(categories, shares, args.seed)
    elif len(given) == len(categories):
        rule = f"must name some of the {len(given)} videos, names all"
        raise InputError(args.videos, "", rule)
    else:
        dealt = {video: int(video in given) for video in categories}
    Path(args.out).mkdir(parents=True, exist_ok=True)
    sides = {}
    for fold in range(folds) if args.folds else [1]:
        ending = f"_{fold}" if args.folds else ""
        for side in ("train", "val"):
            path = Path(args.out) / f"{side}{ending}.json"
            sides[path] = {
                v for v, p in dealt.items() if (p == fold) == (side == "val")
            }
    for path in sides:
        require_place(path, source)
    for start in range(0, len(sides), OPEN):
        split.write(source, dict(list(sides.items())[start : start + OPEN]))
    number = Counter(c for found in categories.values() for c in found)
    for path, chosen in sides.items():
        held = {c for v in chosen for c in categories[v]}
        share = len(chosen) / len(categories)
        print(f"{len(chosen)} videos ({share:.0%}), {len(held)} categories: {path}")
        for c in sorted(set(number) - held):
            print(f"  without category {c}, of which there are {number[c]} videos")
