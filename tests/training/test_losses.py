import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model
import tiny_pairs

from stan_jax.model import parameters
from stan_jax.model.stan import BOX_CELLS, MASK_CELLS
from stan_jax.ops import assign
from stan_jax.training import losses
from stan_jax.training.losses import Rois, Sampling
from stan_jax.types import Proposals

KEYS = jax.random.split(jax.random.key(3), 2)
FEW = Sampling(
    anchors=40,
    positive_anchors=8,
    rois=12,
    positive_rois=3,
    border=-1,
    padded=False,
)
HALF = tiny_pairs.KINDS._replace(box_beta=0.5)
# Every anchor and every RoI of `tiny_pairs.Given` learns: nothing is left to chance.
ALL = FEW._replace(anchors=1536, positive_anchors=1536, rois=18, positive_rois=18)
BOX_STDS = np.array([0.1, 0.1, 0.2, 0.2])  # spec section 5


_terms = partial(losses.terms, thresholds=tiny_model.THRESHOLDS, kinds=tiny_pairs.KINDS)


@pytest.fixture(scope="module")
def few():
    """(terms, what they were computed from) of two pairs, with the model as it is."""
    structure, values = parameters.split(tiny_pairs.model())

    @jax.jit
    def run(pairs, keys):
        model = parameters.merge(structure, values)
        found = _terms(model, pairs, keys, sampling=FEW, kinds=HALF)
        return found, _inside(model, pairs, keys)

    return run


@pytest.fixture(scope="module")
def every():
    """(parameters, function of them and one pair to (terms, gradient of their sum))."""
    structure, values = parameters.split(tiny_pairs.model(tiny_pairs.Given))

    @jax.jit
    def run(params, pairs):
        def loss(params):
            model = parameters.merge(structure, values._replace(params=params))
            keys = jax.random.split(jax.random.key(0), 1)
            terms = _terms(model, pairs, keys, sampling=ALL)
            return losses.total(terms, tiny_pairs.WEIGHTS)[0], terms

        gradient, terms = jax.grad(loss, has_aux=True)(params)
        return terms, gradient

    return values.params, run


def _inside(model, pairs, keys):
    """What the losses see of a model, by the spec: heads, proposals, drawn RoIs."""
    x0, x1 = (model.features(pairs.frames[:, f], pairs.size_hw) for f in (0, 1))
    past = [x[:, None] for x in model.attended(x0)]
    levels = model.attend(past, x1, pairs.size_hw)
    logits, deltas = zip(*(model.rpn(x) for x in levels), strict=True)
    anchors = model.anchors(levels)
    proposals = model.propose(
        logits, deltas, anchors, pairs.size_hw, tiny_model.THRESHOLDS
    )
    keys = jax.vmap(jax.random.split)(keys)  # the first draws anchors
    draw = jax.vmap(partial(losses.sample_rois, sampling=FEW))
    rois = draw(proposals, pairs, keys[:, 1])
    features = model.pool(levels, rois.boxes, BOX_CELLS)
    mask_features = model.pool(levels, rois.boxes, MASK_CELLS)
    head = jax.vmap(model.mask_head)
    return dict(
        anchors=jnp.stack([jnp.concatenate(anchors)] * len(keys)),
        anchor_key=jax.random.key_data(keys[:, 0]),
        proposals=proposals,
        rois=rois,
        rpn=(jnp.concatenate(logits, 1), jnp.concatenate(deltas, 1)),
        box=model.box_head(features),
        embeds=model.track_head(features),
        references=model.track_head(model.pool(x0, pairs.boxes[:, 0], BOX_CELLS)),
        masks=head(mask_features),
    )


# ---- each loss, written as a loop over rows


def _iou(a, b):
    size = [max(min(a[2 + i], b[2 + i]) - max(a[i], b[i]), 0) for i in (0, 1)]
    inter = size[0] * size[1]
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union if union > 0 else 0.0


