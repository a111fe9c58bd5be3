"""Other formats become the official json, and back.

    stan convert davis Annotations/480p instances.json
    stan convert mots instances instances.json
    stan convert mots-txt instances_txt instances.json
    stan convert cocovid cocovid.json instances.json
    stan convert coco coco.json instances.json --images=train2017 --frames=frames
    stan convert pngs instances.json folder

davis and mots read folders of per-frame id-mask PNGs, a folder a video; classes of
davis are those of a meta.json (YouTube-VOS), if there is one. mots-txt reads the same
as text. coco makes of each still image a clip under a smooth path, masks moved along;
its frames are written to the folder given by --frames. pngs writes id-mask PNGs, a
folder a video; classes and crowds are lost in them.
"""

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    kinds = ["davis", "mots", "mots-txt", "cocovid", "coco", "pngs"]
    parser.add_argument("kind", choices=kinds, help="what the source is; pngs: back")
    parser.add_argument("source", help="file or folder")
    parser.add_argument("out", help="json to write; with pngs a folder")
    text = "davis, mots: how the names of the frames end"
    parser.add_argument("--suffix", help=f"{text} (.jpg)")
    parser.add_argument(
        "--classes", metavar="NAMES", help="davis, mots: of class 1, 2, ..., by commas"
    )
    parser.add_argument("--images", metavar="FOLDER", help="coco: the still images")
    parser.add_argument("--frames", metavar="FOLDER", help="coco: where frames go")
    parser.add_argument("--length", type=int, help="coco: frames of a clip (8)")
    parser.add_argument("--seed", type=int, help="coco: of the paths (0)")


OPTIONS = {
    "davis": {"suffix", "classes"},
    "mots": {"suffix", "classes"},
    "mots-txt": {"suffix", "classes"},
    "coco": {"images", "frames", "length", "seed"},
}


def run(args: argparse.Namespace) -> None:
    """Write the file and print what it holds."""
    import json
    from pathlib import Path

    from stan_jax.annotations import check, convert, youtube_vis
    from stan_jax.errors import InputError
    from stan_jax.files import replacing, require_place
    from stan_jax.video import progress

    for name in ("suffix", "classes", "images", "frames", "length", "seed"):
        if getattr(args, name) is not None and name not in OPTIONS.get(args.kind, ()):
            raise InputError(f"--{name}", "", f"means nothing to convert {args.kind}")
    if args.kind == "pngs":
        number, hidden = convert.to_id_images(args.source, args.out)
        print(f"{number} images: {args.out}")
        if hidden:
            print(f"{hidden} tracks are behind others in every frame: not in them")
        return
    require_place(args.out, args.source)
    balance = convert.Balance()
    if args.kind in ("davis", "mots", "mots-txt"):
        suffix = args.suffix or ".jpg"
        if not suffix.startswith("."):
            raise InputError("--suffix", "", f"must begin with a dot, is {suffix}")
        how: dict[str, Any] = dict(
            suffix=suffix,
            classes=args.classes.split(",") if args.classes else (),
            balance=balance,
        )
        if args.kind == "mots-txt":
            root = convert.from_mots_txt(args.source, **how)
        else:
            mots = args.kind == "mots"
            root = convert.from_id_images(args.source, mots=mots, **how)
    elif args.kind == "cocovid":
        content = youtube_vis.read_json(Path(args.source))
        root = convert.from_cocovid(content, args.source, balance)
    else:
        length = 8 if args.length is None else args.length
        if not args.images or not args.frames:
            rule = "needs --images, the still images, and --frames, where clips go"
            raise InputError("convert coco", "", rule)
        for name, value, minimum in (
            ("length", length, 1),
            ("seed", args.seed or 0, 0),
        ):
            if value < minimum:
                rule = f"must be at least {minimum}, is {value}"
                raise InputError(f"--{name}", "", rule)
        content = youtube_vis.read_json(Path(args.source))
        # Everything that can be wrong with the json comes before the first clip.
        stills = convert.from_stills(content, args.source)
        check.require(args.source, stills)
        images = content.get("images")
        total = len(images) if isinstance(images, list) else 0
        with progress.Bar("images", total) as bar:
            root = convert.from_images(
                content,
                args.images,
                args.frames,
                length=length,
                seed=args.seed or 0,
                file=args.source,
                balance=balance,
                watch=lambda number: bar.advance(),
            )
    check.require(args.source, root)
    with replacing(args.out) as partial:
        partial.write_text(json.dumps(root))
    for line in balance.lines():
        print(line)
    masks = sum(sum(map(bool, row["segmentations"])) for row in root["annotations"])
    frames = sum(video["length"] for video in root["videos"])
    counts = f"{len(root['videos'])} videos, {frames} frames"
    print(f"{counts}, {len(root['annotations'])} tracks, {masks} masks: {args.out}")
