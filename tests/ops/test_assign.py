from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stan_jax.ops import anchors, boxes
from stan_jax.ops import assign as assign_ops

RPN = dict(positive=0.7, negative=0.3, min_positive=0.3)
RCNN = dict(positive=0.5, negative=0.5, min_positive=0.5)
STATIC = ("positive", "negative", "min_positive", "low_quality")
assign = jax.jit(assign_ops.assign, static_argnames=STATIC)
sample = jax.jit(assign_ops.sample, static_argnames=("num", "max_positive"))


def _loop(iou, present, positive, negative, min_positive, low_quality, candidates):
    """The rule, one box and one object at a time, in the order it is told."""
    num, objects = iou.shape
    index, role = np.full(num, -1), ["ignored"] * num
    for i in np.flatnonzero(candidates):
        best = max((iou[i, j] for j in range(objects) if present[j]), default=-1)
        if best < negative:
            role[i] = "negative"
        elif best >= positive:
            role[i] = "positive"
            index[i] = next(
                j for j in range(objects) if present[j] and iou[i, j] == best
            )
    for j in np.flatnonzero(present) if low_quality else ():
        peak = max((iou[i, j] for i in range(num) if candidates[i]), default=-1)
        for i in np.flatnonzero(candidates):
            if peak >= min_positive and peak > 0 and iou[i, j] == peak:
                role[i], index[i] = "positive", j
    role = np.array(role)
    return index, role == "positive", role == "negative"


def _check(got, want):
    index, positive, negative = want
    np.testing.assert_array_equal(got.positive, positive)
    np.testing.assert_array_equal(got.negative, negative)
    np.testing.assert_array_equal(np.asarray(got.index)[positive], index[positive])


@pytest.mark.parametrize("low_quality", [True, False])
@pytest.mark.parametrize("rule", [RPN, RCNN, dict(RCNN, min_positive=0.0)])
def test_assign_matches_the_rule_told_step_by_step(rule, low_quality):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        iou = rng.integers(0, 11, (12, 5)).astype(np.float32) / 10  # ties everywhere
        iou[:, rng.integers(5)] *= np.float32(0.5)
        present, candidates = rng.random(5) < 0.7, rng.random(12) < 0.8
        rest = dict(low_quality=low_quality, candidates=jnp.asarray(candidates))
        got = assign(jnp.asarray(iou), jnp.asarray(present), **rule, **rest)
        rule32 = {k: np.float32(v) for k, v in rule.items()}
        want = _loop(iou, present, **rule32, **rest | dict(candidates=candidates))
        _check(got, want)


def test_assign_by_hand():
    iou = jnp.array([[0.8, 0.1], [0.75, 0.4], [0.2, 0.4], [0.5, 0.3], [0.1, 0.1]])
    got = assign(iou, jnp.array([True, True]), **RPN)
    # Object 1 claims both boxes tied at its best 0.4, one of them from object 0.
    assert got.positive.tolist() == [True, True, True, False, False]
    assert got.index.tolist()[:3] == [0, 1, 1]
    assert got.negative.tolist() == [False, False, False, False, True]


def test_assign_lets_the_later_object_win_a_tie():
    iou = jnp.full((1, 3), 0.4)
    assert assign(iou, jnp.array([True, True, True]), **RPN).index.tolist() == [2]
    assert assign(iou, jnp.array([True, True, False]), **RPN).index.tolist() == [1]


def test_assign_without_objects_makes_every_candidate_negative():
    candidates = jnp.array([True, False, True])
    for objects in (0, 2):
        iou = jnp.full((3, objects), 0.9)
        nobody = jnp.zeros(objects, bool)
        got = assign(iou, nobody, candidates=candidates, **RPN)
        assert not got.positive.any()
        np.testing.assert_array_equal(got.negative, candidates)


def test_assign_gives_an_object_without_overlap_no_box():
    got = assign(jnp.zeros((3, 1)), jnp.array([True]), **dict(RPN, min_positive=0.0))
    assert not got.positive.any()
    assert got.negative.all()


def test_assign_of_no_boxes_is_empty():
    got = assign(jnp.zeros((0, 2)), jnp.array([True, True]), **RPN)
    assert [x.shape for x in got] == [(0,)] * 3


def test_assign_does_not_see_what_padding_objects_overlap():
    iou = jax.random.uniform(jax.random.key(0), (20, 3))
    want = assign(iou, jnp.ones(3, bool), **RPN)
    for junk in (0.0, 1.0, np.nan):
        padded = jnp.concatenate([iou, jnp.full((20, 2), junk)], axis=1)
        got = assign(padded, jnp.arange(5) < 3, **RPN)
        jax.tree.map(np.testing.assert_array_equal, got, want)