def _encode(box, anchor):
    (x, y), (ax, ay) = ((b[:2] + b[2:]) / 2 for b in (box, anchor))
    (w, h), (aw, ah) = (b[2:] - b[:2] for b in (box, anchor))
    return np.array([(x - ax) / aw, (y - ay) / ah, math.log(w / aw), math.log(h / ah)])


def _smooth(error, beta):
    return sum(
        0.5 * e * e / beta if abs(e) < beta else abs(e) - beta / 2 for e in error
    )


def _roles(anchors, pair):
    """(object or -1 of each anchor, which anchors are background), spec section 3."""
    height, width = pair.size_hw
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    inside = [-0.1 < x < width - 0.1 and -0.1 < y < height - 0.1 for x, y in centres]
    present = np.flatnonzero(pair.present[1])
    iou = np.zeros((len(anchors), len(pair.labels)))
    for a, m in ((a, m) for a in np.flatnonzero(inside) for m in present):
        iou[a, m] = _iou(anchors[a], pair.boxes[1, m])
    target = np.where(iou.max(1) >= 0.7, iou.argmax(1), -1)
    for m in present:
        if iou[:, m].max() >= 0.3:
            target[np.isclose(iou[:, m], iou[:, m].max(), rtol=1e-6)] = m
    return target, np.array(inside) & (iou.max(1) < 0.3) & (target < 0)


def _rpn_loop(pair, seen):
    anchors, (logits, deltas) = seen["anchors"].astype(float), seen["rpn"]
    target, background = _roles(anchors, pair)
    drawn = assign.sample(
        jax.random.wrap_key_data(seen["anchor_key"]),
        jnp.asarray(target >= 0),
        jnp.asarray(background),
        num=FEW.anchors,
        max_positive=FEW.positive_anchors,
    )
    rows = np.asarray(drawn.index)[np.asarray(drawn.valid)]
    score = error = 0.0
    for row in rows:
        is_object = target[row] >= 0
        score += math.log1p(math.exp(-logits[row] if is_object else logits[row]))
        if is_object:
            wanted = _encode(pair.boxes[1, target[row]], anchors[row])
            error += _smooth(deltas[row] - wanted, HALF.rpn_beta)
    return {"rpn_score": (score, len(rows)), "rpn_box": (error, len(rows))}


def _box_loop(pair, seen):
    rois, (logits, deltas) = seen["rois"], seen["box"]
    entropy = error = 0.0
    for n in np.flatnonzero(rois.valid):
        positive, m = rois.positive[n], rois.object[n]
        column = pair.labels[m] if positive else tiny_pairs.CLASSES
        entropy += np.log(np.exp(logits[n]).sum()) - logits[n, column]
        if positive:
            wanted = _encode(pair.boxes[1, m], rois.boxes[n]) / BOX_STDS
            error += _smooth(deltas[n, column] - wanted, HALF.box_beta)
    count = rois.valid.sum()
    return {"class": (entropy, count), "box": (error, count)}


def _track_loop(pair, seen):
    rois, entropy, right = seen["rois"], 0.0, 0
    for n in np.flatnonzero(rois.positive):
        known = np.flatnonzero(pair.present[0])
        logits = [0.0] + [seen["embeds"][n] @ seen["references"][m] for m in known]
        m = rois.object[n]
        target = 1 + list(known).index(m) if pair.present[0, m] else 0
        entropy += np.log(np.exp(logits).sum()) - logits[target]
        right += int(np.argmax(logits)) == target
    count = rois.positive.sum()
    return {"track": (entropy, count), "accuracy_track": (right, count)}


def _mask_loop(pair, seen):
    rois, total = seen["rois"], 0.0
    for n in np.flatnonzero(rois.positive):
        m = rois.object[n]
        said = seen["masks"][n, :, :, pair.labels[m]]
        target = _crop(pair.masks[m].astype(float), rois.boxes[n], len(said))
        total += (np.log1p(np.exp(-np.abs(said))) + np.maximum(said, 0)).mean()
        total -= (said * target).mean()
    return {"mask": (total, rois.positive.sum())}


