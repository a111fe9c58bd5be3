"""STAN from handed-in parts: features, attend, propose, detect (paper Fig. 1)."""

from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8

from stan_jax.errors import InputError
from stan_jax.model.backbone import Backbone
from stan_jax.model.fpn import FeaturePyramid
from stan_jax.model.heads import BoxHead, MaskHead, RpnHead, TrackHead
from stan_jax.model.sta import SpatioTemporalAttention
from stan_jax.ops import anchors, boxes, nms, roi_align
from stan_jax.types import Detections, Proposals

MEAN = (123.675, 116.28, 103.53)  # of ImageNet, RGB in 0..255, as torchvision
STD = (58.395, 57.12, 57.375)
BOX_STDS = (0.1, 0.1, 0.2, 0.2)  # Fast R-CNN's, for the deltas of the box head
BOX_CELLS, MASK_CELLS = 7, 14  # cells of a RoI's side


class Conventions(NamedTuple):
    """Conventions that parameters are read by, where published codes differ.

    Args:
      anchors: kind of `anchors.grid`.
      least_side: pixels of a box that stay at the border of the frame where all of it
        lies outside.
      aligned, sampling, min_size: see `roi_align`.
      embed_relu: embeddings are not negative.
    """

    anchors: Literal["plain", "rounded", "legacy"] = "plain"
    least_side: float = 0.0
    aligned: bool = True
    sampling: int = 2
    min_size: float | None = None
    embed_relu: bool = False


class Thresholds(NamedTuple):
    """Thresholds on the way from anchors to detections; may differ from training.

    Args:
      pre_nms: proposals per level before NMS.
      proposals: after it, over all levels.
      rpn_nms, box_nms: IoU above which the worse of two boxes is suppressed.
      score_threshold: class probability that a detection must exceed.
      detections: kept per frame.
      nms_candidates: (proposal, class) pairs with the best scores that enter box NMS.
      class_agnostic_nms: boxes of one class suppress those of others as well.
      classes: labels that may be detected; None: all.
    """

    pre_nms: int
    proposals: int
    rpn_nms: float
    score_threshold: float
    box_nms: float
    detections: int
    nms_candidates: int
    class_agnostic_nms: bool = False
    classes: tuple | None = None


