"""The official numbers of a results file, each category, and how well tracks hold.

    stan score instances.json results.json --errors --json scores.json

Twelve numbers as the YouTube-VIS evaluator gives them, AP by category, and HOTA, MOTA
and IDF1 as TrackEval does, over all and by category, with every track in the file: a
detector's file holds many of a low score, which --min-score leaves to AP alone.
--errors tells where the AP goes; --report writes one html page, with pictures where
--frames names the folder of the frames.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    parser.add_argument("ground_truth", help="annotations in the official format")
    parser.add_argument("results", help="results in the official format")
    parser.add_argument(
        "--class-agnostic", action="store_true", help="take all categories for one"
    )
    parser.add_argument(
        "--categories", metavar="NAMES", help="of these alone, by commas"
    )
    parser.add_argument(
        "--videos", metavar="FILE", help="of these alone: a folder or id in each line"
    )
    parser.add_argument(
        "--min-score", type=float, metavar="X", help="tracks HOTA, MOTA, IDF1 look at"
    )
    parser.add_argument(
        "--areas",
        default="128,256",
        metavar="SIDES",
        help="of the squares that part small, medium and large (128,256)",
    )
    parser.add_argument(
        "--errors", action="store_true", help="what AP each kind of error costs"
    )
    parser.add_argument("--report", metavar="FILE", help="also write an html page")
    parser.add_argument(
        "--frames", metavar="FOLDER", help="for pictures of the worst tracks in it"
    )
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes to share videos"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the numbers there")


def run(args: argparse.Namespace) -> None:
    """Print the tables."""
    import json
    from pathlib import Path

    from stan_jax.annotations import split
    from stan_jax.errors import InputError
    from stan_jax.evaluation import score
    from stan_jax.files import replacing, require_place
    from stan_jax.video import report

    # What would fail in the end is told in the beginning.
    if args.frames and not args.report:
        raise InputError("--frames", "", "needs --report, the page with the pictures")
    if args.frames and not Path(args.frames).is_dir():
        raise InputError(args.frames, "", "folder of the frames must exist")
    errors = bool(args.errors or args.report)
    if errors and args.class_agnostic:
        raise InputError("--class-agnostic", "", "leaves no classes to --errors")
    if args.workers < 1:
        raise InputError("--workers", "", f"must be at least 1, is {args.workers}")
    for out in (args.report, args.json):
        require_place(out, args.ground_truth, args.results)
    files = args.ground_truth, args.results
    options = score.Options(
        class_agnostic=args.class_agnostic,
        errors=errors,
        sides=_sides(args.areas),
        min_score=args.min_score,
        categories=args.categories.split(",") if args.categories else None,
        videos=split.listed(files[0], args.videos) if args.videos else None,
    )
    scores = score.score_files(*files, args.workers, options)
    print(score.text(scores))
    if args.report:
        shown = report.pictures(scores, *files, args.frames) if args.frames else {}
        with replacing(args.report) as partial:
            names = [Path(file).name for file in reversed(files)]
            text = report.page(scores, " against ".join(names), shown)
            partial.write_text(text, encoding="utf-8")
        print(f"\npage: {args.report}")
    if args.json:
        with replacing(args.json) as partial:
            content = json.dumps(score.as_json(scores), indent=2, allow_nan=False)
            partial.write_text(content + "\n")


def _sides(text: str) -> tuple[int, int]:
    """Two sides in pixels, the first one smaller."""
    from stan_jax.errors import InputError

    parts = text.split(",")
    if len(parts) == 2 and all(part.isdecimal() for part in parts):
        small, large = map(int, parts)
        if 0 < small < large < 10**5:
            return small, large
    rule = f"must be two rising sides in pixels, such as 128,256, is {text}"
    raise InputError("--areas", "", rule)
