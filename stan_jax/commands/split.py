"""Split an annotation file by video, every category on both sides.

    stan split instances.json folder --val=0.2
    stan split instances.json folder --folds=5

Writes train.json and val.json, or train_0.json, val_0.json and so on, in the official
format. The same videos each time and on every machine, in whatever order they stand.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing; the parser knows what this command takes."""
    parser.add_argument("annotations", help="json in the official format, or .json.gz")
    parser.add_argument("out", help="folder to write to")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--val", type=float, default=0.2, help="share of the videos")
    kind.add_argument("--folds", type=int, help="so many pairs of files instead")
    parser.add_argument("--seed", type=int, default=0, help="another split")


def run(args: argparse.Namespace) -> None:
    """Nothing; the files are written and counted."""
    import json
    from collections import Counter
    from pathlib import Path

    from stan_jax.data import split, youtube_vis
    from stan_jax.errors import InputError
    from stan_jax.files import replacing

    if not 0 < args.val < 1:
        raise InputError("--val", "", f"must lie between 0 and 1, is {args.val}")
    if args.folds is not None and args.folds < 2:
        raise InputError("--folds", "", f"must be at least 2, is {args.folds}")
    source = Path(args.annotations)
    dataset = youtube_vis.load(source, ".")  # every rule of the format holds
    folds = args.folds or 2
    if len(dataset.videos) < folds:
        rule = f"must have at least {folds} videos, has {len(dataset.videos)}"
        raise InputError(source, "", rule)
    del dataset
    root = youtube_vis.read_plain(source)
    root["annotations"] = root.get("annotations") or []
    categories = split.categories_of(root)
    shares = [1 / folds] * folds if args.folds else [1 - args.val, args.val]
    dealt = split.parts(categories, shares, args.seed)
    Path(args.out).mkdir(parents=True, exist_ok=True)
    for fold in range(folds) if args.folds else [1]:
        ending = f"_{fold}" if args.folds else ""
        sides = {}
        for side in ("train", "val"):
            chosen = {v for v, p in dealt.items() if (p == fold) == (side == "val")}
            sides[side] = {c for v in chosen for c in categories[v]}
            path = Path(args.out) / f"{side}{ending}.json"
            with replacing(path) as partial:
                partial.write_text(json.dumps(split.select(root, chosen)))
            print(f"{len(chosen)} videos, {len(sides[side])} categories: {path}")
        number = Counter(c for found in categories.values() for c in found)
        for c in sorted(sides["train"] ^ sides["val"]):
            side = "train" if c in sides["train"] else "val"
            print(f"category {c}: {number[c]} videos, only in {side}{ending}.json")
