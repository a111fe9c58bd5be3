"""Other formats become the official json, and back.

    stan convert davis Annotations/480p instances.json
    stan convert mots instances instances.json
    stan convert cocovid cocovid.json instances.json
    stan convert coco coco.json instances.json --images=train2017 --frames=frames
    stan convert pngs instances.json folder

davis and mots read folders of per-frame id-mask PNGs, a folder a video. coco makes of
each still image a clip under a smooth path, masks moved along; its frames are written
to the folder given by --frames. pngs writes id-mask PNGs.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing; the parser knows what this command takes."""
    kinds = ["davis", "mots", "cocovid", "coco", "pngs"]
    parser.add_argument("kind", choices=kinds, help="what the source is; pngs: back")
    parser.add_argument("source", help="file or folder")
    parser.add_argument("out", help="json to write; with pngs a folder")
    text = "davis, mots: how the names of the frames end"
    parser.add_argument("--suffix", default=".jpg", help=text)
    parser.add_argument("--images", metavar="FOLDER", help="coco: the still images")
    parser.add_argument("--frames", metavar="FOLDER", help="coco: where frames go")
    parser.add_argument("--length", type=int, default=8, help="coco: frames of a clip")
    parser.add_argument("--seed", type=int, default=0, help="coco: of the paths")


def run(args: argparse.Namespace) -> None:
    """Nothing; the file is written and what it holds is printed."""
    import json
    from pathlib import Path

    from stan_jax.data import convert, youtube_vis
    from stan_jax.errors import InputError
    from stan_jax.files import replacing

    if args.kind == "pngs":
        number = convert.to_id_images(args.source, args.out)
        print(f"{number} images: {args.out}")
        return
    if args.kind in ("davis", "mots"):
        mots = args.kind == "mots"
        root = convert.from_id_images(args.source, mots=mots, suffix=args.suffix)
    else:
        content = youtube_vis.read_json(Path(args.source))
        if args.kind == "cocovid":
            root = convert.from_cocovid(content, args.source)
        else:
            if not args.images or not args.frames:
                rule = "needs --images, the still images, and --frames, where clips go"
                raise InputError("convert coco", "", rule)
            if args.length < 1:
                raise InputError(
                    "--length", "", f"must be at least 1, is {args.length}"
                )
            root = convert.from_images(
                content,
                args.images,
                args.frames,
                length=args.length,
                seed=args.seed,
                file=args.source,
            )
    with replacing(args.out) as partial:
        partial.write_text(json.dumps(root))
    print(
        f"{len(root['videos'])} videos, {len(root['annotations'])} tracks: {args.out}"
    )
