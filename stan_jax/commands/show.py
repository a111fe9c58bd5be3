"""Pictures of annotations, of results, or of both side by side.

    stan show instances.json frames pictures
    stan show instances.json frames pictures --results results.json --score 0.5

Leaves contact_sheet.png, and for each video a folder with overlay.mp4, tracks.jsonl
and the page index.html. Annotations
are drawn where the file has some, results where they are given; an object and the track
that found it wear one colour.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    parser.add_argument("annotations", help="json in the official format, or .json.gz")
    parser.add_argument("frames", help="folder that file_names are relative to")
    parser.add_argument("out", help="folder for the pictures")
    parser.add_argument("--results", metavar="FILE", help="results of these videos")
    parser.add_argument(
        "--score", type=float, default=0.3, help="hide results below it (0.3)"
    )
    parser.add_argument(
        "--videos", type=int, nargs="+", metavar="ID", help="only these videos"
    )
    parser.add_argument(
        "--max-videos", type=int, default=12, help="at most so many videos (12)"
    )
    parser.add_argument(
        "--as-stored", action="store_true", help="frames are not turned as EXIF says"
    )
    parser.add_argument("--fps", type=int, default=6, help="of the mp4 (6)")


def run(args: argparse.Namespace) -> None:
    """Draw the pictures and count them."""
    import math

    from stan_jax.annotations import youtube_vis
    from stan_jax.errors import InputError
    from stan_jax.video import progress, show

    for name, value in (("--max-videos", args.max_videos), ("--fps", args.fps)):
        if value < 1:
            raise InputError(name, "", f"must be at least 1, is {value}")
    if not math.isfinite(args.score):
        raise InputError("--score", "", f"must be a finite number, is {args.score}")
    upright = not args.as_stored
    dataset = youtube_vis.load(args.annotations, args.frames, upright=upright)
    if not dataset.annotated and args.results is None:
        rule = "has no annotations to draw: give --results"
        raise InputError(args.annotations, "", rule)
    by_id = {video.id: video for video in dataset.videos}
    for number in args.videos or ():
        if number not in by_id:
            rule = f"has no video {number}; the first is {next(iter(by_id))}"
            raise InputError(args.annotations, "videos", rule)
    chosen = [by_id[number] for number in dict.fromkeys(args.videos or by_id)]
    shown = chosen[: args.max_videos]
    total = sum(len(video.file_names) for video in shown)
    with progress.Bar("draw", total) as bar:
        drawn = show.show(
            dataset,
            shown,
            args.results,
            args.out,
            minimum=args.score,
            frames_per_s=args.fps,
            watch=lambda video, t: bar.advance({"video": video.name}),
        )
    sides = ", ".join(
        f"{number} tracks {side}" for side, number in drawn.tracks.items()
    )
    print(f"{drawn.videos} of {len(chosen)} videos, {sides}: {args.out}")
    if len(shown) < len(chosen):
        print(f"--max-videos {len(chosen)} draws all of them")
    if drawn.hidden:
        print(f"{drawn.hidden} results are below a score of {args.score}: --score")
    for name in drawn.unwritten:
        print(f"no font here has the letters of {name}: its number is drawn")
