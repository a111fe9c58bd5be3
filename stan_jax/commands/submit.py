"""Check a results file against the rules of the challenge server, and zip it.

    stan submit results.json --annotations valid.json

Every broken rule is printed with its row; without any, submission.zip is written. Give
the json of the challenge's videos: ids, lengths and sizes are compared with it.
"""

import argparse
import sys

SHOWN = 3  # lines of a kind


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    parser.add_argument("results", help="results in the official format")
    parser.add_argument(
        "--annotations", metavar="FILE", help="videos and categories of the challenge"
    )
    parser.add_argument(
        "--all", action="store_true", help="list every line, not a few of each kind"
    )
    parser.add_argument("--out", default="submission.zip", help="the zip to write")


def run(args: argparse.Namespace) -> None:
    """Print the verdict and write the zip."""
    from stan_jax import errors
    from stan_jax.results import submission

    verdict = submission.check(args.results, args.annotations)
    for kind in ("errors", "warnings"):
        lines = [(errors.kind_of(line), line) for line in getattr(verdict, kind)]
        for some, left in errors.grouped(lines, None if args.all else SHOWN):
            for line in some:
                print(f"{kind[:-1]}: {line}")
            if left:
                print(f"{kind[:-1]}: {left:,} more of this kind (--all)")
    if args.annotations is None:
        print("ids, lengths and sizes were not compared: give --annotations")
    if verdict.errors:
        print(f"{len(verdict.errors)} errors, no zip was written")
        sys.exit(1)
    submission.write(args.results, args.out)
    print(f"{verdict.rows} results: {args.out}")
