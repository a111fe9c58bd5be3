"""The official numbers of a results file, each category, and how well tracks hold.

    stan score instances.json results.json --errors --json scores.json

Twelve numbers as the YouTube-VIS evaluator gives them, AP by category, and HOTA, MOTA
and IDF1 as TrackEval does, with every track in the file, whatever its score. --errors
tells where the AP goes; --report writes one html page, with pictures where --frames
names the folder of the frames.
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
    scores = score.score_files(*files, args.class_agnostic, args.workers, errors=errors)
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
