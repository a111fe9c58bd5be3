from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stan_jax.ops import boxes as box_ops
from stan_jax.ops.nms import nms

CASES = "random500 ties identical all_same empty single zero_area iou_exactly_half"
ROWS = 300  # of every law below: two blocks, compiled once
HALF_OPEN = np.array([[0, 0, 1, 1]], np.float32)  # from inclusive boxes


def _iou(boxes):
    """IoU of all pairs in plain numpy, float32 as in the code under test."""
    start, end = np.split(np.asarray(boxes), 2, axis=1)
    area = np.maximum(end - start, 0).prod(axis=1)
    overlap = np.minimum(end[:, None], end) - np.maximum(start[:, None], start)
    inter = np.maximum(overlap, 0).prod(axis=2)
    union = area[:, None] + area - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


def _greedy(boxes, scores, valid, threshold, groups=None):
    """The definition, one box at a time."""
    scores, iou, kept = np.asarray(scores), _iou(boxes), []
    groups = np.zeros(len(scores), int) if groups is None else np.asarray(groups)
    for i in sorted(np.flatnonzero(valid), key=lambda i: (-scores[i], i)):
        rivals = [j for j in kept if groups[j] == groups[i]]
        if all(iou[i, j] <= np.float32(threshold) for j in rivals):
            kept.append(i)
    return np.isin(np.arange(len(scores)), kept)


def _scene(seed, num, side=60):
    """Whole-pixel boxes, crowded, with equal scores: ties of every kind are common."""
    rng = np.random.default_rng(seed)
    corner, size = rng.integers(0, side, (num, 2)), rng.integers(0, 20, (num, 2))
    boxes = jnp.asarray(np.hstack([corner, corner + size]), jnp.float32)
    scores = jnp.asarray(rng.integers(0, num, num) / num, jnp.float32)
    valid, groups = rng.random(num) < 0.8, rng.integers(0, 3, num)
    return boxes, scores, jnp.asarray(valid), jnp.asarray(groups)


