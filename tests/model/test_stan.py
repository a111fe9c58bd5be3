from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model
from flax import nnx

from stan_jax.model import stan
from stan_jax.model.build import architecture
from stan_jax.types import Proposals

FULL: dict[str, Any] = tiny_model.SETTINGS | dict(
    num_classes=40,
    backbone="resnet50",
    backbone_args=dict(frozen_stages=1),
    norm="frozen_batch",
    channels=256,
    anchor_scale=8.0,
    sta=None,
    box_channels=1024,
    mask_channels=256,
    mask_depth=4,
    embed_channels=1024,
    background_columns=True,
)
THRESHOLDS = tiny_model.THRESHOLDS
SIZES = jnp.array([[64, 96], [50, 75]])  # of the two frames of a batch


@pytest.fixture(scope="module")
def model():
    return tiny_model.build()


@jax.jit
def run(model, previous, frames, sizes):
    """All that the model says of a batch of frames."""
    x0 = [x[:, None] for x in model.attended(model.features(previous, sizes))]
    levels = model.attend(x0, model.features(frames, sizes), sizes)
    logits, deltas = zip(*(model.rpn(x) for x in levels), strict=True)
    anchors = model.anchors(levels)
    proposals = model.propose(logits, deltas, anchors, sizes, THRESHOLDS)
    return levels, proposals, model.detect(levels, proposals, sizes, THRESHOLDS)


def _frames(seed=0):
    """Two frames each of two videos: previous, current."""
    videos = np.stack([tiny_model.moving(seed + i, 2) for i in range(2)])
    return tuple(jnp.asarray(videos.swapaxes(0, 1)))


def _same(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


# ---------------------------------------------------------------- frames and features


def test_normalise_equals_torchvision_and_blanks_the_padding(golden):
    arrays = np.load(golden / "parity/image_and_misc.npz")
    frame = jnp.asarray(arrays["bgr"][None, :, :, ::-1])
    got = stan.normalise(frame, jnp.array([[90, 160]]))
    np.testing.assert_allclose(got[0], arrays["normalized_rgb"], atol=1e-5)
    got = stan.normalise(frame, jnp.array([[60, 101]]))
    want = np.zeros((90, 160, 3))
    want[:60, :101] = arrays["normalized_rgb"][:60, :101]
    np.testing.assert_allclose(got[0], want, atol=1e-5)


def test_pixels_of_the_padding_change_nothing(model):
    previous, frames = _frames()
    inside = (np.arange(64)[:, None] < 50) & (np.arange(96) < 75)
    noise = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    noisy = [
        x.at[1].set(jnp.where(inside[:, :, None], x[1], n))
        for x, n in zip((previous, frames), noise, strict=True)
    ]
    assert (noisy[1] != frames).any()
    want = run(model, previous, frames, SIZES)
    assert want[2].valid[1].sum() >= 3
    _same(run(model, *noisy, SIZES), want)


def test_gamma_0_equals_the_baseline_bit_for_bit():
    model = tiny_model.build()
    plain = tiny_model.without_attention(model)
    with_gamma = run(model, *_frames(), SIZES)
    model.sta.gamma[...] = jnp.zeros(4)
    got, want = (run(m, *_frames(), SIZES) for m in (model, plain))
    _same(got, want)
    assert want[2].valid.sum() >= 6
    assert (with_gamma[2].scores != want[2].scores).any()


def test_attention_reads_and_writes_its_own_levels_only():
    model = tiny_model.build(sta=dict(key_channels=4, strides=(32, 8)))
    rng = np.random.default_rng(0)
    shapes = ((16, 24), (8, 12), (4, 6), (2, 3), (1, 2))
    x0, x1 = (
        tuple(jnp.asarray(rng.normal(size=(1, *hw, 16)), jnp.float32) for hw in shapes)
        for _ in range(2)
    )
    kept = model.attended(x0)
    assert [x.shape[1:3] for x in kept] == [shapes[3], shapes[1]]
    got = model.attend([x[:, None] for x in kept], x1, SIZES[:1])
    assert [bool((a != b).any()) for a, b in zip(got, x1, strict=True)] == [
        False,
        True,
        False,
        True,
        False,
    ]


@pytest.mark.parametrize(("past", "frames"), [(3, 2), (2, 2), (1, 3), (3, 3)])
@pytest.mark.parametrize("stored", ["raw", "attended"])
def test_the_last_of_several_frames_is_attended_as_in_a_walk(stored, past, frames):
    sta = dict(key_channels=4, strides=(8, 32), value_source="previous")
    model = tiny_model.build(sta=sta | dict(frames=frames, stored=stored))
    rng = np.random.default_rng(0)
    shapes = ((16, 24), (8, 12), (4, 6), (2, 3), (1, 2))
    x = [jnp.asarray(rng.normal(size=(1, 4, *hw, 16)), jnp.float32) for hw in shapes]
    video = [level[:, -1 - past :] for level in x]  # what of the frames is of it
    walked, _ = model.walk(model.empty_past(x), video, SIZES[:1], jnp.zeros(1, int))
    got = model.attend_last(x, SIZES[:1], jnp.array([past]))
    for a, b in zip(got, walked, strict=True):
        np.testing.assert_allclose(a, b[:, -1], atol=1e-5)


def test_a_batch_is_its_frames_one_by_one(model):
    previous, frames = _frames(4)
    _, proposals, found = run(model, previous, frames, SIZES)
    for i in range(2):
        one = slice(i, i + 1)
        _, alone, single = run(model, previous[one], frames[one], SIZES[one])
        for got, want in ((proposals, alone), (found, single)):
            for name, x in got._asdict().items():
                np.testing.assert_allclose(
                    x[i], getattr(want, name)[0], rtol=1e-4, atol=1e-4, err_msg=name
                )


# ------------------------------------------------------------------------- proposals


def _decode(anchor, delta, stds=(1, 1, 1, 1)):
    (x1, y1, x2, y2), (dx, dy, dw, dh) = anchor, np.multiply(delta, stds)
    limit = np.log(1000 / 16)
    w, h = x2 - x1, y2 - y1
    x, y = (x1 + x2) / 2 + dx * w, (y1 + y2) / 2 + dy * h
    w, h = (
        w * np.exp(np.clip(dw, -limit, limit)),
        h * np.exp(np.clip(dh, -limit, limit)),
    )
    return np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])


