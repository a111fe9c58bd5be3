"""The six losses of a pair of frames, each as (sum, count)."""

from collections.abc import Mapping
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from stan_jax.model.stan import (
    BOX_CELLS,
    BOX_STDS,
    MASK_CELLS,
    STAN,
    Thresholds,
)
from stan_jax.ops import anchors as anchor_ops
from stan_jax.ops import assign, boxes, masks
from stan_jax.types import Pair, Proposals

Term = tuple[Float[Array, ""], Float[Array, ""]]


class Sampling(NamedTuple):
    """Sampling of the anchors and RoIs of a frame that learn.

    Args:
      anchors, positive_anchors: drawn per frame, and at most so many on objects.
      rois, positive_rois: the same of the box head; masks learn from the positive.
      border: -1 trains every anchor of the frame, 0 none that pokes out of it.
      padded: "the frame" includes the padding up to the backbone's multiple.
    """

    anchors: int
    positive_anchors: int
    rois: int
    positive_rois: int
    border: int
    padded: bool


class LossKinds(NamedTuple):
    """Kinds of losses, where published codes differ.

    Args:
      rpn_beta, box_beta: where smooth L1 turns linear; 0 is plain L1.
      mask_cells: target of a mask, see `masks.crop`: "sampled" with 2 x 2 samples per
        cell, "adaptive" with one per pixel, or "legacy".
      rpn_class: only objects of this class are foreground to the RPN's score. mmdet
        3.3.0 trains MaskTrack R-CNN so, with class 0, by mistake. None: all are.
      match_known: the track loss is a mean over RoIs of objects that the previous frame
        shows, else over all positive ones.
    """

    rpn_beta: float
    box_beta: float
    mask_cells: Literal["sampled", "adaptive", "legacy"]
    rpn_class: int | None
    match_known: bool


class Rois(NamedTuple):
    """Sampled RoIs of one frame; the positive ones come first."""

    boxes: Float[Array, "n 4"]
    object: Int[Array, " n"]  # row of the pair; of meaning where positive
    positive: Bool[Array, " n"]
    valid: Bool[Array, " n"]


