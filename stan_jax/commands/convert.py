"""Other formats become the official json, and back.

    stan convert auto SOURCE instances.json                      # says what it is
    stan convert davis Annotations/480p instances.json           # also YouTube-VOS
    stan convert mots instances instances.json                   # PNGs, also of CVAT
    stan convert mots-txt instances_txt instances.json
    stan convert objects masks instances.json                    # SAM 2, one by one
    stan convert colours masks instances.json --palette=colours.txt
    stan convert bdd100k bitmasks/train instances.json
    stan convert cocovid cocovid.json instances.json             # also CVAT's COCO
    stan convert cvat annotations.xml instances.json             # CVAT for video 1.1
    stan convert labelme folder instances.json
    stan convert label-studio export.json instances.json
    stan convert coco coco.json instances.json --images=train2017 --frames=frames

    stan convert to-cocovid instances.json cocovid.json          # and back
    stan convert to-coco instances.json coco.json                # with track_id
    stan convert to-mots-txt instances.json folder
    stan convert to-pngs instances.json folder
    stan convert to-cvat instances.json folder

coco makes of each still image a clip under a smooth path, masks moved along; its frames
are written to the folder given by --frames. With --results=FILE the way back takes a
results file, and of instances.json the videos. Every conversion ends with a balance:
read = written + left out, with each reason and an example.
"""

import argparse