def _crop(mask, box, out):
    """Mean of 2 x 2 bilinear samples per cell, then >= 0.5; spec section 6."""
    hats = []
    for low, high, pixels in zip(box[1::-1], box[:1:-1], mask.shape, strict=True):
        at = low + (np.arange(2 * out) + 0.5) * (high - low) / (2 * out) - 0.5
        at = np.clip(at, 0, pixels - 1)
        hats.append(np.maximum(0, 1 - np.abs(at[:, None] - np.arange(pixels))))
    shares = (hats[0] @ mask @ hats[1].T).reshape(out, 2, out, 2).mean((1, 3))
    return shares >= 0.5 - 1e-6


@pytest.fixture(scope="module")
def two(few):
    """Two pairs, their terms, and per pair what the terms were computed from."""
    pairs = [tiny_pairs.pair(0), tiny_pairs.pair(1)]
    terms, seen = few(tiny_pairs.batch(*pairs), KEYS)
    rows = [jax.tree.map(lambda x, b=b: np.asarray(x[b]), seen) for b in range(2)]
    return pairs, terms, rows


@pytest.mark.parametrize(
    "loop", [_rpn_loop, _box_loop, _track_loop, _mask_loop], ids=lambda f: f.__name__
)
def test_loss_equals_a_loop_over_the_drawn_rows(two, loop):
    pairs, terms, rows = two
    wanted = [loop(pair, row) for pair, row in zip(pairs, rows, strict=True)]
    for name in wanted[0]:
        total = np.sum([one[name] for one in wanted], axis=0)
        assert total[0] > 0 or name == "accuracy_track"
        # A cell of which a mask covers half may fall either way.
        rtol = 2e-4 if name == "mask" else 2e-5
        np.testing.assert_allclose(terms[name], total, rtol=rtol, err_msg=name)


def test_loss_terms_are_the_six_and_two_accuracies(two):
    _, terms, _ = two
    assert {k for k in terms if not k.startswith("accuracy")} == {*tiny_pairs.WEIGHTS}
    assert {k for k in terms if k.startswith("accuracy")} == {
        "accuracy_class",
        "accuracy_track",
    }
    for total, count in terms.values():
        assert total.dtype == count.dtype == jnp.float32


def test_rois_stand_for_the_object_they_overlap_most(two):
    """Spec section 4: positive from IoU 0.5 on, true boxes are proposals as well."""
    for pair, row in zip(two[0], two[2], strict=True):
        rois, proposals = row["rois"], row["proposals"]
        known = [*pair.boxes[1][pair.present[1]], *proposals.boxes[proposals.valid]]
        present = np.flatnonzero(pair.present[1])
        assert rois.positive.sum() == FEW.positive_rois  # which is fewer than there are
        assert not rois.positive[FEW.positive_rois :].any()
        assert rois.valid[rois.positive].all()
        for n in np.flatnonzero(rois.valid):
            assert any(np.array_equal(rois.boxes[n], box) for box in known)
            overlaps = {m: _iou(rois.boxes[n], pair.boxes[1, m]) for m in present}
            assert (max(overlaps.values()) >= 0.5) == rois.positive[n]
            if rois.positive[n]:
                assert overlaps[rois.object[n]] == max(overlaps.values())


def test_the_best_proposal_of_an_object_is_its_own_even_where_another_fits_better():
    """Roles are given before true boxes join; the later object has the claim."""
    pair = tiny_pairs.pair(0, present=((1, 1), (1, 1)))
    objects = np.float32([[0, 0, 20, 20], [0, 0, 20, 32]])
    pair = pair._replace(boxes=np.stack([objects, objects]))
    box = np.float32([[0, 0, 20, 23], [40, 40, 60, 60]])  # of IoU 0.87 and 0.72
    proposals = Proposals(jnp.asarray(box), jnp.ones(2), jnp.ones(2, bool))
    pair = jax.tree.map(jnp.asarray, pair)
    rois = losses.sample_rois(proposals, pair, jax.random.key(0), ALL)
    rois = jax.tree.map(lambda x: np.asarray(x)[np.asarray(rois.valid)], rois)
    rows = zip(rois.boxes, rois.object, rois.positive, strict=True)
    found = {tuple(box.tolist()): (int(m), bool(p)) for box, m, p in rows}
    assert found[0, 0, 20, 20] == (0, True)
    assert found[0, 0, 20, 32] == (1, True)
    assert found[0, 0, 20, 23] == (1, True)
    assert not found[40, 40, 60, 60][1]