def _clip(box, size_hw):
    height, width = np.asarray(size_hw)
    return np.clip(box, 0, [width, height, width, height])


def _iou(a, b):
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    inter = np.prod(np.maximum(sides, 0))
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inter
    return inter / union if union > 0 else 0.0


def _greedy(rows, threshold):
    """Rows (score, box, group, ...) that survive, best first."""
    kept = []
    for row in sorted(rows, key=lambda r: -r[0]):
        if all(row[2] != k[2] or _iou(row[1], k[1]) <= threshold for k in kept):
            kept.append(row)
    return kept


def _propose_loop(logits, deltas, anchors, size_hw, thresholds):
    rows = []
    for level, (logit, delta, anchor) in enumerate(
        zip(logits, deltas, anchors, strict=True)
    ):
        for a in np.argsort(-logit)[: thresholds.pre_nms]:
            box = _clip(_decode(anchor[a], delta[a]), size_hw)
            if np.prod(box[2:] - box[:2]) > 0:
                rows.append((1 / (1 + np.exp(-logit[a])), box, level))
    return _greedy(rows, thresholds.rpn_nms)[: thresholds.proposals]


def _said(seed, loud=1.0):
    """What an RPN might say of two frames of 64 x 96."""
    rng = np.random.default_rng(seed)
    cells = [3 * (-(-64 // s)) * (-(-96 // s)) for s in (4, 8, 16, 32, 64)]
    logits = [jnp.asarray(rng.normal(size=(2, n)), jnp.float32) for n in cells]
    deltas = [
        jnp.asarray(loud * rng.normal(size=(2, n, 4)), jnp.float32) for n in cells
    ]
    maps = [jnp.zeros((2, -(-64 // s), -(-96 // s), 1)) for s in (4, 8, 16, 32, 64)]
    return logits, deltas, maps


def _model(**changes):
    """A model without arrays: enough to propose."""
    return nnx.eval_shape(lambda: tiny_model.plain(**changes))


def _propose(model, thresholds):
    """`propose` compiled, with these thresholds."""
    return jax.jit(partial(model.propose, thresholds=thresholds))


@pytest.mark.parametrize(
    ("loud", "proposals", "rpn_nms"), [(0.5, 40, 0.7), (2.0, 40, 0.3), (0.5, 500, 0.5)]
)
def test_propose_equals_loops(loud, proposals, rpn_nms):
    model = _model()
    thresholds = THRESHOLDS._replace(pre_nms=50, proposals=proposals, rpn_nms=rpn_nms)
    logits, deltas, maps = _said(1, loud)
    anchors = model.anchors(maps)
    got = _propose(model, thresholds)(logits, deltas, anchors, SIZES)
    candidates = 3 * 50 + 18 + 6  # the coarser levels have fewer than 50 anchors
    assert got.scores.shape == (2, min(proposals, candidates))
    for i in range(2):
        want = _propose_loop(
            *([np.asarray(x[i], np.float64) for x in y] for y in (logits, deltas)),
            [np.asarray(x, np.float64) for x in anchors],
            SIZES[i],
            thresholds,
        )
        num = len(want)
        assert num == proposals or num < candidates
        np.testing.assert_array_equal(got.valid[i], np.arange(got.valid.shape[1]) < num)
        np.testing.assert_allclose(got.scores[i, :num], [w[0] for w in want], rtol=1e-5)
        np.testing.assert_allclose(
            got.boxes[i, :num], [w[1] for w in want], rtol=1e-4, atol=1e-3
        )
        np.testing.assert_array_equal(got.scores[i, num:], 0)


def test_propose_equals_mmdet(golden):
    arrays = np.load(golden / "parity/mmdet_masktrack_infer.npz")
    model = _model(anchor_scale=8.0)
    thresholds = THRESHOLDS._replace(pre_nms=200, proposals=200, rpn_nms=0.7)
    logits, deltas = (
        [
            jnp.asarray(
                arrays[f"f0_rpn_{kind}_{i}"].transpose(0, 2, 3, 1).reshape(shape)
            )
            for i in range(5)
        ]
        for kind, shape in (("cls", (1, -1)), ("reg", (1, -1, 4)))
    )
    maps = [jnp.zeros((1, *arrays[f"f0_rpn_cls_{i}"].shape[2:], 1)) for i in range(5)]
    got = _propose(model, thresholds)(
        logits, deltas, model.anchors(maps), jnp.array([[90, 160]])
    )
    assert got.valid.all()
    np.testing.assert_allclose(got.scores[0], arrays["f0_proposal_scores"], rtol=1e-6)
    np.testing.assert_allclose(got.boxes[0], arrays["f0_proposals"], atol=1e-3)


def test_no_proposal_where_every_box_lies_outside():
    model = _model()
    thresholds = THRESHOLDS._replace(pre_nms=50, proposals=40)
    logits, deltas, maps = _said(2)
    deltas = [x.at[..., 0].set(1e4) for x in deltas]
    got = _propose(model, thresholds)(logits, deltas, model.anchors(maps), SIZES)
    assert not got.valid.any()
    np.testing.assert_array_equal(got.scores, 0)


# ------------------------------------------------------------------------ detections


class _Says:
    """A box head that answers always the same."""

    def __init__(self, num_classes, answer):
        self.num_classes, self.answer = num_classes, answer

    def __call__(self, roi):
        return self.answer


def _detect(model, levels, proposals, logits, deltas, sizes, thresholds=THRESHOLDS):
    """`detect` of a model whose box head gives this answer."""
    graph, state = nnx.split(model)

    @jax.jit
    def detect(state, levels, proposals, logits, deltas, sizes):
        model = nnx.merge(graph, state)
        # Said in its place; it still knows how many classes there are.
        model.box_head = _Says(model.box_head.num_classes, (logits, deltas))
        return model.detect(levels, proposals, sizes, thresholds)

    return detect(state, levels, proposals, logits, deltas, sizes)


def _levels(seed=0, channels=16, canvas=(64, 96)):
    rng = np.random.default_rng(seed)
    return tuple(
        jnp.asarray(
            rng.normal(size=(2, -(-canvas[0] // s), -(-canvas[1] // s), channels)),
            jnp.float32,
        )
        for s in (4, 8, 16, 32, 64)
    )


def _answer(seed, num, classes, loud=2.0):
    """Proposals, and what a box head might say of them."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, [60, 40], (2, num, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(8, 40, (2, num, 2))], -1)
    proposals = Proposals(
        jnp.asarray(boxes, jnp.float32),
        jnp.asarray(rng.uniform(size=(2, num)), jnp.float32),
        jnp.asarray(rng.uniform(size=(2, num)) < 0.8),
    )
    logits = jnp.asarray(loud * rng.normal(size=(2, num, classes + 1)), jnp.float32)
    deltas = jnp.asarray(rng.normal(size=(2, num, classes, 4)), jnp.float32)
    return proposals, logits, deltas


def _detect_loop(boxes, valid, logits, deltas, size_hw, thresholds):
    rows = []
    for n in np.flatnonzero(valid):
        probs = np.exp(logits[n] - logits[n].max())
        probs /= probs.sum()
        for k in range(len(probs) - 1):  # the last column is the background
            if probs[k] > thresholds.score_threshold:
                box = _decode(boxes[n], deltas[n, k], (0.1, 0.1, 0.2, 0.2))
                rows.append((probs[k], _clip(box, size_hw), k))
    rows = sorted(rows, key=lambda r: -r[0])[: thresholds.nms_candidates]
    return _greedy(rows, thresholds.box_nms)[: thresholds.detections]


@pytest.mark.parametrize(
    ("num", "detections", "nms_candidates", "score_threshold"),
    [
        (30, 10, 1000, 0.1),  # more survivors than rows
        (30, 20, 25, 0.1),  # more pairs than candidates
        (30, 50, 1000, 0.6),  # fewer survivors than rows
        (3, 50, 1000, 0.05),  # fewer pairs than rows
    ],
)
def test_detect_equals_loops(model, num, detections, nms_candidates, score_threshold):
    proposals, logits, deltas = _answer(num, num, 3)
    thresholds = THRESHOLDS._replace(
        detections=detections,
        nms_candidates=nms_candidates,
        score_threshold=score_threshold,
    )
    levels = _levels()
    got = _detect(model, levels, proposals, logits, deltas, SIZES, thresholds)
    assert got.scores.shape == (2, detections)
    for i in range(2):
        want = _detect_loop(
            np.asarray(proposals.boxes[i], np.float64),
            proposals.valid[i],
            np.asarray(logits[i], np.float64),
            np.asarray(deltas[i], np.float64),
            SIZES[i],
            thresholds,
        )
        n = len(want)
        assert n > 0
        np.testing.assert_array_equal(got.valid[i], np.arange(detections) < n)
        np.testing.assert_array_equal(got.labels[i, :n], [w[2] for w in want])
        np.testing.assert_allclose(got.scores[i, :n], [w[0] for w in want], rtol=1e-5)
        np.testing.assert_allclose(got.boxes[i, :n], [w[1] for w in want], atol=1e-3)
        np.testing.assert_array_equal(got.scores[i, n:], 0)


def test_masks_and_embeddings_are_of_the_refined_boxes_and_of_the_label(model):
    proposals, logits, deltas = _answer(5, 30, 3)
    levels = _levels()
    got = _detect(model, levels, proposals, logits, deltas, SIZES)

    @jax.jit
    def heads(model, boxes):
        wide, narrow = (model.pool(levels, boxes, cells) for cells in (7, 14))
        return model.track_head(wide), jax.vmap(model.mask_head)(narrow)

    embeds, masks = heads(model, got.boxes)
    np.testing.assert_allclose(got.embeds, embeds, atol=1e-5)
    masks = np.asarray(masks)
    for i, n in np.ndindex(got.labels.shape):
        want = 1 / (1 + np.exp(-masks[i, n, ..., got.labels[i, n]]))
        np.testing.assert_allclose(got.masks[i, n], want, atol=1e-5)


def test_detect_equals_mmdet(golden):
    arrays = np.load(golden / "parity/mmdet_masktrack_infer.npz")
    model = tiny_model.build(num_classes=40)
    proposals = Proposals(
        jnp.asarray(arrays["f0_proposals"][None]),
        jnp.asarray(arrays["f0_proposal_scores"][None]),
        jnp.ones((1, 200), bool),
    )
    got = _detect(
        model,
        tuple(x[:1] for x in _levels(canvas=(96, 160))),
        proposals,
        jnp.asarray(arrays["f0_cls_score"][None]),
        jnp.asarray(arrays["f0_bbox_pred"].reshape(1, 200, 40, 4)),
        jnp.array([[90, 160]]),
        THRESHOLDS._replace(detections=10, nms_candidates=8000),
    )
    assert got.valid.all()
    np.testing.assert_array_equal(got.labels[0], arrays["f0_det_labels"])
    np.testing.assert_allclose(got.scores[0], arrays["f0_det_scores"], rtol=1e-5)
    np.testing.assert_allclose(got.boxes[0], arrays["f0_det_boxes"], atol=1e-3)


def test_without_proposals_nothing_is_detected_and_all_is_finite(model):
    proposals, logits, deltas = _answer(6, 30, 3)
    none = Proposals(*(jnp.zeros_like(x) for x in proposals))
    got = _detect(model, _levels(), none, logits, deltas, SIZES)
    assert not got.valid.any()
    np.testing.assert_array_equal(got.scores, 0)
    assert all(np.isfinite(x).all() for x in got)


def test_a_box_that_is_refined_out_of_the_frame_is_no_detection(model):
    proposals, logits, deltas = _answer(7, 30, 3)
    want = _detect(model, _levels(), proposals, logits, deltas, SIZES)
    gone = want.labels[0, 0]
    moved = deltas.at[0, :, gone, 0].set(1e4)
    got = _detect(model, _levels(), proposals, logits, moved, SIZES)
    assert got.valid[0].any()
    assert not (got.valid[0] & (got.labels[0] == gone)).any()
    np.testing.assert_array_equal(got.boxes[1], want.boxes[1])


def test_columns_of_the_background_are_never_read(model):
    wide = tiny_model.build(1, background_columns=True)
    narrow, given = (nnx.to_pure_dict(nnx.state(m)) for m in (model, wide))

    def fill(own, extra):
        """The arrays of the narrow model; what only the wide one has stays."""
        where = tuple(slice(n) for n in own.shape)
        return extra.at[where].set(own)

    nnx.update(wide, jax.tree.map(fill, narrow, given))
    assert wide.mask_head.logits.kernel[...].shape[1] == 4
    assert wide.box_head.deltas.kernel[...].shape[1] == 16
    got, want = (run(m, *_frames(), SIZES)[2] for m in (wide, model))
    np.testing.assert_array_equal(got.labels, want.labels)
    for name in ("boxes", "scores", "masks", "embeds"):
        np.testing.assert_allclose(
            getattr(got, name), getattr(want, name), rtol=1e-4, atol=1e-4
        )


# ------------------------------------------------------------------- the whole of it


def _count(**settings):
    model = nnx.eval_shape(lambda: tiny_model.plain(**(FULL | settings)))
    return sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))


def test_full_model_has_the_parameters_of_the_original():
    assert _count() == 58_081_093
    sta = dict(key_channels=32, strides=(8, 16, 32, 64))
    assert _count(sta=sta) == 58_081_093 + 74_020
    # Without the background's columns: 4 deltas of 1024 + 1, a mask of 256 + 1.
    assert _count(background_columns=False) == 58_081_093 - 4 * 1025 - 257


@pytest.mark.parametrize("backbone", ["resnet101", "resnext101_64x4d", "mobilenet_v2"])
def test_other_backbones_change_backbone_and_laterals_only(backbone):
    channels = (256, 512, 1024, 2048)
    alone = {
        "resnet101": 42_500_160,
        "resnext101_64x4d": 81_406_272,
        "mobilenet_v2": 1_812_800,
    }[backbone]
    if backbone == "mobilenet_v2":
        channels = (24, 64, 96, 320)
    laterals = 256 * (sum(channels) - sum((256, 512, 1024, 2048)))
    want = 58_081_093 - 23_508_032 + alone + laterals
    assert _count(backbone=backbone, backbone_args={}) == want


def test_frozen_paths_are_those_without_a_gradient():
    model = tiny_model.build(
        backbone_args=dict(stages=(1, 1, 1, 1), width=8, frozen_stages=1),
        norm="frozen_batch",
    )

    @jax.jit
    @jax.grad
    def gradient(model, frames):
        return sum((x**2).sum() for x in model.features(frames, SIZES[:1]))

    grads = nnx.state(gradient(model, _frames()[1][:1]), nnx.Param)
    seen = set()
    for path, grad in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(grads)):
        name = "/".join(str(key.key) for key in path)
        if name.startswith(("backbone/", "fpn/")):
            prefixes = [p for p in model.frozen_paths if name.startswith(f"{p}/")]
            assert (np.abs(grad).max() == 0) == bool(prefixes), name
            seen.update(prefixes)
    assert seen == {"backbone/conv1", "backbone/bn1", "backbone/layer1"}


def test_architecture_is_what_parameters_depend_on():
    settings = tiny_model.SETTINGS
    want = architecture(settings)
    free = settings["backbone_args"] | {"frozen_stages": 2}
    for same in (dict(backbone_args=free), dict(conventions={}), dict(num_classes=9)):
        assert architecture(settings | same) == want
    written = dict(settings["sta"], scale=1.0, share_embed=True)
    assert architecture(settings | {"sta": written}) == want
    for bound in (
        dict(channels=32),
        dict(sta=None),
        dict(anchor_scale=8.0),
        dict(conventions=dict(aligned=False)),
        dict(backbone_args=settings["backbone_args"] | {"caffe": True}),
    ):
        assert architecture(settings | bound) != want


def test_architecture_leaves_out_what_either_backbone_freezes():
    for backbone, name in (
        ("resnet18", "frozen_stages"),
        ("mobilenet_v2", "frozen_blocks"),
    ):
        settings = tiny_model.SETTINGS | dict(backbone=backbone, backbone_args={})
        frozen = settings | dict(backbone_args={name: 2})
        assert architecture(frozen) == architecture(settings)
        assert name not in architecture(frozen)["backbone_args"]


def test_an_empty_setting_of_the_attention_is_no_baseline():
    with pytest.raises(TypeError, match="key_channels"):
        tiny_model.build(sta={})
