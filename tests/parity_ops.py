"""The checks of `parity.py` for single operations."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from parity import Folder, Row, close, same, within
from pasted import paste

from stan_jax import presets
from stan_jax.model.heads import MaskHead
from stan_jax.model.stan import BOX_STDS, MEAN, STD, normalise
from stan_jax.ops import anchors, boxes, convolution, masks, nms, roi_align
from stan_jax.tracking import memory as queue
from stan_jax.types import Detections

HALF_OPEN = np.array([[0, 0, 1, 1]], np.float32)  # from boxes whose ends are inclusive
STRIDES = (4, 8, 16, 32, 64)
FRAME = jnp.array([360, 640])


def _last(x: np.ndarray) -> jnp.ndarray:
    return jnp.asarray(x.transpose(0, 2, 3, 1))


def _first(x) -> np.ndarray:
    return np.asarray(x).transpose(0, 3, 1, 2)


def _bits(packed: np.ndarray, width: int) -> np.ndarray:
    return np.unpackbits(packed, axis=-1)[..., :width].astype(bool)


def _pool(features, rois, scale, out, **choices):
    """RoIAlign of one level; `rois` begin with the number of their image."""
    found = []
    for image in range(len(features)):
        got = roi_align.roi_align(
            (features[image : image + 1],),
            rois[None, :, 1:],
            strides=(round(1 / scale),),
            out=out,
            level=jnp.zeros((1, len(rois)), jnp.int32),
            reach=12.0,  # the widest box is 9 times as wide as the frame
            **choices,
        )
        found.append(got[0])
    image = rois[:, 0].astype(jnp.int32)[None, :, None, None, None]
    picked = jnp.take_along_axis(jnp.stack(found), image, axis=0)[0]
    return picked.transpose(0, 3, 1, 2)


def check_roi_align(folder: Folder) -> Iterator[Row]:
    a = folder.arrays("roi_align")
    features, scale = _last(a["feat"]), float(a["spatial_scale"])
    rois = jnp.asarray(a["rois"])
    for aligned in (0, 1):
        for sampling in (0, 1, 2):
            name = f"aligned{aligned}_sr{sampling}"
            choices = dict(aligned=bool(aligned), sampling=sampling)
            for out in ((7, 7), (14, 14), (3, 5)):
                key = f"out_{name}_{out[0]}x{out[1]}"
                if key in a:
                    pool = jax.jit(partial(_pool, scale=scale, out=out, **choices))
                    yield close(key, pool(features, rois), a[key])

            def loss(x, rois, choices=choices):
                pooled = _pool(x, rois, scale, (7, 7), **choices)
                return (pooled * a["grad_out_7x7"]).sum()

            got = jax.jit(jax.grad(loss))(features, rois)
            yield close(f"grad_feat_{name}", _first(got), a[f"grad_feat_{name}"])


def check_roi_align_multilevel(folder: Folder) -> Iterator[Row]:
    a = folder.arrays("roi_align_multilevel")
    levels = tuple(_last(a[f"feat{i}"]) for i in range(4))
    some = a["torchvision_valid"]
    level = roi_align.level_of(jnp.asarray(a["boxes"]))
    yield same("mmdet_level", level, a["mmdet_level"])
    yield same("torchvision_level", level[some], a["torchvision_level"])

    def pooled(rois, **choices):
        got = roi_align.roi_align(
            levels, jnp.asarray(rois)[None], strides=STRIDES[:4], out=7, **choices
        )
        return _first(got[0])

    for key, rois, choices in (
        ("mmdet_out_7x7_sr0_aligned", a["boxes"], dict(sampling=0)),
        ("torchvision_out_7x7_sr2_unaligned", a["boxes"][some], dict(aligned=False)),
    ):
        yield close(key, pooled(rois, **choices), a[key])


def _kept(rows, scores, valid, threshold, groups=None) -> np.ndarray:
    """Kept rows by falling score, the first of equal ones first."""
    keep = nms.nms(
        jnp.asarray(rows),
        jnp.asarray(scores),
        jnp.asarray(valid),
        threshold=threshold,
        groups=groups,
    )
    order = np.argsort(-np.asarray(scores), kind="stable")
    return order[np.asarray(keep)[order]]


def _as_set(rows: np.ndarray, kept: np.ndarray) -> np.ndarray:
    return np.array(sorted(map(tuple, rows[kept].tolist())))


def check_nms(folder: Folder) -> Iterator[Row]:
    a = folder.arrays("nms")
    for key in a:
        case, _, rest = key.partition("__")
        if "_keep_" not in rest:
            continue
        rows, scores = a[f"{case}__boxes"], a[f"{case}__scores"]
        threshold = float(rest.rsplit("_", 1)[1])
        valid, most = np.ones(len(scores), bool), None
        if rest.startswith("mmcv_thr0.3_max20"):
            valid, most = scores > 0.3, 20
        if "offset1" in rest:
            rows = rows + HALF_OPEN
        if rest.startswith("torchvision") and _at_threshold(rows, threshold):
            continue  # it compares float32 overlaps with a float64 bar; we as mmcv
        got, want = _kept(rows, scores, valid, threshold)[:most], a[key]
        if rest.startswith("mmcv") and len(np.unique(scores)) < len(scores):
            # The order among equal scores is not set there, and decides who is kept:
            # what must hold is that the choice is a greedy one.
            yield _greedy(key, rows, scores, valid, want, threshold, most)
        else:
            yield same(key, got, want)


def _at_threshold(rows: np.ndarray, threshold: float) -> bool:
    overlaps = np.asarray(boxes.iou(jnp.asarray(rows), jnp.asarray(rows)))
    return bool((overlaps == np.float32(threshold)).any())


def _greedy(key, rows, scores, valid, want, threshold, most) -> Row:
    """Ours, with the reference's choice of order among equal scores."""
    prefer = np.zeros(len(scores))
    prefer[want] = 1
    order = np.lexsort((-prefer, -scores))
    got = order[_kept(rows[order], scores[order], valid[order], threshold)][:most]
    return same(f"{key} (set)", _as_set(rows, got), _as_set(rows, want))