def test_anchors_of_the_padding_learn_only_if_it_counts_as_frame():
    pair = jax.tree.map(jnp.asarray, tiny_pairs.pair(0, size_hw=(33, 33)))
    pair = pair._replace(present=jnp.zeros_like(pair.present))
    centre = jnp.array([[16.0, 16], [40, 40], [70, 16], [16, 63]])
    grid = jnp.concatenate([centre - 8, centre + 8], 1)
    for padded, wanted in ((False, {0}), (True, {0, 1, 3})):
        sampling = ALL._replace(padded=padded)
        drawn, _ = losses.sample_anchors(grid, pair, jax.random.key(0), sampling, 32)
        assert set(np.asarray(drawn.index)[np.asarray(drawn.valid)].tolist()) == wanted


def test_losses_of_a_batch_are_the_sums_of_its_pairs(few, two):
    """So no pair's sample depends on its place, and devices may share a batch."""
    pairs, terms, _ = two
    twice = [
        few(tiny_pairs.batch(pair, pair), KEYS[jnp.array([b, b])])[0]
        for b, pair in enumerate(pairs)
    ]
    for name, together in terms.items():
        alone = [np.array(one[name]) / 2 for one in twice]
        np.testing.assert_allclose(together, sum(alone), rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("stored", ["raw", "attended"])
def test_losses_of_a_longer_pair_see_its_older_frames_if_there_are_any(stored):
    sta = tiny_model.SETTINGS["sta"] | dict(frames=2, stored=stored)
    model = tiny_pairs.model(sta=sta | dict(value_source="previous"))
    pair = tiny_pairs.pair(0)
    sampling = FEW._replace(rois=4, positive_rois=1)

    @jax.jit
    def run(pairs):
        return _terms(model, pairs, KEYS[:1], sampling=sampling)["rpn_score"][0]

    rng, loss = np.random.default_rng(0), {}
    for seed in range(2):
        older = rng.integers(0, 255, (1, *pair.frames.shape[1:])).astype(np.uint8)
        frames = np.concatenate([older, pair.frames])
        for past in (1, 2):
            given = pair._replace(frames=frames, seen=np.array(past, np.int32))
            loss[seed, past] = float(run(tiny_pairs.batch(given)))
    assert loss[0, 1] == loss[1, 1]
    plain = float(run(tiny_pairs.batch(pair)))
    np.testing.assert_allclose(loss[0, 1], plain, rtol=1e-5)
    assert abs(loss[0, 2] - loss[1, 2]) > 1e-3 * plain


def test_losses_follow_the_key(few, two):
    pairs, terms, _ = two
    other, _ = few(tiny_pairs.batch(*pairs), jax.random.split(jax.random.key(4), 2))
    assert other["rpn_score"][0] != terms["rpn_score"][0]
    assert other["class"][0] != terms["class"][0]


# ---- laws, where everything is drawn


def test_losses_do_not_see_padding_rows_and_padding_pixels(every):
    params, run = every
    pair = tiny_pairs.pair(0)
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 255, pair.frames.shape).astype(np.uint8)
    height, width = pair.size_hw
    frames[:, :height, :width] = pair.frames[:, :height, :width]
    boxes, masks, labels = (x.copy() for x in (pair.boxes, pair.masks, pair.labels))
    boxes[:, 3], masks[3], labels[3] = [10, 12, 60, 50], True, 2  # in neither frame
    boxes[1, 2] = boxes[0, 1] = [30, 12, 50, 40]  # absent from this one frame
    masks[2] = True
    dirty = pair._replace(frames=frames, boxes=boxes, masks=masks, labels=labels)
    want, got = (run(params, tiny_pairs.batch(p)) for p in (pair, dirty))
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        np.testing.assert_array_equal(a, b)


