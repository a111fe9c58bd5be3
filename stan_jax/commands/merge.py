"""Several annotation files become one, everything in it numbered anew.

    stan merge street.json field.json all.json --folders street/frames,field/frames

Categories are joined by name; videos and tracks are numbered from 1. One file alone is
numbered anew, such as one whose track ids start again in each video.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    parser.add_argument("files", nargs="+", help="json in the official format")
    parser.add_argument("out", help="json to write")
    parser.add_argument(
        "--folders", metavar="NAMES", help="of each file's frames, joined by commas"
    )


def run(args: argparse.Namespace) -> None:
    """Write the file and print what it holds."""
    import json

    from stan_jax.annotations import check, merge
    from stan_jax.files import replacing, require_place

    require_place(args.out, *args.files)
    folders = args.folders.split(",") if args.folders else ()
    root = merge.merge(args.files, folders)
    check.require(args.out, root)
    with replacing(args.out) as partial:
        partial.write_text(json.dumps(root))
    counts = {name: len(rows) for name, rows in root.items()}
    text = ", ".join(f"{number} {name}" for name, number in counts.items())
    print(f"{len(args.files)} files, {text}: {args.out}")