def check_batched_nms(folder: Folder) -> Iterator[Row]:
    a = folder.arrays("batched_nms")
    for key in a:
        case, _, rest = key.partition("__")
        if not rest.endswith("keep") or case == "multiclass":
            continue
        rows, scores = a[f"{case}__boxes"], a[f"{case}__scores"]
        groups = jnp.asarray(a[f"{case}__labels"], jnp.int32)
        agnostic = "agnostic" in rest
        valid = np.ones(len(scores), bool)
        got = _kept(rows, scores, valid, 0.5, None if agnostic else groups)
        if rest.startswith("mmcv") and len(np.unique(scores)) < len(scores):
            yield (
                Row(f"{key}, kept", len(got), len(a[key]), 0, 0)
                if agnostic
                else same(f"{key} (set)", _as_set(rows, got), _as_set(rows, a[key]))
            )
        else:
            yield same(key, got, a[key])
    rows = a["multiclass__boxes"].reshape(-1, 4)
    probs = a["multiclass__scores_softmax_bg_last"][:, :-1]
    scores, labels = probs.reshape(-1), np.tile(np.arange(5), len(probs))
    groups = jnp.asarray(labels, jnp.int32)
    best = _kept(rows, scores, scores > 0.05, 0.5, groups)[:30]
    dets = np.hstack([rows[best], scores[best, None]])
    yield close("multiclass__dets", dets, a["multiclass__dets"])
    yield same("multiclass__labels", labels[best], a["multiclass__labels"])
    yield same("multiclass__keep", best, a["multiclass__keep"])


def check_anchors(folder: Folder) -> Iterator[Row]:
    a = folder.arrays("anchors")
    for i, stride in enumerate(STRIDES):
        hw = tuple(int(n) for n in a["featmap_sizes"][i])
        grid = anchors.grid(hw, stride)
        yield close(f"mmdet_base_{i}", grid[:3], a[f"mmdet_base_{i}"])
        yield close(f"mmdet_grid_{i}", grid, a[f"mmdet_grid_{i}"])
        inside = np.asarray(anchors.inside(grid, FRAME))
        want = _bits(a[f"mmdet_valid_{i}"], len(inside))
        yield same(f"mmdet_valid_{i}", inside, want)
        rounded = anchors.grid(hw, stride, kind="rounded")
        yield close(f"torchvision_base_{i}", rounded[:3], a[f"torchvision_base_{i}"])
    rounded = np.concatenate(
        [
            anchors.grid(tuple(map(int, a["featmap_sizes"][i])), s, kind="rounded")
            for i, s in enumerate(STRIDES)
        ][2:]
    )
    yield close("torchvision_grid", rounded, a["torchvision_grid_levels12_34"])