def total(
    terms: Mapping[str, Term], weights: Mapping[str, float]
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Return the weighted sum of the mean losses, and each mean by name.

    A term without a single count is 0. weights: must name exactly the losses; terms
    whose name starts with "accuracy" are only reported.
    """
    means = {name: s / jnp.maximum(count, 1.0) for name, (s, count) in terms.items()}
    learned = {name for name in means if not name.startswith("accuracy")}
    if learned != set(weights):
        raise ValueError(
            f"losses {sorted(learned)} need weights, got {sorted(weights)}"
        )
    loss = sum(weights[name] * means[name] for name in sorted(learned))
    return jnp.asarray(loss), means


def terms(
    model: STAN,
    pairs: Pair,
    keys: Key[Array, " b"],
    *,
    thresholds: Thresholds,
    sampling: Sampling,
    kinds: LossKinds,
) -> dict[str, Term]:
    """Return (sum, count) of each loss over a batch of pairs.

    Only the current frame is detected in; those before it lend their features to the
    attention, and the previous one its true boxes, on its raw map (A18), to the track
    head.

    Args:
      pairs: with a leading axis b.
      keys: one per pair, so that what is sampled does not depend on how the batch lies
        on the devices.
      thresholds: those of the proposals that the heads learn from.
    """
    b, f, fh, fw, _ = pairs.frames.shape
    frames = pairs.frames.reshape(b * f, fh, fw, 3)
    levels = model.features(frames, jnp.repeat(pairs.size_hw, f, axis=0))
    levels = tuple(x.reshape(b, f, *x.shape[1:]) for x in levels)
    attended = model.attend_last(levels, pairs.size_hw, pairs.seen)
    anchor_keys, roi_keys = jax.vmap(jax.random.split, out_axes=1)(keys)

    rpn = _rpn(model, attended, pairs, anchor_keys, sampling, kinds)

    # No gradient flows through proposals: the RPN learns from drawn anchors alone.
    proposals = model.proposals(attended, pairs.size_hw, thresholds)
    rois = jax.vmap(sample_rois, in_axes=(0, 0, 0, None))(
        jax.lax.stop_gradient(proposals), pairs, roi_keys, sampling
    )
    features = model.pool(attended, rois.boxes, BOX_CELLS)
    box = _box(*model.box_head(features), rois, pairs, kinds)

    x0 = tuple(x[:, -2] for x in levels)
    reference = model.pool(x0, pairs.boxes[:, 0], BOX_CELLS)
    # In one call, for which the gradient of its wide first layer is made once.
    embeds = model.track_head(jnp.concatenate([features, reference], 1))
    number = features.shape[1]
    track = _track(embeds[:, :number], embeds[:, number:], rois, pairs, kinds)
    mask = _mask(model, attended, rois, pairs, sampling.positive_rois, kinds)
    return rpn | box | track | mask


def sample_anchors(
    anchors: Float[Array, "a 4"],
    pair: Pair,
    key: Key[Array, ""],
    sampling: Sampling,
    multiple: int,
) -> tuple[assign.Sample, Int[Array, " n"]]:
    """Return the anchors of one frame that learn, and the object of each positive one.

    multiple: of the backbone, in pixels; see `padded` of `Sampling`.
    Source: masktrack_rcnn anchor_target.py; IoU 0.7 and 0.3.
    """
    size_hw = pair.size_hw
    if sampling.padded:
        size_hw = -(-size_hw // multiple) * multiple
    role = assign.assign(
        boxes.iou(anchors, pair.boxes[1]),
        pair.present[1],
        positive=0.7,
        negative=0.3,
        min_positive=0.3,
        candidates=anchor_ops.inside(anchors, size_hw, sampling.border),
    )
    drawn = assign.sample(
        key,
        role.positive,
        role.negative,
        num=sampling.anchors,
        max_positive=sampling.positive_anchors,
    )
    return drawn, role.index[drawn.index]


def sample_rois(
    proposals: Proposals, pair: Pair, key: Key[Array, ""], sampling: Sampling
) -> Rois:
    """Return the RoIs of one frame that learn; true boxes count as proposals.

    IoU 0.5 for both roles. True boxes join once proposals have their roles: else no
    proposal could be the best of its object. Source: masktrack_rcnn two_stage.py.
    """
    present = pair.present[1]
    role = assign.assign(
        boxes.iou(proposals.boxes, pair.boxes[1]),
        present,
        positive=0.5,
        negative=0.5,
        min_positive=0.5,
        candidates=proposals.valid,
    )
    truth = assign.Assignment(
        jnp.arange(len(present)), present, jnp.zeros_like(present)
    )
    role = jax.tree.map(lambda *x: jnp.concatenate(x), truth, role)
    candidate = jnp.concatenate([pair.boxes[1], proposals.boxes])
    drawn = assign.sample(
        key,
        role.positive,
        role.negative,
        num=sampling.rois,
        max_positive=sampling.positive_rois,
    )
    return Rois(
        candidate[drawn.index], role.index[drawn.index], drawn.positive, drawn.valid
    )


def smooth_l1(error: Float[Array, "*n"], beta: float) -> Float[Array, "*n"]:
    """Return e**2 / (2 beta) below beta, |e| - beta / 2 above; |e| for beta 0."""
    size = jnp.abs(error)
    if beta == 0:
        return size
    return jnp.where(size < beta, 0.5 * error**2 / beta, size - 0.5 * beta)


def _rpn(
    model: STAN,
    levels: tuple[Array, ...],
    pairs: Pair,
    keys: Key[Array, " b"],
    sampling: Sampling,
    kinds: LossKinds,
) -> dict[str, Term]:
    anchors = jnp.concatenate(model.anchors(levels))  # [a 4]
    drawn, objects = jax.vmap(
        lambda pair, key: sample_anchors(
            anchors, pair, key, sampling, model.backbone.multiple
        )
    )(pairs, keys)
    logits, deltas = model.rpn.at(levels, drawn.index)

    is_object = drawn.positive
    if kinds.rpn_class is not None:
        label = jnp.take_along_axis(pairs.labels, objects, axis=1)
        is_object &= label == kinds.rpn_class
    score = optax.sigmoid_binary_cross_entropy(logits, is_object.astype(jnp.float32))

    truth = jnp.take_along_axis(pairs.boxes[:, 1], objects[..., None], axis=1)
    wanted = jax.vmap(boxes.encode)(truth, anchors[drawn.index])
    wanted = jnp.where(drawn.positive[..., None], wanted, 0.0)
    error = smooth_l1(deltas - wanted, kinds.rpn_beta).sum(-1)
    count = drawn.valid.sum().astype(jnp.float32)
    return {
        "rpn_score": (jnp.where(drawn.valid, score, 0.0).sum(), count),
        "rpn_box": (jnp.where(drawn.positive, error, 0.0).sum(), count),
    }


def _box(
    logits: Float[Array, "b n k"],
    deltas: Float[Array, "b n _ 4"],
    rois: Rois,
    pairs: Pair,
    kinds: LossKinds,
) -> dict[str, Term]:
    background = logits.shape[-1] - 1
    label = jnp.take_along_axis(pairs.labels, rois.object, axis=1)
    target = jnp.where(rois.positive, label, background)
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, target)
    right = (logits.argmax(-1) == target) & rois.positive

    truth = jnp.take_along_axis(pairs.boxes[:, 1], rois.object[..., None], axis=1)
    wanted = jax.vmap(lambda t, r: boxes.encode(t, r, stds=BOX_STDS))(truth, rois.boxes)
    wanted = jnp.where(rois.positive[..., None], wanted, 0.0)
    said = jnp.take_along_axis(deltas, label[..., None, None], axis=2)[:, :, 0]
    error = smooth_l1(said - wanted, kinds.box_beta).sum(-1)
    count = rois.valid.sum().astype(jnp.float32)
    positives = rois.positive.sum().astype(jnp.float32)
    return {
        "class": (jnp.where(rois.valid, entropy, 0.0).sum(), count),
        "box": (jnp.where(rois.positive, error, 0.0).sum(), count),
        "accuracy_class": (right.sum().astype(jnp.float32), positives),
    }


def _track(
    embeds: Float[Array, "b n e"],
    reference: Float[Array, "b m e"],
    rois: Rois,
    pairs: Pair,
    kinds: LossKinds,
) -> dict[str, Term]:
    there = pairs.present[:, 0]  # [b m]
    logits = jnp.einsum("bne,bme->bnm", embeds, reference)
    logits = jnp.where(there[:, None], logits, -jnp.inf)
    logits = jnp.pad(logits, ((0, 0), (0, 0), (1, 0)))  # column 0: a new object
    known = jnp.take_along_axis(there, rois.object, axis=1)
    target = jnp.where(known & rois.positive, rois.object + 1, 0)
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, target)
    right = (logits.argmax(-1) == target) & rois.positive
    count = rois.positive.sum().astype(jnp.float32)
    learns = (target > 0).sum().astype(jnp.float32) if kinds.match_known else count
    return {
        "track": (jnp.where(rois.positive, entropy, 0.0).sum(), learns),
        "accuracy_track": (right.sum().astype(jnp.float32), count),
    }


def _mask(
    model: STAN,
    levels: tuple[Array, ...],
    rois: Rois,
    pairs: Pair,
    positive_rois: int,
    kinds: LossKinds,
) -> dict[str, Term]:
    first = jax.tree.map(lambda x: x[:, :positive_rois], rois)
    b, n = first.object.shape
    features = model.pool(levels, first.boxes, MASK_CELLS)
    logits = model.mask_head(features.reshape(b * n, *features.shape[2:]))
    logits = logits.reshape(b, n, *logits.shape[1:])
    label = jnp.take_along_axis(pairs.labels, first.object, axis=1)
    logits = jnp.take_along_axis(logits, label[..., None, None, None], axis=-1)
    logits = logits[..., 0].astype(jnp.float32)
    cells = kinds.mask_cells
    crop = partial(
        masks.crop,
        out=2 * MASK_CELLS,
        sampling=0 if cells == "adaptive" else 2,
        legacy=cells == "legacy",
    )
    target = jax.vmap(crop)(pairs.masks, first.boxes, first.object)
    entropy = optax.sigmoid_binary_cross_entropy(logits, target).mean((2, 3))
    count = first.positive.sum().astype(jnp.float32)
    return {"mask": (jnp.where(first.positive, entropy, 0.0).sum(), count)}