def test_assign_finds_ties_when_compiled_together_with_the_iou():
    """A tie is an equality of floats: both sides must be the same computation."""
    grid = anchors.grid((48, 80), 8)
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 300, (16, 2))
    objects = np.hstack([corner, corner + rng.uniform(10, 200, (16, 2))])
    objects, present = jnp.asarray(objects, jnp.float32), jnp.ones(16, bool)
    run = jax.jit(lambda o: assign(boxes.iou(grid, o), present, **RPN))
    got, iou = run(objects), np.asarray(jax.jit(boxes.iou)(grid, objects))
    claimed = set(np.asarray(got.index)[np.asarray(got.positive)])
    assert claimed == set(np.flatnonzero(iou.max(axis=0) >= 0.3))


def test_assign_of_anchors_equals_mmdet(golden):
    """Its sampler was replaced by an even stride, see the README beside the arrays."""
    arrays = np.load(golden / "parity/mmdet_masktrack_train.npz")
    objects = jnp.asarray(arrays["key_boxes"])

    @jax.jit
    def run(objects):
        levels = [((96 // s, 160 // s), s) for s in (4, 8, 16, 32)] + [((2, 3), 64)]
        grid = jnp.concatenate([anchors.grid(*level) for level in levels])
        usable = anchors.inside(grid, jnp.array([96, 160]))  # it takes the canvas here
        iou, present = boxes.iou(grid, objects), jnp.ones(len(objects), bool)
        return grid, usable, assign(iou, present, candidates=usable, **RPN)

    grid, usable, got = jax.tree.map(np.asarray, run(objects))
    positive = np.flatnonzero(got.positive[usable])
    np.testing.assert_array_equal(positive, arrays["rpn_pos_inds"])
    np.testing.assert_array_equal(got.index[usable][positive], arrays["rpn_pos_gt"])
    np.testing.assert_allclose(
        grid[usable][positive], arrays["rpn_pos_boxes"], rtol=1e-6
    )
    negative = np.flatnonzero(got.negative[usable])
    every = np.arange(42) * len(negative) // 42
    np.testing.assert_array_equal(negative[every], arrays["rpn_neg_inds"])


def _roles(num_positive, num_negative, num):
    row = jnp.arange(num)
    positive = row < num_positive
    return positive, (row >= num_positive) & (row < num_positive + num_negative)


@pytest.mark.parametrize(
    ("have", "want"),
    [
        ((50, 50), (4, 6)),  # positives capped
        ((2, 50), (2, 8)),  # negatives fill the rest
        ((50, 3), (4, 3)),  # too few negatives: padding, not more positives
        ((2, 3), (2, 3)),
        ((0, 50), (0, 10)),
        ((50, 0), (4, 0)),
        ((0, 0), (0, 0)),
    ],
)
def test_sample_counts_positives_then_negatives_then_padding(key, have, want):
    positive, negative = _roles(*have, 100)
    got = sample(key, positive, negative, num=10, max_positive=4)
    row = np.arange(10)
    np.testing.assert_array_equal(got.positive, row < want[0])
    np.testing.assert_array_equal(got.valid, row < sum(want))
    assert positive[got.index[row < want[0]]].all()
    assert negative[got.index[(row >= want[0]) & (row < sum(want))]].all()
    np.testing.assert_array_equal(got.index[row >= sum(want)], 0)
    assert len(set(got.index[: sum(want)].tolist())) == sum(want)  # no replacement


def test_sample_from_fewer_rows_than_asked_takes_them_all(key):
    got = sample(key, *_roles(2, 1, 4), num=9, max_positive=6)
    assert sorted(got.index[:2].tolist()) == [0, 1]
    assert got.index[2] == 2
    assert got.valid.sum() == 3
    nothing = sample(key, jnp.zeros(0, bool), jnp.zeros(0, bool), num=3, max_positive=1)
    assert not nothing.valid.any()


def test_sample_draws_every_row_equally_often(key):
    positive, negative = _roles(12, 20, 40)
    draw = partial(sample, positive=positive, negative=negative, num=10, max_positive=4)
    got = jax.vmap(draw)(jax.random.split(key, 4000))
    times = np.bincount(np.asarray(got.index).ravel(), minlength=40)
    # Each count is binomial; five standard deviations.
    for rows, chance in ((times[:12], 4 / 12), (times[12:32], 6 / 20)):
        spread = np.sqrt(4000 * chance * (1 - chance))
        assert np.abs(rows - 4000 * chance).max() < 5 * spread
    assert not times[32:].any()


def test_sample_repeats_with_its_key_and_changes_with_another(key):
    roles = _roles(30, 60, 100)
    draw = partial(sample, num=20, max_positive=10)
    first, again = draw(key, *roles), draw(key, *roles)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    other = draw(jax.random.fold_in(key, 1), *roles)
    assert (first.index != other.index).any()


def test_sample_is_traced_once_whatever_the_roles(key):
    traces = []

    @jax.jit
    def run(key, roles):
        traces.append(1)
        return sample(key, roles.positive, roles.negative, num=8, max_positive=4)

    for have in ((5, 5), (0, 20), (20, 0), (0, 0)):
        run(key, assign_ops.Assignment(jnp.zeros(20, int), *_roles(*have, 20)))
    assert len(traces) == 1