def check_box_coder(folder: Folder) -> Iterator[Row]:
    a = folder.arrays("box_coder")
    priors, truth, deltas = (jnp.asarray(a[k]) for k in ("priors", "gt", "deltas"))
    for head, stds in (("rpn", (1.0,) * 4), ("rcnn", BOX_STDS)):
        encoded = boxes.encode(truth, priors, stds)
        decoded = boxes.decode(deltas, priors, stds)
        clipped = boxes.clip(decoded, FRAME)
        yield close(f"mmdet_{head}_encode", encoded, a[f"mmdet_{head}_encode"])
        yield close(
            f"mmdet_{head}_decode_noclip", decoded, a[f"mmdet_{head}_decode_noclip"]
        )
        key = f"mmdet_{head}_decode_clip360x640"
        yield close(key, clipped, a[key])
        threefold = jnp.asarray(a["deltas_3class"]).reshape(-1, 3, 4)
        each = jnp.repeat(priors[:, None], 3, axis=1)
        got = boxes.clip(boxes.decode(threefold, each, stds), FRAME)
        key = f"mmdet_{head}_decode_3class"
        yield close(key, got.reshape(-1, 12), a[key])
        yield close(
            f"torchvision_{head}_encode", encoded, a[f"torchvision_{head}_encode"]
        )
        # It clamps large deltas only, we small ones as well.
        some = np.asarray(deltas[:, 2:] * np.array([stds[2:]]) > -4.1).all(1)
        key = f"torchvision_{head}_decode"
        yield close(f"{key} (not tiny)", decoded[some], a[key][some])
    yield close("mmdet_iou", boxes.iou(priors, truth), a["mmdet_iou"])


def check_mask_paste(folder: Folder) -> Iterator[Row]:
    a = folder.arrays("mask_paste")
    probs = jax.nn.sigmoid(jnp.asarray(a["mask_logits"]))
    got = paste(probs, a["boxes"], (360, 640))
    yield within("mmdet_soft (fp16)", got, a["mmdet_soft_fp16"], 5e-4)
    want = _bits(a["mmdet_bool_packed"], 640)
    clear = np.abs(got - 0.5) > 2e-6  # rounding decides the rest
    yield same("mmdet_bool", (got >= 0.5)[clear], want[clear])


def check_image_and_misc(folder: Folder) -> Iterator[Row]:
    a = folder.arrays("image_and_misc")
    rgb = jnp.asarray(a["bgr"][None, ..., ::-1])
    got = normalise(rgb, jnp.array([rgb.shape[1:3]]))[0]
    yield close("normalized_rgb", got, a["normalized_rgb"])
    assert len(MEAN) == len(STD) == 3
    got = convolution.max_pool(_last(a["interp_in"]))
    yield close("maxpool3s2p1", _first(got), a["maxpool3s2p1"])
    # The upsampling layer of the mask head alone.
    from flax import nnx

    from stan_jax.published.names import DECONV

    channels, out = a["deconv_w"].shape[:2]
    head = MaskHead(channels, out, channels=out, depth=0, rngs=nnx.Rngs(0))
    head.upsample.kernel[...] = jnp.asarray(DECONV.ours(a["deconv_w"]))
    for sign in (1.0, -1.0):  # behind a ReLU only one half shows
        head.logits.kernel[...] = jnp.eye(out)
        head.logits.bias = nnx.Param(jnp.zeros(out))
        got = head(sign * _last(a["deconv_in"]))
        want = np.maximum(sign * a["deconv2s2"], 0)
        yield close(f"deconv2s2, {sign:+.0f}", _first(got), want)