def test_losses_do_not_depend_on_the_order_of_objects(every):
    params, run = every
    pair, order = tiny_pairs.pair(2), np.array([2, 3, 1, 5, 0, 4])
    moved = pair._replace(
        boxes=pair.boxes[:, order],
        present=pair.present[:, order],
        labels=pair.labels[order],
        masks=pair.masks[order],
    )
    want, got = (run(params, tiny_pairs.batch(p))[0] for p in (pair, moved))
    for name in want:
        np.testing.assert_allclose(want[name], got[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "present",
    [((1, 1, 0, 0, 0, 0), (0,) * 6), ((0,) * 6, (0,) * 6)],
    ids=["only before", "in neither frame"],
)
def test_losses_of_a_frame_without_objects_are_finite(every, present):
    params, run = every
    empty = tiny_pairs.batch(tiny_pairs.pair(0, present=present))
    terms, gradient = run(params, empty)
    for name in ("rpn_box", "box", "mask", "track"):
        assert terms[name][0] == 0, name
    for name in ("mask", "track", "accuracy_class", "accuracy_track"):
        assert terms[name][1] == 0, name
    assert terms["rpn_score"][0] > 0  # all that is there is background
    assert terms["class"][0] > 0
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(gradient))
    for head in ("mask_head", "track_head"):
        assert not any(g.any() for g in jax.tree.leaves(gradient[head]))


