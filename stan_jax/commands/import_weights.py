"""Published weights become a start for training, or tracks at once.

    stan import masktrack_rcnn_r50_fpn.pth runs/masktrack
    python train.py --config=configs/ytvis19_r50_sta.py:openmmlab --workdir=runs/mine \\
        --config.init_from=runs/masktrack

Reads .safetensors, .npz, torch's .pth (with the extra `torch`) and .pkl of arrays, and
runs nothing that is in them. Knows ResNets of torchvision and MSRA, our MobileNetV2,
and Mask R-CNN or MaskTrack R-CNN of torchvision, detectron2, mmdet 3, mmtracking and
the original MaskTrackRCNN.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    parser.add_argument("checkpoint", help="the published file")
    parser.add_argument("out", help="a new folder, for --config.init_from")
    parser.add_argument("--family", default="auto", help="whose names the file has")
    parser.add_argument(
        "--classes",
        default="auto",
        help="ytvis2019, ytvis2021, ovis, coco, coco91, or annotations that list them",
    )


def run(args: argparse.Namespace) -> None:
    """Write a folder with the weights and the record of what they mean."""
    from stan_jax.pretrained import store
    from stan_jax.published import detectors

    found = detectors.load(args.checkpoint, args.family)
    categories = detectors.class_list(args.classes, found)
    store.save(args.out, args.checkpoint, found, categories)
    for line in store.report(found, categories):
        print(line)
    print(f"written to {args.out}; start from it with --config.init_from={args.out}")