def check_orig_ops(folder: Folder) -> Iterator[Row]:
    a = folder.arrays("orig_ops")
    rois = a["rois"][a["roi_rows"]].copy()
    rois[:, 3:] += 1
    features, scale = _last(a["roi_feat"]), 0.25
    for sampling in (0, 2):
        choices = dict(aligned=False, min_size=0.0, sampling=sampling)
        got = _pool(features, jnp.asarray(rois), scale, (7, 7), **choices)
        yield close(f"roialign_out_s{sampling}", got, a[f"roialign_out_s{sampling}"])
    for i, stride in enumerate(STRIDES):
        # Of the finest level there are 4 x 5 cells only.
        hw = (384 // stride, 640 // stride) if i else (4, 5)
        got = anchors.grid(hw, stride, kind="legacy") - HALF_OPEN
        yield close(f"anchor_base_{i}", got[:3], a[f"anchor_base_{i}"])
        yield close(f"anchor_grid_{i}", got, a[f"anchor_grid_{i}"])
    priors, truth = (jnp.asarray(a[k] + HALF_OPEN) for k in ("priors", "gt"))
    yield close("iou_plus1", boxes.iou(priors, truth), a["iou_plus1"])
    for head, stds in (("rpn", (1.0,) * 4), ("rcnn", BOX_STDS)):
        yield close(
            f"encode_{head}", boxes.encode(truth, priors, stds), a[f"encode_{head}"]
        )
        decoded = boxes.decode(jnp.asarray(a["deltas"]), priors, stds)
        clipped = boxes.clip(decoded, FRAME, minimum=1.0)
        for kind, got in (("noclip", decoded), ("clip360x640", clipped)):
            key = f"decode_{head}_{kind}"
            yield close(key, got - HALF_OPEN, a[key])
    half_open = jnp.asarray(a["ml_boxes"] + HALF_OPEN)
    yield same("ml_level", roi_align.level_of(half_open), a["ml_level"])
    levels = folder.arrays("roi_align_multilevel")
    got = roi_align.roi_align(
        tuple(_last(levels[f"feat{i}"]) for i in range(4)),
        half_open[None],
        strides=STRIDES[:4],
        out=7,
        aligned=False,
        min_size=0.0,
    )
    yield close("ml_out_7x7_s2", _first(got[0]), a["ml_out_7x7_s2"])
    got = masks.crop(
        jnp.asarray(a["mt_gt"] > 0),
        jnp.asarray(a["mt_props"] + HALF_OPEN),
        jnp.asarray(a["mt_inds"]),
        legacy=True,
    )
    yield same("mt_target", got, a["mt_target"])
    logits = folder.arrays("mask_paste")["mask_logits"][a["paste_rows"]]
    probs = jax.nn.sigmoid(jnp.asarray(logits))
    half_open = (a["paste_boxes"] + HALF_OPEN).astype(np.float32)
    got = paste(probs, half_open, (360, 640), legacy=True)
    want = _bits(a["paste_mask_packed"], 640)
    clear = np.abs(got - 0.5) > 2e-6
    yield same("paste_mask", (got > 0.5)[clear], want[clear])
    yield from _track_head(folder, a)


def _track_head(folder: Folder, a: dict[str, np.ndarray]) -> Iterator[Row]:
    from flax import nnx

    from stan_jax.model.heads import TrackHead
    from stan_jax.published.names import DENSE, ROI

    channels = a["th_x"].shape[1]
    head = TrackHead(49 * channels, channels=32, rngs=nnx.Rngs(0))
    shapes = {
        "track_head.fcs.0.weight": (32, 49 * channels),
        "track_head.fcs.0.bias": (32,),
        "track_head.fcs.1.weight": (32, 32),
        "track_head.fcs.1.bias": (32,),
    }
    w = {
        k: folder.weight(k, s, shapes, {r"fcs\.1\.weight$": 0.3})
        for k, s in shapes.items()
    }
    head.fc1.kernel[...] = jnp.asarray(ROI.ours(w["track_head.fcs.0.weight"]))
    head.fc2.kernel[...] = jnp.asarray(DENSE.ours(w["track_head.fcs.1.weight"]))
    head.fc1.bias = nnx.Param(jnp.asarray(w["track_head.fcs.0.bias"]))
    head.fc2.bias = nnx.Param(jnp.asarray(w["track_head.fcs.1.bias"]))
    now, known = (head(_last(a[k])[None])[0] for k in ("th_x", "th_ref"))
    logits = np.pad(np.asarray(now @ known.T), ((0, 0), (1, 0)))
    yield close("th_match_score", logits, a["th_match_score"])
    yield close("th_logprob", jax.nn.log_softmax(logits), a["th_logprob"])
    # Overlaps and labels are given there; here they come from boxes and labels.
    slots = len(known)
    memory = queue.empty((), slots=slots, embed_channels=32)._replace(
        embeds=known, live=jnp.ones(slots, bool), labels=jnp.full(slots, 9)
    )
    found = Detections(
        boxes=jnp.zeros((len(now), 4)),
        labels=jnp.zeros(len(now), jnp.int32),
        scores=jnp.asarray(a["th_det_scores"][:, 0]),
        valid=jnp.ones(len(now), bool),
        masks=jnp.zeros((len(now), 1, 1)),
        embeds=now,
    )
    got = np.array(queue.score(memory, found, presets.MATCH_COEFF))
    got[:, 1:] += 2 * a["th_iou"] + 10 * a["th_label_delta"]
    yield close("th_comp", got, a["th_comp"])


CHECKS = {
    name.removeprefix("check_"): check
    for name, check in list(globals().items())
    if name.startswith("check_")
}
