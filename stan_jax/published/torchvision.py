"""Names in torchvision: `resnet18` to `resnet101`, ResNeXt, `maskrcnn_resnet50_fpn`."""

from stan_jax.published.names import (
    AS_IS,
    CONV,
    DENSE,
    FIRST_LEFT_OUT,
    ROI,
    VAR_OF_EPS_0,
    Layout,
    Rename,
    box_deltas,
    class_logits,
    layer,
    mask_logits,
    norm,
    under,
    upsampling,
)

BLOCK = "layer{i}.{j}"
OURS = "layer{i}/{j}"


def body(var: Layout = AS_IS) -> tuple[Rename, ...]:
    """Return the lines of a ResNet without its classifier."""
    return (
        Rename("conv1.weight", "conv1/kernel", CONV),
        *norm("bn1", "bn1", var),
        Rename(f"{BLOCK}.conv{{k}}.weight", f"{OURS}/conv{{k}}/kernel", CONV),
        *norm(f"{BLOCK}.bn{{k}}", f"{OURS}/bn{{k}}", var),
        Rename(f"{BLOCK}.downsample.0.weight", f"{OURS}/downsample/0/kernel", CONV),
        *norm(f"{BLOCK}.downsample.1", f"{OURS}/downsample/1", var),
    )


RESNET = (
    *body(),
    Rename("fc.weight", ""),  # the classifier of ImageNet
    Rename("fc.bias", ""),
)


def mask_rcnn(var: Layout = AS_IS) -> tuple[Rename, ...]:
    """Return the lines of Mask R-CNN, under the names of files old and new."""
    heads, predictor = "roi_heads.mask_head", "roi_heads.mask_predictor"
    box = "roi_heads.box_predictor"
    return (
        *under(body(var), "backbone.body.", "backbone/"),
        *layer("backbone.fpn.inner_blocks.{i}.0", "fpn/laterals/{i}", CONV),
        *layer("backbone.fpn.layer_blocks.{i}.0", "fpn/outputs/{i}", CONV),
        *layer("rpn.head.conv.0.0", "rpn/conv", CONV),
        *layer("rpn.head.cls_logits", "rpn/logits", CONV),
        *layer("rpn.head.bbox_pred", "rpn/deltas", CONV),
        *layer("roi_heads.box_head.fc6", "box_head/fc1", ROI),
        *layer("roi_heads.box_head.fc7", "box_head/fc2", DENSE),
        *class_logits(f"{box}.cls_score", FIRST_LEFT_OUT),
        *box_deltas(f"{box}.bbox_pred", FIRST_LEFT_OUT),
        *layer(f"{heads}.{{i}}.0", "mask_head/convs/{i}", CONV),
        *upsampling(f"{predictor}.conv5_mask"),
        *mask_logits(f"{predictor}.mask_fcn_logits", FIRST_LEFT_OUT),
        # As files were named before torchvision 0.13, the published one among them.
        *layer("backbone.fpn.inner_blocks.{i}", "fpn/laterals/{i}", CONV),
        *layer("backbone.fpn.layer_blocks.{i}", "fpn/outputs/{i}", CONV),
        *layer("rpn.head.conv", "rpn/conv", CONV),
        *(
            line
            for i in range(4)
            for line in layer(f"{heads}.mask_fcn{i + 1}", f"mask_head/convs/{i}", CONV)
        ),
    )


MASK_RCNN = mask_rcnn()
# The published weights were trained, and are read, with norms of eps 0.
MASK_RCNN_EPS_0 = mask_rcnn(VAR_OF_EPS_0)
