"""Weights of ours under the names of another system, as safetensors.

Weights alone: for a tracker that runs elsewhere see `stan export`.

    stan export-weights runs/mine mine.safetensors --family mmdet

What the other system has no name for, such as the attention, goes under our own name
after `stan.`; `stan import` reads it back, others leave it out with strict=False.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    parser.add_argument("workdir", help="of a training run, or made by `stan import`")
    parser.add_argument("out", help="the file to write")
    parser.add_argument("--family", required=True, help="mmdet or torchvision")


def run(args: argparse.Namespace) -> None:
    """Write the newest weights of the folder."""
    from stan_jax.pretrained import store

    for line in store.export(args.workdir, args.out, args.family):
        print(line)
