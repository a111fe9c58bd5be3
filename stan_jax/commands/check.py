"""Every problem of an annotation file at once, and what the set holds.

    stan check instances.json frames --frames

Each line names level, file, record, rule and what to do. The exit status is 1 if there
is an error, 0 with warnings alone. With a folder every frame must be in it; with
--frames each is opened and its size compared.
"""

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    parser.add_argument("annotations", help="json in the official format, or .json.gz")
    parser.add_argument("folder", nargs="?", help="what file_names are relative to")
    parser.add_argument("--frames", action="store_true", help="open every image too")
    parser.add_argument(
        "--as-stored", action="store_true", help="frames are not turned as EXIF says"
    )
    parser.add_argument(
        "--all", action="store_true", help="list every finding, not a few of each kind"
    )
    parser.add_argument("--json", metavar="FILE", help="also write everything there")


def run(args: argparse.Namespace) -> None:
    """Print findings and a summary."""
    import json

    from stan_jax.annotations import check
    from stan_jax.errors import InputError
    from stan_jax.files import replacing

    if args.frames and args.folder is None:
        raise InputError("--frames", "", "needs the folder of the frames")
    how = dict(open_images=args.frames, upright=not args.as_stored)
    report = check.check(args.annotations, args.folder, **how)
    print(check.text(report, everything=args.all))
    if args.json:
        rows = [finding._asdict() for finding in report.findings]
        content = {"findings": rows, "summary": report.summary}
        with replacing(args.json) as partial:
            partial.write_text(json.dumps(content, indent=2) + "\n")
    sys.exit(min(report.errors, 1))
