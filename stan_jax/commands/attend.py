"""Where the attention of a trained model looks, for one point of one frame.

    stan attend street.mp4 --model runs/mine --frame 12 --point 320,180 --out look.png

For each level of the pyramid the picture shows the weights over the frame before
(Eq. 1 of the paper), and how much gamma * A (Eq. 3) adds to each cell of this one.
"""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    parser.add_argument("input", help="a video, or a folder or glob of images")
    parser.add_argument("--model", required=True, help="what `stan track` takes")
    parser.add_argument(
        "--frame", type=int, default=1, metavar="N", help="its number, from 0 (1)"
    )
    parser.add_argument(
        "--point",
        required=True,
        metavar="X,Y",
        help="pixels from the left and the top",
    )
    parser.add_argument("--out", default="attend.png", help="the picture (attend.png)")


def run(args: argparse.Namespace) -> None:
    """Draw the picture and print where each level looks."""
    import numpy as np

    from stan_jax.errors import InputError
    from stan_jax.pretrained import load
    from stan_jax.tracking.look import look
    from stan_jax.training import mesh
    from stan_jax.video.look import rows
    from stan_jax.video.overlay import save_sheet

    try:
        x, y = (float(value) for value in args.point.split(","))
    except ValueError:
        raise InputError("--point", "", f"must be X,Y, is '{args.point}'") from None
    previous, current = frames_of(args.input, args.frame)
    mesh.configure(cpu_devices=1)
    tracker = load.load(args.model)
    looks = look(tracker, previous, current, (x, y))
    save_sheet(args.out, rows(previous, current, (x, y), looks))
    fitted, true = tracker.fitted_hw(current.shape[:2]), current.shape[:2]
    for level in looks:
        cell = np.unravel_index(level.weights.argmax(), level.weights.shape)
        row, column = (
            int((at + 0.5) * level.stride * large / small)
            for at, small, large in zip(cell, fitted, true, strict=True)
        )
        print(
            f"stride {level.stride:<3} most weight {level.weights.max():.4f} near "
            f"{column},{row}   gamma {level.gamma:+.4f}"
            f"   adds {100 * level.added.mean():.2f} % in the mean"
        )
    print(args.out)


def frames_of(name: str, number: int) -> "tuple[np.ndarray, np.ndarray]":
    """Return the frame before a frame of a video, and that frame.

    Raises: InputError for a video without such a frame.
    """
    from stan_jax.errors import InputError
    from stan_jax.media.open import open_source
    from stan_jax.media.source import Window

    if number < 1:
        rule = f"must be at least 1, which has a frame before it, is {number}"
        raise InputError("--frame", "", rule)
    count, last = 0, []
    with open_source(name, Window(max_frames=number + 1)) as source:
        for frame in source:
            count, last = count + 1, [*last[-1:], frame.image]
    if count <= number:
        raise InputError(name, "", f"has no frame {number}, but {count} frames")
    return last[0], last[1]