# 256 rows make a block: one block, a full one, two, several, the last one short.
@pytest.mark.parametrize("num", [1, 40, 256, 257, 700])
def test_nms_matches_the_definition(num):
    threshold = 0.5
    for seed in range(5 if num < 100 else 1):
        boxes, scores, valid, groups = _scene(seed, num, side=60 + num // 2)
        got = nms(boxes, scores, valid, threshold=threshold)
        np.testing.assert_array_equal(got, _greedy(boxes, scores, valid, threshold))
        got = nms(boxes, scores, valid, threshold=threshold, groups=groups)
        want = _greedy(boxes, scores, valid, threshold, groups)
        np.testing.assert_array_equal(got, want)


def test_nms_settles_the_longest_chain():
    """Each box overlaps only the next: every second one survives."""
    x = np.arange(ROWS)[:, None] * 2.0
    boxes = jnp.asarray(np.hstack([x, 0 * x, x + 5, 0 * x + 5]), jnp.float32)
    scores = jnp.linspace(1, 0, ROWS)
    got = nms(boxes, scores, jnp.ones(ROWS, bool), threshold=0.4)
    np.testing.assert_array_equal(got, np.arange(ROWS) % 2 == 0)


def test_nms_breaks_equal_scores_by_the_lower_index():
    boxes = jnp.tile(jnp.array([[0.0, 0, 9, 9]]), (ROWS, 1))
    got = nms(boxes, jnp.full(ROWS, 0.5), jnp.arange(ROWS) >= 7, threshold=0.4)
    np.testing.assert_array_equal(got, np.arange(ROWS) == 7)


def test_nms_keeps_a_pair_exactly_at_the_threshold():
    boxes = jnp.array([[0.0, 0, 10, 10], [0, 0, 10, 3]])  # IoU 0.3, rounded
    both = jnp.ones(2, bool)
    scores = jnp.array([0.9, 0.8])
    assert nms(boxes, scores, both, threshold=0.3).tolist() == [True, True]
    assert nms(boxes, scores, both, threshold=0.2999999).tolist() == [True, False]


def test_nms_keeps_no_overlapping_pair_and_drops_nothing_without_one():
    boxes, scores, valid, _ = _scene(3, ROWS, side=80)
    keep = np.asarray(nms(boxes, scores, valid, threshold=0.4))
    over = (_iou(boxes) > np.float32(0.4)) & ~np.eye(ROWS, dtype=bool)
    np.testing.assert_array_equal(keep, valid & ~over[keep].any(axis=0))
    assert 50 < keep.sum() < valid.sum()


def test_nms_follows_a_shuffle_of_its_rows():
    boxes, _, valid, groups = _scene(4, ROWS)
    rows, scores = np.random.default_rng(1).permutation(ROWS), jnp.arange(ROWS) / ROWS
    plain = nms(boxes, scores, valid, threshold=0.4, groups=groups)
    given = (x[rows] for x in (boxes, scores, valid))
    shuffled = nms(*given, threshold=0.4, groups=groups[rows])
    np.testing.assert_array_equal(shuffled, plain[rows])


def test_nms_in_groups_equals_each_group_alone():
    boxes, scores, valid, groups = _scene(5, ROWS)
    alone = [
        nms(boxes, scores, valid & (groups == group), threshold=0.4)
        for group in range(3)
    ]
    got = nms(boxes, scores, valid, threshold=0.4, groups=groups)
    np.testing.assert_array_equal(got, np.any(alone, axis=0))


def test_nms_does_not_see_what_padding_holds():
    boxes, scores, _, _ = _scene(6, ROWS)
    real = jnp.arange(ROWS) < 200
    want = _greedy(boxes, scores, real, 0.4)
    for junk in (0.0, 1e9, np.nan):
        boxes, scores = boxes.at[200:].set(junk), scores.at[200:].set(junk)
        got = nms(boxes, scores, real, threshold=0.4)
        np.testing.assert_array_equal(got, want)


def test_nms_of_nothing_keeps_nothing():
    none = jnp.zeros((0, 4)), jnp.zeros(0), jnp.zeros(0, bool)
    assert nms(*none, threshold=0.5).shape == (0,)
    boxes, scores, valid, _ = _scene(7, ROWS)
    assert not nms(boxes, scores, jnp.zeros_like(valid), threshold=0.4).any()


def test_nms_under_vmap_equals_one_by_one():
    scenes = [_scene(seed, ROWS, side=30 * seed + 20) for seed in range(4)]
    run = partial(nms, threshold=0.4)
    got = jax.vmap(lambda b, s, v, g: run(b, s, v, groups=g))(
        *map(jnp.stack, zip(*scenes, strict=True))
    )
    for row, (boxes, scores, valid, groups) in zip(got, scenes, strict=True):
        want = run(boxes, scores, valid, groups=groups)
        np.testing.assert_array_equal(row, want)


def test_nms_passes_no_gradient_and_breaks_none():
    boxes, scores, valid, _ = _scene(8, ROWS)

    def kept_area(boxes, scores):
        keep = nms(boxes, scores, valid, threshold=0.4)
        return jnp.where(keep, box_ops.area(boxes) * scores, 0).sum()

    keep = nms(boxes, scores, valid, threshold=0.4)
    _, grad = jax.jit(jax.grad(kept_area, argnums=(0, 1)))(boxes, scores)
    np.testing.assert_allclose(grad, jnp.where(keep, box_ops.area(boxes), 0))


def test_nms_memory_grows_with_rows_not_with_pairs():
    boxes, scores, valid, _ = _scene(9, 4096)
    lowered = jax.jit(partial(nms, threshold=0.5)).lower(boxes, scores, valid)
    memory = lowered.compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 4096**2 / 8  # not even one bit per pair


def _padded_nms(boxes, scores, threshold, rows=512):
    """The kept rows. One shape for all cases: compiling is what takes time here."""
    num = len(scores)
    boxes = np.pad(boxes, ((0, rows - num), (0, 0)), constant_values=7)
    scores = np.pad(scores, (0, rows - num), constant_values=1)
    valid = jnp.asarray(np.arange(rows) < num)
    keep = nms(jnp.asarray(boxes), jnp.asarray(scores), valid, threshold=threshold)
    return np.flatnonzero(keep)


@pytest.mark.parametrize("case", CASES.split())
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_nms_equals_mmcv_and_torchvision(golden, case, threshold):
    arrays = np.load(golden / "parity/nms.npz")
    given = {
        name.removeprefix(f"{case}__").removesuffix(f"_keep_{threshold}"): arrays[name]
        for name in arrays
        if name.startswith(f"{case}__")
    }
    boxes, scores = given["boxes"], given["scores"]
    got = _padded_nms(boxes, scores, threshold)
    if (case, threshold) != ("iou_exactly_half", 0.3):  # float64 threshold, see `nms`
        np.testing.assert_array_equal(got, np.sort(given["torchvision"]))
    if case in ("ties", "identical"):  # mmcv's order of equal scores is arbitrary
        return
    np.testing.assert_array_equal(got, np.sort(given["mmcv"]))
    got = _padded_nms(boxes + HALF_OPEN, scores, threshold)
    np.testing.assert_array_equal(got, np.sort(given["mmcv_offset1"]))


def test_nms_of_the_best_rows_equals_mmcv_with_a_score_threshold(golden):
    arrays = np.load(golden / "parity/nms.npz")
    boxes, scores = (
        jnp.asarray(arrays[f"random500__{x}"]) for x in ("boxes", "scores")
    )
    keep = nms(boxes, scores, scores > 0.3, threshold=0.5)
    best = jax.lax.top_k(jnp.where(keep, scores, -1), 20)[1]
    want = arrays["random500__mmcv_thr0.3_max20_keep_0.5"]
    np.testing.assert_array_equal(best, want)


@pytest.mark.parametrize("case", ["random500", "ties", "identical", "empty"])
def test_nms_in_groups_equals_torchvision_batched(golden, case):
    arrays = np.load(golden / "parity/batched_nms.npz")
    boxes, scores, labels = (
        jnp.asarray(arrays[f"{case}__{x}"]) for x in ("boxes", "scores", "labels")
    )
    valid = jnp.ones(len(scores), bool)
    got = nms(boxes, scores, valid, threshold=0.5, groups=labels.astype(jnp.int32))
    want = np.sort(arrays[f"{case}__torchvision_keep"])
    np.testing.assert_array_equal(np.flatnonzero(got), want)


def test_nms_over_classes_equals_mmdet_multiclass(golden):
    arrays = np.load(golden / "parity/batched_nms.npz")
    boxes = jnp.asarray(arrays["multiclass__boxes"]).reshape(-1, 4)
    probs = jnp.asarray(arrays["multiclass__scores_softmax_bg_last"][:, :-1])
    scores, labels = probs.reshape(-1), jnp.tile(jnp.arange(5), 60)
    keep = nms(boxes, scores, scores > 0.05, threshold=0.5, groups=labels)
    best = jax.lax.top_k(jnp.where(keep, scores, -1), 30)[1]
    np.testing.assert_array_equal(boxes[best], arrays["multiclass__dets"][:, :4])
    np.testing.assert_array_equal(labels[best], arrays["multiclass__labels"])
