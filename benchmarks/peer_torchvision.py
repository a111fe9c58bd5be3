r"""torchvision's Mask R-CNN as a subject of `compare.py`; needs torch and torchvision.

    python benchmarks/compare.py \
        --peer "torchvision=VENV/bin/python benchmarks/peer_torchvision.py"

R50-FPN, 41 classes, random weights, 200 proposals; masks pasted at 640 x 360. It does
not track.
"""

import itertools
import sys

import turns

DETECTIONS = {"frame10": 10, "frame100": 100}


def main(work):
    if work not in DETECTIONS:
        sys.exit(f"torchvision has nothing to say of {work}")
    import torch
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=41,
        min_size=turns.SIZE_HW[0],
        max_size=turns.SIZE_HW[1],
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_test=200,
        box_score_thresh=0.0,
        box_detections_per_img=DETECTIONS[work],
    ).eval()
    pictures = itertools.cycle(turns.frames(8)[0])

    def call():
        frame = torch.from_numpy(next(pictures)).permute(2, 0, 1).float() / 255
        with torch.inference_mode():
            (found,) = model([frame])
            masks = found["masks"] > 0.5
        assert len(masks) == DETECTIONS[work], len(masks)

    turns.serve(call)


if __name__ == "__main__":
    main(sys.argv[1])