@pytest.mark.parametrize("border", [-1, 0, 8])
def test_rpn_learns_from_the_anchors_that_the_border_admits(border):
    model = tiny_pairs.model(tiny_pairs.Given)
    empty = tiny_pairs.batch(tiny_pairs.pair(0, present=((0,) * 6,) * 2))
    keys = jax.random.split(jax.random.key(0), 1)
    sampling = ALL._replace(border=border)

    @jax.jit
    def run(pairs):
        return _terms(model, pairs, keys, sampling=sampling)["rpn_score"][1]

    height, width = np.asarray(empty.size_hw[0])
    wanted = 0  # without objects every anchor that takes part is background
    for stride in (4, 8, 16, 32, 64):
        rows, columns = (-(-side // stride) for side in tiny_pairs.CANVAS)
        side = 4.0 * stride
        for y, x, ratio in itertools.product(
            range(rows), range(columns), (0.5, 1.0, 2.0)
        ):
            half_h, half_w = side * ratio**0.5 / 2, side / ratio**0.5 / 2
            x, y = x * stride, y * stride
            if border < 0:
                wanted += x < width and y < height
            else:
                wanted += (
                    x - half_w >= -border
                    and y - half_h >= -border
                    and x + half_w <= width + border
                    and y + half_h <= height + border
                )
    assert run(empty) == wanted > 0


def test_track_target_is_the_objects_own_column_or_new():
    """Column 0 is a new object (spec section 7.2); row m has column m + 1."""
    reference = 10 * jnp.eye(3, 4)[None]
    embeds = 10 * jnp.stack([jnp.eye(4)[1], -jnp.eye(4)[0], jnp.eye(4)[0], jnp.ones(4)])
    rois = Rois(
        jnp.zeros((1, 4, 4)),
        jnp.array([[1, 0, 2, 1]]),
        jnp.array([[True, True, True, False]]),
        jnp.ones((1, 4), bool),
    )
    pairs = tiny_pairs.batch(
        tiny_pairs.pair(0, present=((0, 1, 0), (1, 1, 1)))  # 0 and 2 are new
    )
    # RoI 0 shows its own column, RoI 1 no column; RoI 2 is new, and looks like
    # object 0, which is absent from the reference frame and has no column.
    found = losses._track(embeds[None], reference, rois, pairs, tiny_pairs.KINDS)
    np.testing.assert_allclose(found["accuracy_track"], (3, 3))
    np.testing.assert_allclose(found["track"], (2 * math.log(2), 3), rtol=1e-5)


GROUPS = [
    "backbone/layer1/0/conv1",
    "backbone/bn1",
    "fpn/laterals/2",
    "sta/embed",
    "sta/gamma",
    "rpn/deltas",
    "box_head/fc1",
    "box_head/deltas",
    "mask_head/upsample",
    "track_head/fc2",
]


@pytest.mark.parametrize("group", GROUPS)
def test_gradient_is_the_slope_of_the_loss(every, group):
    """Central difference along the gradient of one part, in float32."""
    params, run = every
    pair = tiny_pairs.batch(tiny_pairs.pair(2))
    _, gradient = run(params, pair)
    flat, structure = jax.tree_util.tree_flatten_with_path(gradient)
    names = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in flat]
    chosen = [f"{name}/".startswith(f"{group}/") for name in names]
    assert any(chosen), names
    direction = [g * c for (_, g), c in zip(flat, chosen, strict=True)]
    norm = math.sqrt(sum(float((g**2).sum()) for g in direction))

    def loss(step):
        moved = jax.tree.map(
            lambda p, d: p + step / norm * d,
            params,
            jax.tree.unflatten(structure, direction),
        )
        terms, _ = run(moved, pair)
        return float(losses.total(terms, tiny_pairs.WEIGHTS)[0])

    step = 3e-4 / math.sqrt(norm)  # large against rounding, small against kinks
    slope = (loss(step) - loss(-step)) / (2 * step)
    assert slope == pytest.approx(norm, rel=0.04)


# ---- the pieces


@pytest.mark.parametrize("beta", [1.0, 1 / 9])
def test_smooth_l1_is_a_parabola_below_beta_and_a_line_above(beta):
    error = jnp.array([-3.0, -beta, -0.4 * beta, 0.0, 0.2 * beta, beta, 2.5])
    want = [_smooth([e], beta) for e in np.asarray(error, float)]
    np.testing.assert_allclose(losses.smooth_l1(error, beta), want, rtol=1e-6)
    slope = jax.grad(lambda e: losses.smooth_l1(e, beta).sum())(error)
    np.testing.assert_allclose(slope, np.clip(error / beta, -1, 1), rtol=1e-6)


def test_smooth_l1_with_beta_zero_is_l1():
    error = jnp.array([-3.0, -1e-6, 0.0, 0.5])
    np.testing.assert_array_equal(losses.smooth_l1(error, 0.0), jnp.abs(error))
    slope = jax.grad(lambda e: losses.smooth_l1(e, 0.0).sum())(error)
    assert np.isfinite(slope).all()
    np.testing.assert_array_equal(slope[jnp.array([0, 1, 3])], [-1, -1, 1])


def test_total_weighs_each_mean_once_and_reports_accuracies():
    terms = {
        "class": (jnp.float32(6), jnp.float32(4)),
        "mask": (jnp.float32(5), jnp.float32(2)),
        "box": (jnp.float32(0), jnp.float32(0)),
        "accuracy_class": (jnp.float32(3), jnp.float32(4)),
    }
    loss, means = losses.total(terms, {"class": 1.0, "mask": 10.0, "box": 100.0})
    assert loss == 1.5 + 25.0
    assert means == {"class": 1.5, "mask": 2.5, "box": 0.0, "accuracy_class": 0.75}


@pytest.mark.parametrize(
    "wrong", [{"class": 1.0}, dict.fromkeys(("class", "box", "bax"), 1.0)]
)
def test_total_refuses_weights_of_other_names(wrong):
    one = (jnp.float32(1), jnp.float32(1))
    with pytest.raises(ValueError, match="need weights"):
        losses.total({"class": one, "box": one, "accuracy_class": one}, wrong)
