"""The assembly: features -> attend -> propose -> detect -> embed."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from stan_jax.errors import InputError
from stan_jax.model.fpn import STRIDES, FeaturePyramid
from stan_jax.model.heads import BoxHead, MaskHead, RpnHead, TrackHead
from stan_jax.model.layers import NORMS
from stan_jax.model.mobilenet_v2 import MobileNetV2
from stan_jax.model.resnet import ResNet
from stan_jax.model.sta import SpatioTemporalAttention
from stan_jax.ops import anchors, boxes, nms, roi_align
from stan_jax.types import Detections, Proposals

BACKBONES = {
    "resnet18": partial(ResNet, stages=(2, 2, 2, 2), bottleneck=False),
    "resnet34": partial(ResNet, stages=(3, 4, 6, 3), bottleneck=False),
    "resnet50": partial(ResNet, stages=(3, 4, 6, 3), bottleneck=True),
    "resnet101": partial(ResNet, stages=(3, 4, 23, 3), bottleneck=True),
    "resnext101_64x4d": partial(
        ResNet, stages=(3, 4, 23, 3), bottleneck=True, groups=64, group_width=4
    ),
    "mobilenet_v2": MobileNetV2,
}
MEAN = (123.675, 116.28, 103.53)  # of ImageNet, RGB in 0..255, as torchvision
STD = (58.395, 57.12, 57.375)
BOX_STDS = (0.1, 0.1, 0.2, 0.2)  # Fast R-CNN's, for the deltas of the box head
BOX_CELLS, MASK_CELLS = 7, 14  # cells of a RoI's side
ROI_STRIDES = STRIDES[:4]  # P6 only proposes
COARSEST = ROI_STRIDES[-1]  # stride of the backbone's last map


class Conventions(NamedTuple):
    """How parameters are read, where published codes differ; see `presets`.

    anchors: kind of `anchors.grid`. least_side: pixels of a box that stay at the border
    of the frame where all of it lies outside.
    aligned, sampling, min_size: see `roi_align`. embed_relu: embeddings are not
    negative.
    """

    anchors: Literal["plain", "rounded", "legacy"] = "plain"
    least_side: float = 0.0
    aligned: bool = True
    sampling: int = 2
    min_size: float | None = None
    embed_relu: bool = False


class STAN(nnx.Module):
    """MaskTrack R-CNN with spatio-temporal attention (paper Fig. 1).

    num_classes: without background. backbone: a key of BACKBONES, backbone_args its
    further arguments. norm: a key of NORMS. channels: of the pyramid.
    anchor_scale: side of an anchor in cells of its level.
    sta: arguments of SpatioTemporalAttention; None gives the plain baseline.
    background_columns: boxes and masks get a column for the background as well, as in
    weights of the original code.
    pre_nms: proposals per level before NMS, proposals: after it, over all levels.
    detections: kept per frame; nms_candidates: (proposal, class) pairs with the best
    scores that enter the NMS before that.
    conventions: those of `Conventions` that are not as its defaults.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        backbone: str,
        backbone_args: Mapping,
        norm: str,
        channels: int,
        anchor_scale: float,
        sta: Mapping | None,
        box_channels: int,
        mask_channels: int,
        mask_depth: int,
        embed_channels: int,
        pre_nms: int,
        proposals: int,
        rpn_nms: float,
        score_threshold: float,
        box_nms: float,
        detections: int,
        nms_candidates: int = 1000,
        background_columns: bool = False,
        conventions: Mapping | None = None,
        rngs: nnx.Rngs,
    ):
        for name, value, table in (
            ("backbone", backbone, BACKBONES),
            ("norm", norm, NORMS),
        ):
            if value not in table:
                rule = f"must be one of {', '.join(table)}, is '{value}'"
                raise InputError(name, "", rule)
        self.num_classes, self.anchor_scale = num_classes, anchor_scale
        self.pre_nms, self.proposals, self.rpn_nms = pre_nms, proposals, rpn_nms
        self.score_threshold, self.box_nms = score_threshold, box_nms
        self.detections, self.nms_candidates = detections, nms_candidates
        self.conventions = Conventions(**(conventions or {}))
        columns = num_classes + background_columns
        features = BOX_CELLS**2 * channels

        self.backbone = BACKBONES[backbone](
            **backbone_args, norm=NORMS[norm], rngs=rngs
        )
        self.fpn = FeaturePyramid(self.backbone.out_channels, channels, rngs=rngs)
        self.sta = (
            None if sta is None else SpatioTemporalAttention(channels, **sta, rngs=rngs)
        )
        if self.sta and not set(self.sta.strides) <= set(STRIDES):
            rule = f"must be among {STRIDES}, are {self.sta.strides}"
            raise InputError("sta.strides", "", rule)
        self.rpn = RpnHead(channels, 3, rngs=rngs)
        self.box_head = BoxHead(
            features, num_classes, channels=box_channels, regressed=columns, rngs=rngs
        )
        self.mask_head = MaskHead(
            channels, columns, channels=mask_channels, depth=mask_depth, rngs=rngs
        )
        self.track_head = TrackHead(
            features,
            channels=embed_channels,
            last_relu=self.conventions.embed_relu,
            rngs=rngs,
        )

    def features(
        self,
        frames: UInt8[Array, "b fh fw 3"],
        size_hw: Int[Array, "b 2"],
    ) -> tuple[Float[Array, "b _ _ c"], ...]:
        """Return P2..P6 of RGB frames before any attention.

        Raises: InputError if the sides of the canvas are no multiples of 32.
        """
        fh, fw = frames.shape[1:3]
        if fh % COARSEST or fw % COARSEST:
            rule = f"must have sides that divide by {COARSEST}, is {fh} x {fw}"
            raise InputError("canvas", "", rule)
        x = normalise(frames, size_hw).astype(self.fpn.laterals[0].kernel.dtype)
        return self.fpn(self.backbone(x))

    def attended(self, levels: Sequence[Array]) -> tuple[Array, ...]:
        """Return the levels that the attention reads, which the memory must keep."""
        if self.sta is None:
            return ()
        return tuple(levels[STRIDES.index(s)] for s in self.sta.strides)

    def attend(
        self,
        x0: Sequence[Float[Array, "b _ _ c"]],
        x1: Sequence[Float[Array, "b _ _ c"]],
        size_hw: Int[Array, "b 2"],
    ) -> tuple[Float[Array, "b _ _ c"], ...]:
        """Return P2..P6 of the current frame, enriched by the previous one (A19).

        x0: the `attended` levels of the previous frame; x1: all levels of this one.
        """
        if self.sta is None:
            return tuple(x1)
        new = self.sta(x0, self.attended(x1), size_hw)
        by_stride = dict(zip(STRIDES, x1, strict=True))
        return tuple(
            (by_stride | dict(zip(self.sta.strides, new, strict=True))).values()
        )

    def anchors(self, levels: Sequence[Array]) -> tuple[Float[Array, "a 4"], ...]:
        """Return the anchors of each level, pixels of the canvas."""
        return tuple(
            anchors.grid(
                (x.shape[1], x.shape[2]),
                stride,
                scales=(self.anchor_scale,),
                kind=self.conventions.anchors,
            )
            for x, stride in zip(levels, STRIDES, strict=True)
        )

    def propose(
        self,
        logits: Sequence[Float[Array, "b _"]],
        deltas: Sequence[Float[Array, "b _ 4"]],
        level_anchors: Sequence[Float[Array, "_ 4"]],
        size_hw: Int[Array, "b 2"],
    ) -> Proposals:
        """Return the `proposals` best boxes of each frame, given what `rpn` says.

        Source: masktrack_rcnn rpn_head.py get_bboxes_single; NMS within each level.
        """
        found = []
        for i, (logit, delta, anchor) in enumerate(
            zip(logits, deltas, level_anchors, strict=True)
        ):
            score, index = jax.lax.top_k(logit, min(self.pre_nms, logit.shape[1]))
            delta = jnp.take_along_axis(delta, index[..., None], axis=1)
            box = jax.vmap(boxes.decode)(delta, anchor[index])
            found.append((jax.nn.sigmoid(score), box, jnp.full(index.shape, i)))
        score, box, level = (
            jnp.concatenate(x, axis=1) for x in zip(*found, strict=True)
        )
        return jax.vmap(self._best_proposals)(box, score, level, size_hw)

    def _best_proposals(
        self,
        box: Float[Array, "n 4"],
        score: Float[Array, " n"],
        level: Int[Array, " n"],
        size_hw: Int[Array, "2"],
    ) -> Proposals:
        box = boxes.clip(box, size_hw, least=self.conventions.least_side)
        valid = boxes.area(box) > 0
        keep = nms.nms(box, score, valid, threshold=self.rpn_nms, groups=level)
        num = min(self.proposals, score.shape[0])
        best, index = jax.lax.top_k(jnp.where(keep, score, -1.0), num)
        return Proposals(box[index], jnp.maximum(best, 0.0), best >= 0)

    def detect(
        self,
        levels: Sequence[Float[Array, "b _ _ c"]],
        proposals: Proposals,
        size_hw: Int[Array, "b 2"],
    ) -> Detections:
        """Return the objects of each frame with masks and embeddings, best first."""
        roi = self.pool(levels, proposals.boxes, BOX_CELLS)
        logits, deltas = self.box_head(roi)
        box, label, score, valid = jax.vmap(self._best_detections)(
            proposals, jax.nn.softmax(logits), deltas, size_hw
        )
        # Masks and embeddings come from the refined boxes, not from the proposals.
        embeds = self.track_head(self.pool(levels, box, BOX_CELLS))
        roi = self.pool(levels, box, MASK_CELLS)
        masks = self.mask_head(roi.reshape(-1, *roi.shape[2:]))
        masks = masks.reshape(*label.shape, *masks.shape[1:])
        masks = jnp.take_along_axis(masks, label[..., None, None, None], axis=-1)
        masks = jax.nn.sigmoid(masks[..., 0].astype(jnp.float32))
        return Detections(box, label, score, valid, masks, embeds)

    def _best_detections(
        self,
        proposals: Proposals,
        probs: Float[Array, "n _"],
        deltas: Float[Array, "n _ 4"],
        size_hw: Int[Array, "2"],
    ) -> tuple[Array, Array, Array, Array]:
        score = probs[:, : self.num_classes]
        wanted = proposals.valid[:, None] & (score > self.score_threshold)
        score = jnp.where(wanted, score, 0.0).reshape(-1)
        score, index = jax.lax.top_k(score, min(self.nms_candidates, score.size))
        row, label = index // self.num_classes, index % self.num_classes
        box = boxes.decode(deltas[row, label], proposals.boxes[row], stds=BOX_STDS)
        box = boxes.clip(box, size_hw, least=self.conventions.least_side)
        real = (score > 0) & (boxes.area(box) > 0)  # not refined out of the frame
        keep = nms.nms(box, score, real, threshold=self.box_nms, groups=label)
        best = jnp.where(keep, score, 0.0)
        short = max(self.detections - best.size, 0)  # fewer candidates than rows
        best, index = jax.lax.top_k(jnp.pad(best, (0, short)), self.detections)
        index = jnp.minimum(index, score.size - 1)
        return box[index], label[index], best, best > 0

    def pool(
        self,
        levels: Sequence[Float[Array, "b _ _ c"]],
        rois: Float[Array, "b n 4"],
        cells: int,
    ) -> Float[Array, "b n p p c"]:
        """Return RoI features of cells x cells."""
        return roi_align.roi_align(
            tuple(levels[:4]),
            rois,
            strides=ROI_STRIDES,
            out=cells,
            sampling=self.conventions.sampling,
            aligned=self.conventions.aligned,
            min_size=self.conventions.min_size,
        )


