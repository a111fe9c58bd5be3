"""The console command `stan`: one file per subcommand, read only when it is called."""

import argparse
import gc
import importlib
import os
import sys
from collections.abc import Sequence

from stan_jax import __version__, errors

# name -> file, what it does
COMMANDS = {
    "track": ("track", "a video, camera or folder of images becomes tracks"),
    "score": ("score", "official numbers and tracking metrics of a results file"),
    "check": ("check", "every problem of an annotation file, and what it holds"),
    "attend": ("attend", "where the attention looks, for one point of a frame"),
    "show": ("show", "annotations and results drawn on their frames"),
    "split": ("split", "train and val by video, every category on both sides"),
    "merge": ("merge", "several annotation files become one, numbered anew"),
    "submit": ("submit", "a results file checked and zipped for the server"),
    "convert": ("convert", "other formats become the official json, and back"),
    "plan": ("plan", "what a config takes of machines that are not here"),
    "import": ("import_weights", "published weights become a start for training"),
    "export": ("export", "a whole tracker for other runtimes: ONNX, jax.export"),
    "export-weights": ("export_weights", "weights alone, under the names of others"),
}


def script() -> None:
    """Run `main` as a process of its own."""
    gc.set_threshold(100_000, 50, 50)  # imports make objects, not garbage
    # What the compiler cannot do it raises; its log asks busy machines for bug reports.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        main()
    finally:
        gc.freeze()  # else JAX is looked through at the end, for half a second


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one subcommand; what the user can mend ends it with one line and status 1."""
    parser = argparse.ArgumentParser(
        prog="stan",
        description="Video instance segmentation with STAN: tools beside train.py.",
        epilog="stan COMMAND --help says more, with an example.",
    )
    parser.add_argument("--version", action="version", version=f"stan {__version__}")
    choices = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, text) in COMMANDS.items():
        choices.add_parser(name, help=text, add_help=False)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    chosen = parser.parse_args(arguments[:1]).command
    module = importlib.import_module(f"stan_jax.commands.{COMMANDS[chosen][0]}")
    own = argparse.ArgumentParser(
        prog=f"stan {chosen}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(own)
    with errors.as_messages():
        status = module.run(own.parse_args(arguments[1:]))
    if status:
        sys.exit(status)


if __name__ == "__main__":
    script()
