"""Names in mmdet 3 and mmtracking: Mask R-CNN, and MaskTrack R-CNN around it.

The original MaskTrackRCNN, a fork of an early mmdet, names its parts alike.
Source: state dicts of mmdet 3.3.0 and of MaskTrackRCNN 10e5d7d.
"""

from stan_jax.published.names import (
    BACKGROUND_FIRST,
    BACKGROUND_LAST,
    CONV,
    DENSE,
    ROI,
    Columns,
    Rename,
    box_deltas,
    class_logits,
    layer,
    mask_logits,
    under,
    upsampling,
)
from stan_jax.published.torchvision import body


def _detector(roi: str, columns: Columns) -> tuple[Rename, ...]:
    box, mask = f"{roi}bbox_head", f"{roi}mask_head"
    return (
        *under(body(), "backbone.", "backbone/"),
        *layer("neck.lateral_convs.{i}.conv", "fpn/laterals/{i}", CONV),
        *layer("neck.fpn_convs.{i}.conv", "fpn/outputs/{i}", CONV),
        *layer("rpn_head.rpn_conv", "rpn/conv", CONV),
        *layer("rpn_head.rpn_cls", "rpn/logits", CONV),
        *layer("rpn_head.rpn_reg", "rpn/deltas", CONV),
        *layer(f"{box}.shared_fcs.0", "box_head/fc1", ROI),
        *layer(f"{box}.shared_fcs.1", "box_head/fc2", DENSE),
        *class_logits(f"{box}.fc_cls", columns),
        *box_deltas(f"{box}.fc_reg", columns),
        *layer(f"{mask}.convs.{{i}}.conv", "mask_head/convs/{i}", CONV),
        *upsampling(f"{mask}.upsample"),
        *mask_logits(f"{mask}.conv_logits", columns),
    )


def _tracker(source: str) -> list[Rename]:
    return [
        *layer(f"{source}.fcs.0", "track_head/fc1", ROI),
        *layer(f"{source}.fcs.1", "track_head/fc2", DENSE),
    ]


MASK_RCNN = _detector("roi_head.", BACKGROUND_LAST)
MASKTRACK = (*under(MASK_RCNN, "detector."), *_tracker("track_head.embed_head"))
ORIGINAL = (*_detector("", BACKGROUND_FIRST), *_tracker("track_head"))