class STAN(nnx.Module):
    """MaskTrack R-CNN with spatio-temporal attention (paper Fig. 1).

    Made of built parts; `build` makes them from the settings of a config.

    Args:
      backbone: any module with the members of `Backbone`.
      fpn: pyramid on the maps of the backbone.
      sta: attention to the previous frame; None gives the plain baseline.
      rpn, box_head, mask_head, track_head: heads on the levels of the pyramid.
      anchor_scale: side of an anchor in cells of its level.
      conventions: how published parameters are read.
    Raises: InputError where the attention reads levels that the pyramid does not have.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        fpn: FeaturePyramid,
        sta: SpatioTemporalAttention | None,
        rpn: RpnHead,
        box_head: BoxHead,
        mask_head: MaskHead,
        track_head: TrackHead,
        anchor_scale: float,
        conventions: Conventions,
    ):
        if sta is not None and not set(sta.strides) <= set(fpn.strides):
            rule = f"must be among {fpn.strides}, are {sta.strides}"
            raise InputError("sta.strides", "", rule)
        self.backbone, self.fpn, self.sta, self.rpn = backbone, fpn, sta, rpn
        self.box_head, self.mask_head = box_head, mask_head
        self.track_head = track_head
        self.anchor_scale, self.conventions = anchor_scale, conventions

    @property
    def frozen_paths(self) -> tuple[str, ...]:
        """Paths of the parameters that take no gradient, as prefixes."""
        return tuple(f"backbone/{path}" for path in self.backbone.frozen_paths)

    def features(
        self,
        frames: UInt8[Array, "b fh fw 3"],
        size_hw: Int[Array, "b 2"],
    ) -> tuple[Float[Array, "b _ _ c"], ...]:
        """Return P2..P6 of RGB frames before any attention.

        Raises: InputError if the sides of the canvas do not suit the backbone.
        """
        fh, fw = frames.shape[1:3]
        if fh % self.backbone.multiple or fw % self.backbone.multiple:
            rule = f"must have sides that divide by {self.backbone.multiple}"
            raise InputError("canvas", "", f"{rule}, is {fh} x {fw}")
        x = normalise(frames, size_hw).astype(self.fpn.laterals[0].kernel.dtype)
        return self.fpn(self.backbone(x))

    def attended(self, levels: Sequence[Array]) -> tuple[Array, ...]:
        """Return the levels that the attention reads, which the memory must keep."""
        if self.sta is None:
            return ()
        return tuple(levels[self.fpn.strides.index(s)] for s in self.sta.strides)

    def empty_past(self, levels: Sequence[Array]) -> tuple[Array, ...]:
        """Return the past of frames [b t h w c] that have none: zeros [b q h w c]."""
        if self.sta is None:
            return ()
        return tuple(
            jnp.zeros((len(x), self.sta.frames, *x.shape[2:]), x.dtype)
            for x in self.attended(levels)
        )

    def attend(
        self,
        past: Sequence[Float[Array, "b q _ _ c"]],
        x1: Sequence[Float[Array, "b _ _ c"]],
        size_hw: Int[Array, "b 2"],
        known: Bool[Array, "b q"] | None = None,
        *,
        skip: Bool[Array, " b"] | None = None,
    ) -> tuple[Float[Array, "b _ _ c"], ...]:
        """Return P2..P6 of the current frame, enriched by the previous ones (A19).

        Args:
          past: `attended` levels of the q previous frames as the queue holds them, the
            newest first.
          x1: all levels of this one.
          known: false for frames before the video began; None: all are known.
          skip: frames whose raw levels are passed on.
        """
        if self.sta is None:
            return tuple(x1)
        new = self.sta(past, self.attended(x1), size_hw, known)
        by_stride = dict(zip(self.fpn.strides, x1, strict=True))
        levels = (by_stride | dict(zip(self.sta.strides, new, strict=True))).values()
        if skip is None:
            return tuple(levels)
        return tuple(
            jnp.where(skip[:, None, None, None], raw, attended)
            for raw, attended in zip(x1, levels, strict=True)
        )

    def walk(
        self,
        past: Sequence[Float[Array, "b q _ _ c"]],
        x1: Sequence[Float[Array, "b t _ _ c"]],
        size_hw: Int[Array, "b 2"],
        seen: Int[Array, " b"],
        *,
        skip_first: bool = False,
    ) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Attend in t frames, one after the other; each is the past of the next.

        Args:
          past: as of `attend`, before the first of the frames.
          x1: all levels of the frames.
          seen: how many frames of the video came before; below 0 where so many of x1
            come before the video.
          skip_first: the first frame of a video passes its raw levels on; else it is
            its own past (A12).
        Returns: all levels [b t h w c], and what the queue keeps of each frame, as
          `past` and x1 one after the other, the oldest first [b q+t h w c].
        """
        if self.sta is None:
            return tuple(x1), ()
        b, t = x1[0].shape[:2]
        q = self.sta.frames
        before = jnp.maximum(seen[:, None] + jnp.arange(t)[None], 0)  # [b t]
        first = before == 0
        known = jnp.arange(q)[None, None] < jnp.maximum(before, 1)[..., None]

        def attend(past, x1, first, known, sizes):
            own = first[:, None, None, None]
            past = tuple(
                jnp.concatenate([jnp.where(own, curr, x[:, 0])[:, None], x[:, 1:]], 1)
                for x, curr in zip(past, self.attended(x1), strict=True)
            )
            skip = first if skip_first else None
            return self.attend(past, x1, sizes, known, skip=skip)

        kept = tuple(x[:, ::-1] for x in past)  # the oldest first
        if self.sta.stored == "raw":
            # All is known before any frame is attended to: one batch for all of them.
            kept = tuple(
                jnp.concatenate([old, x], 1)
                for old, x in zip(kept, self.attended(x1), strict=True)
            )
            windows = tuple(
                jnp.stack([x[:, q - 1 - age :][:, :t] for age in range(q)], 2)
                for x in kept
            )
            given = jax.tree.map(
                lambda x: x.reshape(b * t, *x.shape[2:]), (windows, x1, first, known)
            )
            levels = attend(*given, jnp.repeat(size_hw, t, axis=0))
            return tuple(x.reshape(b, t, *x.shape[1:]) for x in levels), kept

        def one(past, frame):
            levels = attend(past, *frame, size_hw)
            new = self.attended(levels)
            past = tuple(
                jnp.concatenate([x[:, None], old[:, :-1]], 1)
                for x, old in zip(new, past, strict=True)
            )
            return past, levels

        frames = jax.tree.map(lambda x: x.swapaxes(0, 1), (tuple(x1), first, known))
        # Without a loop, in which XLA's convolutions are slow on a CPU: a training step
        # of `shapes_ablation:hard-best_carried` takes 0.8 to 0.9 of the time.
        _, levels = jax.lax.scan(one, tuple(past), frames, unroll=True)
        levels = tuple(x.swapaxes(0, 1) for x in levels)
        kept = tuple(
            jnp.concatenate([old, x], 1)
            for old, x in zip(kept, self.attended(levels), strict=True)
        )
        return levels, kept

    def attend_last(
        self,
        x: Sequence[Float[Array, "b f _ _ c"]],
        size_hw: Int[Array, "b 2"],
        seen: Int[Array, " b"],
    ) -> tuple[Float[Array, "b _ _ c"], ...]:
        """Return P2..P6 of the last of f frames, enriched by those before it.

        Args:
          x: all levels of the frames, the oldest first.
          seen: how many of the frames before the last are of the video.
        """
        if self.sta is None:
            return tuple(level[:, -1] for level in x)
        q, f = self.sta.frames, x[0].shape[1]
        empty = self.empty_past(x)
        if self.sta.stored == "attended":
            levels, _ = self.walk(empty, x, size_hw, seen - (f - 1))
        else:
            # Only the last frame is asked for, and what it needs is known.
            held = tuple(
                jnp.concatenate([none, level[:, :-1]], 1)[:, : -q - 1 : -1]
                for none, level in zip(empty, self.attended(x), strict=True)
            )
            last = tuple(level[:, -1:] for level in x)
            levels, _ = self.walk(held, last, size_hw, seen)
        return tuple(level[:, -1] for level in levels)

    def proposals(
        self,
        levels: Sequence[Float[Array, "b _ _ c"]],
        size_hw: Int[Array, "b 2"],
        thresholds: Thresholds,
    ) -> Proposals:
        """Return the boxes of attended levels that may hold objects, best first.

        Training and tracking share it.
        """
        logits, deltas = zip(*(self.rpn(x) for x in levels), strict=True)
        return self.propose(logits, deltas, self.anchors(levels), size_hw, thresholds)

    def anchors(self, levels: Sequence[Array]) -> tuple[Float[Array, "a 4"], ...]:
        """Return the anchors of each level, pixels of the canvas."""
        return tuple(
            anchors.grid(
                (x.shape[1], x.shape[2]),
                stride,
                scales=(self.anchor_scale,),
                kind=self.conventions.anchors,
            )
            for x, stride in zip(levels, self.fpn.strides, strict=True)
        )

    def propose(
        self,
        logits: Sequence[Float[Array, "b _"]],
        deltas: Sequence[Float[Array, "b _ 4"]],
        level_anchors: Sequence[Float[Array, "_ 4"]],
        size_hw: Int[Array, "b 2"],
        thresholds: Thresholds,
    ) -> Proposals:
        """Return the best boxes of each frame, given what `rpn` says.

        Source: masktrack_rcnn rpn_head.py get_bboxes_single; NMS within each level.
        """
        found = []
        for i, (logit, delta, anchor) in enumerate(
            zip(logits, deltas, level_anchors, strict=True)
        ):
            score, index = jax.lax.top_k(logit, min(thresholds.pre_nms, logit.shape[1]))
            delta = jnp.take_along_axis(delta, index[..., None], axis=1)
            box = jax.vmap(boxes.decode)(delta, anchor[index])
            found.append((jax.nn.sigmoid(score), box, jnp.full(index.shape, i)))
        score, box, level = (
            jnp.concatenate(x, axis=1) for x in zip(*found, strict=True)
        )
        best = partial(self._best_proposals, thresholds=thresholds)
        return jax.vmap(best)(box, score, level, size_hw)

    def _best_proposals(
        self,
        box: Float[Array, "n 4"],
        score: Float[Array, " n"],
        level: Int[Array, " n"],
        size_hw: Int[Array, "2"],
        *,
        thresholds: Thresholds,
    ) -> Proposals:
        box = boxes.clip(box, size_hw, minimum=self.conventions.least_side)
        valid = boxes.area(box) > 0
        keep = nms.nms(box, score, valid, threshold=thresholds.rpn_nms, groups=level)
        num = min(thresholds.proposals, score.shape[0])
        best, index = jax.lax.top_k(jnp.where(keep, score, -1.0), num)
        return Proposals(box[index], jnp.maximum(best, 0.0), best >= 0)

    def detect(
        self,
        levels: Sequence[Float[Array, "b _ _ c"]],
        proposals: Proposals,
        size_hw: Int[Array, "b 2"],
        thresholds: Thresholds,
    ) -> Detections:
        """Return the objects of each frame with masks and embeddings, best first."""
        roi = self.pool(levels, proposals.boxes, BOX_CELLS)
        logits, deltas = self.box_head(roi)
        best = partial(self._best_detections, thresholds=thresholds)
        box, label, score, valid = jax.vmap(best)(
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
        *,
        thresholds: Thresholds,
    ) -> tuple[Array, Array, Array, Array]:
        classes = self.box_head.num_classes
        score = probs[:, :classes]
        wanted = proposals.valid[:, None] & (score > thresholds.score_threshold)
        if thresholds.classes is not None:
            chosen = np.isin(np.arange(classes), thresholds.classes)
            wanted &= jnp.asarray(chosen)[None]
        score = jnp.where(wanted, score, 0.0).reshape(-1)
        score, index = jax.lax.top_k(score, min(thresholds.nms_candidates, score.size))
        row, label = index // classes, index % classes
        box = boxes.decode(deltas[row, label], proposals.boxes[row], stds=BOX_STDS)
        box = boxes.clip(box, size_hw, minimum=self.conventions.least_side)
        real = (score > 0) & (boxes.area(box) > 0)  # not refined out of the frame
        groups = None if thresholds.class_agnostic_nms else label
        keep = nms.nms(box, score, real, threshold=thresholds.box_nms, groups=groups)
        best = jnp.where(keep, score, 0.0)
        short = max(thresholds.detections - best.size, 0)  # fewer candidates than rows
        best, index = jax.lax.top_k(jnp.pad(best, (0, short)), thresholds.detections)
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
            tuple(levels[:-1]),  # the last level only proposes
            rois,
            strides=self.fpn.strides[:-1],
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