def normalise(
    frames: UInt8[Array, "b fh fw 3"], size_hw: Int[Array, "b 2"]
) -> Float[Array, "b fh fw 3"]:
    """Return frames with ImageNet mean 0 and deviation 1, and 0 in the padding."""
    _, fh, fw, _ = frames.shape
    rows = jnp.arange(fh)[None] < size_hw[:, :1]
    columns = jnp.arange(fw)[None] < size_hw[:, 1:]
    inside = rows[:, :, None, None] & columns[:, None, :, None]
    mean, std = jnp.asarray(MEAN), jnp.asarray(STD)
    x = (frames.astype(jnp.float32) - mean[None, None, None]) / std[None, None, None]
    return jnp.where(inside, x, 0.0)


def architecture(settings: Mapping, categories: Sequence[str]) -> dict:
    """Return what a checkpoint must agree on: arguments that shape the function.

    settings: arguments of STAN; those that only choose among detections are left out,
    so that they may change between training and use.
    """
    free = ("pre_nms", "proposals", "rpn_nms", "score_threshold", "box_nms")
    free += ("detections", "nms_candidates")
    kept = {k: v for k, v in settings.items() if k not in free}
    if "backbone_args" in kept:
        args = kept["backbone_args"]
        kept["backbone_args"] = {k: v for k, v in args.items() if k != "frozen_stages"}
    return kept | {"categories": list(categories)}


def frozen_paths(model: STAN) -> tuple[str, ...]:
    """Return the path prefixes, "backbone/..." with slashes, that take no gradient."""
    return tuple(f"backbone/{name}" for name in model.backbone.frozen())