TARGETS = ["to-cocovid", "to-coco", "to-mots-txt", "to-pngs", "to-cvat"]
SOURCES = ["davis", "mots", "mots-txt", "objects", "colours", "bdd100k", "cocovid"]
SOURCES += ["cvat", "labelme", "label-studio"]
KINDS = ["auto", *SOURCES, "coco", *TARGETS, "pngs"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    parser.add_argument(
        "kind", choices=KINDS, metavar="KIND", help=f"one of {', '.join(KINDS[:-1])}"
    )
    parser.add_argument("source", help="file or folder")
    parser.add_argument("out", help="json to write; for some of the way back a folder")
    parser.add_argument(
        "--suffix", help="masks, cvat: how the names of the frames end (.jpg, .PNG)"
    )
    parser.add_argument(
        "--classes", metavar="NAMES", help="of class 1, 2, ..., by commas"
    )
    parser.add_argument(
        "--palette", metavar="FILE", help="colours: a colour and its class a line"
    )
    parser.add_argument("--images", metavar="FOLDER", help="coco: the still images")
    parser.add_argument("--frames", metavar="FOLDER", help="coco: where frames go")
    parser.add_argument("--length", type=int, help="coco: frames of a clip (8)")
    parser.add_argument("--seed", type=int, help="coco: of the paths (0)")
    parser.add_argument(
        "--results",
        metavar="FILE",
        help="the way back: these tracks, not the true ones",
    )


def run(args: argparse.Namespace) -> None:
    """Write the file and print what it holds."""
    from pathlib import Path

    from stan_jax.annotations.formats import recognise, table
    from stan_jax.errors import InputError
    from stan_jax.files import require_place

    kind = {"pngs": "to-pngs"}.get(args.kind, args.kind)
    if kind == "auto":
        found = recognise.recognise(args.source)
        print(f"{found.source}: {found.why}: stan convert {found.kind}")
        kind, args.source = found.kind, str(found.source)
    for name in sorted(set().union(*table.OPTIONS.values())):
        if getattr(args, name) is not None and name not in table.OPTIONS[kind]:
            raise InputError(f"--{name}", "", f"means nothing to convert {kind}")
    if args.suffix is not None and not args.suffix.startswith("."):
        raise InputError("--suffix", "", f"must begin with a dot, is {args.suffix}")
    if kind in TARGETS:
        if kind in table.FILES:
            require_place(args.out, args.source)
        _back(kind, args.source, Path(args.out), args.results)
        return
    require_place(args.out, args.source)
    if kind == "coco":
        _clips(args)
        return
    options = {k: getattr(args, k) for k in table.OPTIONS[kind]}
    options = {k: v for k, v in options.items() if v is not None}
    if "classes" in options:
        options["classes"] = args.classes.split(",")
    if kind == "colours" and "palette" not in options:
        rule = "needs --palette, a text with a colour and the name of its class a line"
        raise InputError("convert colours", "", rule)
    read = table.SOURCES[kind].read(args.source, **options)
    _write(read, args.source, args.out)


def _write(read, source: str, out: str) -> None:
    """Check what was read, write it, and print the balance."""
    import json

    from stan_jax.annotations import check
    from stan_jax.errors import InputError
    from stan_jax.files import replacing

    root = read.official()
    if read.balance.read["masks"] and not root["annotations"]:
        reasons = {reason for unit, reason in read.balance.left if unit == "masks"}
        rule = f"none of {read.balance.read['masks']} masks is left: they"
        raise InputError(source, "", f"{rule} {', '.join(sorted(reasons))}")
    check.require(source, root)
    with replacing(out) as partial:
        partial.write_text(json.dumps(root))
    for line in read.balance.lines():
        print(line)
    print(out)


def _clips(args: argparse.Namespace) -> None:
    """Make clips of still images; nothing is written before all is checked."""
    from pathlib import Path

    from stan_jax.annotations import check, youtube_vis
    from stan_jax.annotations.formats import clips
    from stan_jax.annotations.formats.collected import Collected
    from stan_jax.errors import InputError
    from stan_jax.files import whole_or_as_before
    from stan_jax.video import progress

    length = 8 if args.length is None else args.length
    images = args.images or str(Path(args.source).parent)
    if not args.frames:
        rule = "needs --frames, where clips go, and --images, the still images"
        raise InputError("convert coco", "", rule)
    for name, value, minimum in (("length", length, 1), ("seed", args.seed or 0, 0)):
        if value < minimum:
            rule = f"must be at least {minimum}, is {value}"
            raise InputError(f"--{name}", "", rule)
    stills = clips.read(
        youtube_vis.read_json(Path(args.source)), images, file=args.source
    )
    check.require(args.source, stills.official())
    with whole_or_as_before(args.frames):
        with progress.Bar("images", len(stills.videos)) as bar:
            made: Collected = clips.write(
                stills,
                images,
                args.frames,
                length=length,
                seed=args.seed or 0,
                watch=lambda number: bar.advance(),
            )
        made.balance = stills.balance
        _write(made, args.source, args.out)


def _back(kind: str, source: str, out, results: str | None) -> None:
    """Write the official file, or results on its videos, as another format."""
    from pathlib import Path

    from stan_jax.annotations import check, youtube_vis
    from stan_jax.annotations.formats import table
    from stan_jax.errors import InputError
    from stan_jax.files import replacing, whole_or_as_before

    scores = 0
    if results is None:
        dataset = youtube_vis.load(source, ".")
        if not dataset.annotated:
            rule = "has no annotations: nothing to write"
            raise InputError(source, "", rule, "--results=FILE takes those of a model")
    else:
        root = youtube_vis.read_json(Path(source))
        rows = youtube_vis.read_any(Path(results))
        if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
            raise InputError(results, "", "must hold a list of results")
        numbered = [row | {"id": n} for n, row in enumerate(rows, start=1)]
        scores = sum("score" in row for row in rows)
        root = root | {"annotations": numbered}
        check.require(results, root)
        dataset = youtube_vis.of_json(Path(results), root, ".")
    if kind in table.FILES:
        with replacing(out) as partial:
            balance = table.TARGETS[kind].write(dataset, partial)
    else:
        with whole_or_as_before(out):
            balance = table.TARGETS[kind].write(dataset, out)
    if scores:
        balance.notes.append(f"{scores} scores are not in it")
    for line in balance.lines():
        print(line)
    print(out)
