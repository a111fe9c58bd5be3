"""The checks of `parity.py` for whole models: features, frames and training steps."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from parity import Folder, Row, close, same, within
from pasted import paste

from stan_jax import presets
from stan_jax.model import parameters
from stan_jax.model.build import build
from stan_jax.model.fpn import FeaturePyramid
from stan_jax.model.layers import FrozenBatchNorm
from stan_jax.model.resnet import ResNet
from stan_jax.model.stan import BOX_CELLS, STAN, Thresholds
from stan_jax.ops import assign
from stan_jax.presets import Preset
from stan_jax.published import detectors, names
from stan_jax.published.openmmlab import ORIGINAL
from stan_jax.tracking import memory as queue
from stan_jax.tracking import rollout
from stan_jax.training import losses
from stan_jax.types import Pair

HALF_OPEN = np.array([0, 0, 1, 1], np.float32)
FRAME, CANVAS = (90, 160), (96, 160)
SIZE = jnp.array(FRAME)
BOXES_PX, SCORES, MATCHES, MASKS = 0.02, 1e-4, 1e-3, 1e-3
FEATURES, LOSSES, GRADIENTS = 2e-5, 1e-4, 1e-3


class Reference(NamedTuple):
    """One published system: its names, and where its numbers differ from ours."""

    keys: str  # file of its state dict
    legacy: bool  # boxes with inclusive ends, background in front
    thresholds: dict[str, Any]  # what the run had other than the preset
    kinds: dict[str, Any]


REFERENCES = {
    "mmdet": Reference(
        "mmdet3_masktrack_rcnn_r50_fpn",
        False,
        dict(detections=10, score_threshold=0.05),
        dict(rpn_class=0),  # its mistake, see `LossKinds`
    ),
    "orig": Reference("original_masktrackrcnn_r50_fpn", True, {}, {}),
}


def fill(model: nnx.Module, arrays: dict[str, np.ndarray]) -> Any:
    """An abstract model with these arrays by path."""
    structure, state = nnx.split(model)
    table = {path: jnp.asarray(x) for path, x in arrays.items()}
    return nnx.merge(structure, parameters.nested(table, nnx.to_pure_dict(state)))


@cache
def _model(folder: Folder, name: str, kind: str) -> tuple[STAN, Preset]:
    about = REFERENCES[name]
    scale = folder.manifest(f"{name}_masktrack_{kind}").get("scale", {})
    found = detectors.convert(about.keys, folder.weights(about.keys, scale))
    model = nnx.eval_shape(
        lambda: build(num_classes=found.classes, **found.settings, rngs=nnx.Rngs(0))
    )
    preset = presets.get(found.preset)
    preset: Preset = preset._replace(
        thresholds=preset.thresholds._replace(**about.thresholds),
        kinds=preset.kinds._replace(**about.kinds),
    )
    return fill(model, found.params | found.statistics), preset


def _canvas(bgr: np.ndarray) -> jnp.ndarray:
    frames = np.zeros((len(bgr), *CANVAS, 3), np.uint8)
    frames[:, : FRAME[0], : FRAME[1]] = bgr[..., ::-1]
    return jnp.asarray(frames)


def _cells(x: np.ndarray) -> np.ndarray:
    """[1 c h w] to [h w c]."""
    return x[0].transpose(1, 2, 0)


# -------------------------------------------------------------------------- features


class Pyramid(nnx.Module):
    """The backbone and its pyramid alone."""

    def __init__(self, caffe: bool, rngs: nnx.Rngs):
        self.backbone = ResNet(
            stages=(3, 4, 6, 3),
            bottleneck=True,
            caffe=caffe,
            norm=FrozenBatchNorm,
            rngs=rngs,
        )
        self.fpn = FeaturePyramid(
            self.backbone.channels, 256, strides=self.backbone.strides, rngs=rngs
        )

    def __call__(self, x):
        maps = self.backbone(x)
        return (*maps, *self.fpn(maps))


def _check_pyramid(style: str, folder: Folder) -> Iterator[Row]:
    a = folder.arrays(f"resnet50_fpn_{style}")
    weights = folder.weights(REFERENCES["orig"].keys, {})
    weights = {k: x for k, x in weights.items() if re.match(r"backbone\.|neck\.", k)}
    model = nnx.eval_shape(lambda: Pyramid(style == "caffe", nnx.Rngs(0)))
    state = parameters.by_path(nnx.to_pure_dict(nnx.state(model)))
    shapes = {path: x.shape for path, x in state.items()}
    model = fill(model, names.translate(style, weights, ORIGINAL, shapes).arrays)
    run = nnx.jit(lambda model, x: model(x))
    levels = ("c2", "c3", "c4", "c5", "p2", "p3", "p4", "p5", "p6")
    for image, prefix in (("img", ""), ("img_odd", "odd_")):
        maps = run(model, jnp.asarray(a[image].transpose(0, 2, 3, 1)))
        for level, got in zip(levels, maps, strict=True):
            if prefix + level in a:
                want = _cells(a[prefix + level])
                yield close(prefix + level, got[0], want, FEATURES)
    if "loss_for_grad" in a:
        yield from _pyramid_gradients(folder, model, a)


def _pyramid_gradients(folder: Folder, model: Pyramid, a) -> Iterator[Row]:
    """Of the sum over P2..P6 of the mean of the map times noise from the rule."""
    wanted = folder.manifest("resnet50_fpn_grads")
    image = jnp.asarray(a["img"].transpose(0, 2, 3, 1))
    structure, params, rest = nnx.split(model, nnx.Param, ...)

    def noise(i: int, shape: tuple[int, ...], seed: int):
        _, h, w, c = shape
        drawn = folder.rule.uniform(f"input:resnet/gw{i}", c * h * w, seed)
        return jnp.asarray(2 * drawn.reshape(1, c, h, w) - 1).transpose(0, 2, 3, 1)

    @jax.jit
    @partial(jax.value_and_grad)
    def run(params, noises):
        levels = nnx.merge(structure, params, rest)(image)[4:]
        return sum((x * n).mean() for x, n in zip(levels, noises, strict=True))

    shapes = [x.shape for x in jax.eval_shape(lambda: model(image))[4:]]
    # Whether the seed was handed to the rule for inputs as well, the loss tells.
    found = [
        run(params, [noise(i, shape, seed) for i, shape in enumerate(shapes)])
        for seed in {0, folder.seed}
    ]
    want = float(a["loss_for_grad"])
    loss, grads = min(found, key=lambda pair: abs(float(pair[0]) - want))
    yield close("loss_for_grad", loss, want, GRADIENTS)
    yield from _gradients(nnx.to_pure_dict(grads), wanted, ORIGINAL)


# ---------------------------------------------------------------------------- frames


def _look(model: STAN, frame, memory, thresholds: Thresholds) -> dict[str, Any]:
    """What the parts of the model say of a frame, before the memory is written."""
    sizes = SIZE[None]
    x1 = model.features(frame[None], sizes)
    proposals = model.proposals(x1, sizes, thresholds)
    classes, moves = model.box_head(model.pool(x1, proposals.boxes, BOX_CELLS))
    found = model.detect(x1, proposals, sizes, thresholds)
    found, proposals = jax.tree.map(lambda x: x[0], (found, proposals))
    product = found.embeds @ memory.embeds.T
    return dict(
        levels=[x[0] for x in x1],
        rpn=[jax.tree.map(lambda said: said[0], model.rpn(x)) for x in x1],
        proposals=proposals,
        classes=classes[0],
        moves=moves[0],
        found=found,
        logits=jnp.pad(product, ((0, 0), (1, 0))),
        scores=queue.score(memory, found, presets.MATCH_COEFF),
    )


def _check_frames(name: str, folder: Folder) -> Iterator[Row]:
    a = folder.arrays(f"{name}_masktrack_infer")
    model, preset = _model(folder, name, "infer")
    tracking = dict(
        thresholds=preset.thresholds,
        association=preset.association,
        first_frame="self",
    )
    frames = _canvas(a["frames_bgr"])
    structure, state = nnx.split(model)

    @jax.jit
    def look(state, frame, memory):
        return _look(nnx.merge(structure, state), frame, memory, preset.thresholds)

    @jax.jit
    def step(state, memory, frame):
        model = nnx.merge(structure, state)
        return rollout.step(model, memory, frame, SIZE, **tracking)

    @jax.jit
    def clip(state, memory, frames):
        model = nnx.merge(structure, state)
        seen = jnp.ones(len(frames), bool)
        return rollout.clip(model, memory, frames, SIZE, seen, **tracking)

    memory = start = rollout.start(model, CANVAS, slots=preset.slots)
    stepped = []
    for t, frame in enumerate(frames):
        said = look(state, frame, memory)
        yield from _parts(a, t, said, REFERENCES[name].legacy)
        memory, tracks = step(state, memory, frame)
        stepped.append(tracks)
    _, clipped = clip(state, start, frames)
    stepped = jax.tree.map(lambda *x: jnp.stack(x), *stepped)
    for engine, tracks in (("step", stepped), ("clip", clipped)):
        for t in range(len(frames)):
            one = jax.tree.map(lambda x, t=t: np.asarray(x[t]), tracks)
            compare = _tracks_orig if REFERENCES[name].legacy else _tracks_mmdet
            for row in compare(a, t, one, _pasted(one, preset.legacy_paste)):
                yield row._replace(name=f"{engine} {row.name}")


def _pasted(tracks, legacy: bool) -> np.ndarray:
    soft = paste(tracks.masks, tracks.boxes, FRAME, legacy=legacy)
    return soft > 0.5 if legacy else soft >= 0.5


def _parts(a, t: int, said: dict[str, Any], legacy: bool) -> Iterator[Row]:
    f, shift = f"f{t}_", HALF_OPEN if legacy else 0
    for i, got in enumerate(said["levels"]):
        if f"{f}p{i + 2}" in a:
            yield close(f"{f}p{i + 2}", got, _cells(a[f"{f}p{i + 2}"]), FEATURES)
    for i, (logit, delta) in enumerate(said["rpn"]):
        if f"{f}rpn_cls_{i}" in a:
            want = _cells(a[f"{f}rpn_cls_{i}"])
            yield close(f"{f}rpn_cls_{i}", logit.reshape(want.shape), want, FEATURES)
            want = _cells(a[f"{f}rpn_reg_{i}"])
            yield close(f"{f}rpn_reg_{i}", delta.reshape(want.shape), want, FEATURES)
    proposals = said["proposals"]
    want = a[f"{f}proposals"]
    scores = want[:, 4] if legacy else a[f"{f}proposal_scores"]
    valid = np.asarray(proposals.valid)
    yield same(f"{f}proposals, how many", valid.sum(), len(want))
    got_boxes = np.asarray(proposals.boxes)[valid] - shift
    got_scores = np.asarray(proposals.scores)[valid]
    yield within(f"{f}proposals, scores in order", got_scores, scores, SCORES)
    yield _up_to_ties(f"{f}proposals, px", got_boxes, got_scores, want[:, :4], scores)
    if f"{f}cls_score" in a and len(want) == valid.sum():
        logits = np.asarray(said["classes"])[valid]
        moves = np.asarray(said["moves"])[valid].reshape(len(want), -1)
        if legacy:
            logits, moves = np.roll(logits, 1, 1), np.roll(moves, 4, 1)
        order = _nearest(got_boxes, got_scores, want[:, :4], scores)
        yield close(f"{f}cls_score", logits[order], a[f"{f}cls_score"], SCORES)
        yield close(f"{f}bbox_pred", moves[order], a[f"{f}bbox_pred"], SCORES)
    if f"{f}mask_logits_fp16" in a:
        want = 1 / (1 + np.exp(-a[f"{f}mask_logits_fp16"].astype(np.float64)))
        yield within(
            f"{f}mask_logits (as probability)", said["found"].masks, want, 2e-3
        )
    logits, scores = (
        ("match_score_", "comp_score_") if legacy else ("sim_logits_", "match_scores_")
    )
    if f"{scores}{t}" in a:
        want = a[f"{logits}{t}"]
        got = np.asarray(said["logits"])[:, : want.shape[1]]
        yield within(f"{logits}{t}", got, want, MATCHES)
        got = np.asarray(said["scores"])[:, : want.shape[1]]
        yield within(f"{scores}{t}", got, a[f"{scores}{t}"], MATCHES)


def _nearest(boxes, scores, wanted_boxes, wanted_scores) -> np.ndarray:
    """For each wanted row the closest one of ours with its score."""
    tied = np.abs(scores[None] - wanted_scores[:, None]) <= SCORES
    apart = np.abs(boxes[None] - wanted_boxes[:, None]).max(-1)
    return np.where(tied, apart, np.inf).argmin(1)


def _up_to_ties(name, boxes, scores, wanted_boxes, wanted_scores) -> Row:
    order = _nearest(boxes, scores, wanted_boxes, wanted_scores)
    if len(np.unique(order)) < len(order):  # two wanted rows, one of ours
        return Row(f"{name} (not one to one)", 0, 0, np.inf, BOXES_PX)
    return within(name, boxes[order], wanted_boxes, BOXES_PX)


def _tracks_mmdet(a, t: int, got, masks) -> Iterator[Row]:
    f = f"f{t}_"
    yield same(f"{f}det_labels", got.labels, a[f"{f}det_labels"])
    yield within(f"{f}det_boxes, px", got.boxes, a[f"{f}det_boxes"], BOXES_PX)
    yield within(f"{f}det_scores", got.scores, a[f"{f}det_scores"], SCORES)
    on = got.valid
    yield same(f"{f}track_ids", got.ids[on], a[f"{f}track_ids"])
    yield same(f"{f}track_labels", got.labels[on], a[f"{f}track_labels"])
    yield within(f"{f}track_boxes, px", got.boxes[on], a[f"{f}track_boxes"], BOXES_PX)
    yield within(f"{f}track_scores", got.scores[on], a[f"{f}track_scores"], SCORES)
    yield _iou(f"{f}masks", masks[on], a[f"{f}masks_packed"])


def _tracks_orig(a, t: int, got, masks) -> Iterator[Row]:
    f = f"f{t}_"
    yield same(f"{f}labels", got.labels, a[f"{f}labels"])
    yield within(f"{f}dets, px", got.boxes - HALF_OPEN, a[f"{f}dets"][:, :4], BOXES_PX)
    yield within(f"{f}dets, scores", got.scores, a[f"{f}dets"][:, 4], SCORES)
    yield same(f"{f}ids", np.where(got.valid, got.ids, -1), a[f"{f}ids"])
    rows = {int(got.ids[n]): n for n in np.flatnonzero(got.valid)}
    wanted = a[f"{f}mask_ids"].tolist()
    yield same(f"{f}mask_ids", sorted(rows), sorted(wanted))
    if sorted(rows) == sorted(wanted):
        chosen = masks[[rows[i] for i in wanted]]
        yield _iou(f"{f}masks", chosen, a[f"{f}masks_packed"])


def _iou(name: str, got: np.ndarray, packed: np.ndarray) -> Row:
    want = np.unpackbits(packed, axis=-1)[..., : FRAME[1]].astype(bool)
    if got.shape != want.shape:
        return Row(f"{name} {got.shape} {want.shape}", 0, 0, np.inf, MASKS)
    both, either = (x.sum((1, 2)) for x in (got & want, got | want))
    worst = 1 - (both / np.maximum(either, 1) + (either == 0)).min(initial=1)
    return Row(f"{name}, 1 - IoU", got.sum(), want.sum(), float(worst), MASKS)


# -------------------------------------------------------------------------- training


def even_stride(key, positive, negative, *, num: int, max_positive: int):
    """`assign.sample` without chance: rows floor(i len / num) of those to draw from."""
    last = positive.shape[0] - 1

    def pick(among, most):
        total = among.sum()
        rows = jnp.argsort(~among, stable=True)
        i = jnp.arange(num)
        at = jnp.where(total <= most, i, i * total // jnp.maximum(most, 1))
        return rows[jnp.clip(at, 0, last)], jnp.minimum(total, most)

    pos_rows, num_pos = pick(positive, max_positive)
    neg_rows, num_neg = pick(negative, num - num_pos)
    row = jnp.arange(num)
    valid = row < num_pos + num_neg
    index = jnp.where(row < num_pos, pos_rows, jnp.roll(neg_rows, num_pos))
    return assign.Sample(jnp.where(valid, index, 0), row < num_pos, valid)


@contextmanager
def _without_chance():
    with mock.patch.object(assign, "sample", even_stride):
        yield


def _pair(a: dict[str, np.ndarray], shift) -> Pair:
    """The key frame and its reference as one pair; row m is one object in both."""
    ids = a["key_ids"].tolist()
    ids += [i for i in a["ref_ids"].tolist() if i not in ids]
    m, num = len(ids), len(a["key_ids"])
    boxes, present = np.zeros((2, m, 4), np.float32), np.zeros((2, m), bool)
    for frame, side in ((0, "ref"), (1, "key")):
        for i, box in zip(a[f"{side}_ids"].tolist(), a[f"{side}_boxes"], strict=True):
            boxes[frame, ids.index(i)] = box + shift
            present[frame, ids.index(i)] = True
    labels = np.zeros(m, np.int32)
    labels[:num] = a["key_labels"]
    masks = np.zeros((m, *CANVAS), bool)
    bits = np.unpackbits(a["key_masks_packed"], axis=-1)[..., : FRAME[1]]
    masks[:num, : FRAME[0], : FRAME[1]] = bits
    key, reference = a["frames_bgr"]
    frames = _canvas(np.stack([reference, key]))
    fields = (frames, SIZE, boxes, present, labels, masks, np.int32(1))
    return Pair(*map(jnp.asarray, fields))


LOSS_NAMES = {
    "rpn_score": ("loss_rpn_cls",),
    "rpn_box": ("loss_rpn_bbox", "loss_rpn_reg"),
    "class": ("loss_cls",),
    "box": ("loss_bbox", "loss_reg"),
    "mask": ("loss_mask",),
    "track": ("loss_match",),
    "accuracy_track": ("match_accuracy", "match_acc"),
}


def _check_training(name: str, folder: Folder) -> Iterator[Row]:
    a = folder.arrays(f"{name}_masktrack_train")
    inputs = folder.arrays("mmdet_masktrack_train")  # of both
    wanted = folder.json(f"{name}_masktrack_train_grads")
    about = REFERENCES[name]
    model, preset = _model(folder, name, "train")
    sampling = preset.sampling
    pair = _pair(inputs, HALF_OPEN if about.legacy else 0)
    structure, values = parameters.split(model)
    key = jax.random.key(0)

    def loss(params):
        model = parameters.merge(structure, values._replace(params=params))
        pairs = jax.tree.map(lambda x: x[None], pair)
        terms = losses.terms(
            model,
            pairs,
            key[None],
            thresholds=preset.thresholds,
            sampling=sampling,
            kinds=preset.kinds,
        )
        ones = {k: 1.0 for k in terms if not k.startswith("accuracy")}
        return losses.total(terms, ones)

    def drawn(params):
        model = parameters.merge(structure, values._replace(params=params))
        sizes = pair.size_hw[None]
        x1 = model.features(pair.frames[1:], sizes)
        proposals = model.proposals(x1, sizes, preset.thresholds)
        proposals = jax.tree.map(lambda x: x[0], proposals)
        grid = jnp.concatenate(model.anchors(x1))
        multiple = model.backbone.multiple
        anchors, objects = losses.sample_anchors(grid, pair, key, sampling, multiple)
        rois = losses.sample_rois(proposals, pair, key, sampling)
        return anchors, grid[anchors.index], objects, rois

    with _without_chance():
        value = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (total, means), grads = value(values.params)
        anchors, anchor_boxes, objects, rois = jax.jit(drawn)(values.params)
    for ours, theirs in LOSS_NAMES.items():
        for key_ in theirs:
            if f"loss__{key_}" in a:
                want = a[f"loss__{key_}"].sum() / (100 if "acc" in key_ else 1)
                yield close(key_, means[ours], want, LOSSES)
    yield close("loss_total", total, a["loss_total"], LOSSES)
    if "rpn_pos_inds" in a:
        yield from _sampled(a, anchors, anchor_boxes, objects, rois)
    family = "original" if name == "orig" else "mmdet"
    yield from _gradients(grads, wanted, detectors.FAMILIES[family].renames)


def _sampled(a, anchors, anchor_boxes, objects, rois) -> Iterator[Row]:
    for role in ("pos", "neg"):
        on = np.asarray(anchors.positive if role == "pos" else ~anchors.positive)
        on = on & np.asarray(anchors.valid)
        yield same(f"rpn_{role}_inds", anchors.index[on], a[f"rpn_{role}_inds"])
        got = anchor_boxes[on]
        yield within(f"rpn_{role}_boxes, px", got, a[f"rpn_{role}_boxes"], BOXES_PX)
        if role == "pos":
            yield same("rpn_pos_gt", objects[on], a["rpn_pos_gt"])
        on = np.asarray(rois.positive if role == "pos" else ~rois.positive)
        on = on & np.asarray(rois.valid)
        for stage in ("rcnn", "track"):  # the same RoIs teach both here
            got, want = rois.boxes[on], a[f"{stage}_{role}_boxes"]
            yield within(f"{stage}_{role}_boxes, px", got, want, BOXES_PX)
            if role == "pos":
                yield same(f"{stage}_pos_gt", rois.object[on], a[f"{stage}_pos_gt"])


def _gradients(grads, wanted: dict[str, Any], renames) -> Iterator[Row]:
    ours = {path: np.asarray(x) for path, x in parameters.by_path(grads).items()}
    theirs, unnamed = names.back(ours, renames)
    yield same("gradients without a name there", len(unnamed), 0)
    worst = 0.0
    for key, want in wanted.items():
        if want is None:
            continue  # frozen there
        got, norm = theirs[key].astype(np.float64), want["norm"]
        yield close(f"grad {key}", np.linalg.norm(got), norm, GRADIENTS)
        apart = np.abs(got.ravel()[:4] - want["first"]).max()
        worst = max(worst, float(apart) / max(norm, 1e-30))
    # A sum that a ReLU cuts at another rounding is off in single entries.
    yield Row("grads, first entries, of the norm", 0, 0, worst, 10 * GRADIENTS)


CHECKS = {
    "resnet50_fpn_pytorch": partial(_check_pyramid, "pytorch"),
    "resnet50_fpn_caffe": partial(_check_pyramid, "caffe"),
    "mmdet_masktrack_infer": partial(_check_frames, "mmdet"),
    "mmdet_masktrack_train": partial(_check_training, "mmdet"),
    "orig_masktrack_infer": partial(_check_frames, "orig"),
    "orig_masktrack_train": partial(_check_training, "orig"),
}
