"""Names in detectron2: `R-50.pkl` and `R-101.pkl` of MSRA, and Mask R-CNN on them.

They stride in the first 1x1 and take BGR that is not divided by a deviation. The two
files hold batch norms as scale and bias only. Source: detectron2 c2_model_loading.py.
"""

from stan_jax.published.names import (
    BACKGROUND_LAST,
    CAFFE_STEM,
    CONV,
    DENSE,
    EPSILON,
    ROI,
    Rename,
    box_deltas,
    class_logits,
    layer,
    mask_logits,
    norm,
    under,
    upsampling,
)

STAGES = (1, 2, 3, 4)  # Caffe counts them from 2 on


def _affine(source: str, path: str) -> tuple[Rename, Rename]:
    return Rename(f"{source}_s", f"{path}/scale"), Rename(f"{source}_b", f"{path}/bias")


def _msra_stage(i: int) -> tuple[Rename, ...]:
    block, ours = f"res{i + 1}_{{j}}_branch", f"layer{i}/{{j}}"
    lines = [
        Rename(f"{block}1_w", f"{ours}/downsample/0/kernel", CONV),
        *_affine(f"{block}1_bn", f"{ours}/downsample/1"),
    ]
    for k, letter in enumerate("abc", start=1):
        lines += [
            Rename(f"{block}2{letter}_w", f"{ours}/conv{k}/kernel", CONV),
            *_affine(f"{block}2{letter}_bn", f"{ours}/bn{k}"),
        ]
    return tuple(lines)


MSRA = (
    Rename("conv1_w", "conv1/kernel", CAFFE_STEM),
    *_affine("res_conv1_bn", "bn1"),
    *(line for i in STAGES for line in _msra_stage(i)),
    Rename("fc1000_w", ""),
    Rename("fc1000_b", ""),
)
# Their norm divides by nothing; ours by the root of var + EPSILON.
MSRA_DEFAULTS = {"mean": 0.0, "var": 1.0 - EPSILON}


def _stage(i: int) -> tuple[Rename, ...]:
    block, ours = f"res{i + 1}.{{j}}", f"layer{i}/{{j}}"
    return (
        Rename(f"{block}.shortcut.weight", f"{ours}/downsample/0/kernel", CONV),
        *norm(f"{block}.shortcut.norm", f"{ours}/downsample/1"),
        Rename(f"{block}.conv{{k}}.weight", f"{ours}/conv{{k}}/kernel", CONV),
        *norm(f"{block}.conv{{k}}.norm", f"{ours}/bn{{k}}"),
    )


def _level(i: int) -> list[Rename]:
    return [
        *layer(f"backbone.fpn_lateral{i + 1}", f"fpn/laterals/{i - 1}", CONV),
        *layer(f"backbone.fpn_output{i + 1}", f"fpn/outputs/{i - 1}", CONV),
        *layer(f"roi_heads.mask_head.mask_fcn{i}", f"mask_head/convs/{i - 1}", CONV),
    ]


BODY = (
    Rename("stem.conv1.weight", "conv1/kernel", CAFFE_STEM),
    *norm("stem.conv1.norm", "bn1"),
    *(line for i in STAGES for line in _stage(i)),
)
RPN = "proposal_generator.rpn_head"
HEADS = "roi_heads.box_predictor"
MASK_RCNN = (
    *under(BODY, "backbone.bottom_up.", "backbone/"),
    *(line for i in STAGES for line in _level(i)),  # as many as the mask head has
    *layer(f"{RPN}.conv", "rpn/conv", CONV),
    *layer(f"{RPN}.objectness_logits", "rpn/logits", CONV),
    *layer(f"{RPN}.anchor_deltas", "rpn/deltas", CONV),
    *layer("roi_heads.box_head.fc1", "box_head/fc1", ROI),
    *layer("roi_heads.box_head.fc2", "box_head/fc2", DENSE),
    *class_logits(f"{HEADS}.cls_score", BACKGROUND_LAST),
    *box_deltas(f"{HEADS}.bbox_pred", BACKGROUND_LAST),
    *upsampling("roi_heads.mask_head.deconv"),
    *mask_logits("roi_heads.mask_head.predictor", BACKGROUND_LAST),
    Rename("pixel_mean", ""),
    Rename("pixel_std", ""),
    Rename("proposal_generator.anchor_generator.cell_anchors.{i}", ""),
)
