"""The official numbers of a results file, each category, and how well tracks hold.

    stan score instances.json results.json --json scores.json

Twelve numbers as the YouTube-VIS evaluator gives them, AP by category, and HOTA, MOTA
and IDF1 as TrackEval does, with every track in the file, whatever its score.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing; the parser knows what this command takes."""
    parser.add_argument("ground_truth", help="annotations in the official format")
    parser.add_argument("results", help="results in the official format")
    parser.add_argument(
        "--class-agnostic", action="store_true", help="take all categories for one"
    )
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes to share videos"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the numbers there")


def run(args: argparse.Namespace) -> None:
    """Nothing; the tables are printed."""
    import json

    from stan_jax.evaluation import score
    from stan_jax.files import replacing

    scores = score.score_files(
        args.ground_truth, args.results, args.class_agnostic, args.workers
    )
    print(score.text(scores))
    if args.json:
        with replacing(args.json) as partial:
            partial.write_text(json.dumps(score.as_json(scores), indent=2) + "\n")
