import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stan_jax.tracking import memory as queue
from stan_jax.tracking.memory import Match, MatchWeights
from stan_jax.types import Detections

E = 4
score = jax.jit(queue.score)
match = jax.jit(queue.match)
MASKTRACK = MatchWeights(score=1.0, iou=2.0, label=10.0)
write = jax.jit(queue.write, static_argnames=("update_labels", "expire_after"))
_HALF_OPEN = np.array([0, 0, 1, 1], np.float32)  # from inclusive boxes


def _found(boxes, labels, scores, embeds, valid=None):
    num = len(scores)
    valid = np.ones(num, bool) if valid is None else valid
    return Detections(
        boxes=jnp.asarray(boxes, jnp.float32),
        labels=jnp.asarray(labels, jnp.int32),
        scores=jnp.asarray(scores, jnp.float32),
        valid=jnp.asarray(valid),
        masks=jnp.zeros((num, 2, 2)),
        embeds=jnp.asarray(embeds, jnp.float32),
    )


def _objects(which, *, label=0, valid=None):
    """One detection per number, far from all others and with its own appearance."""
    which = np.asarray(which)
    boxes = which[:, None] * 50 + np.array([0, 0, 20, 20])
    embeds = 5 * np.eye(16)[which]
    labels = np.full(len(which), label)
    return _found(boxes, labels, np.full(len(which), 0.9), embeds, valid)


def _frame(memory, found, *, update_labels=False, expire_after=None, now=None):
    choice = match(score(memory, found, MASKTRACK), found.valid)
    memory, ids, stays = write(
        memory,
        found,
        choice,
        update_labels=update_labels,
        expire_after=expire_after,
        now=None if now is None else jnp.int32(now),
    )
    return memory, np.asarray(ids).tolist(), np.asarray(stays).tolist()


def _live(memory):
    """id -> slot of the tracks in use."""
    return {int(memory.ids[s]): int(s) for s in np.flatnonzero(memory.live)}


def _empty(slots=4, embed_channels=16):
    return queue.empty((), slots=slots, embed_channels=embed_channels)


# ------------------------------------------------------------------------ the score


def _iou(a, b):
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - np.prod(sides)
    return np.prod(sides) / union if union > 0 else 0.0


def _score_loop(memory, found, weights):
    """Spec 7.3, term by term; -inf for slots that are not in use."""
    n, s = len(found.scores), len(memory.live)
    result = np.full((n, s + 1), -np.inf)
    for i in range(n):
        logits = [0.0] + [
            float(np.dot(found.embeds[i], memory.embeds[j])) if memory.live[j] else None
            for j in range(s)
        ]
        shares = [np.exp(x) if x is not None else 0.0 for x in logits]
        for j in range(s + 1):
            if logits[j] is None:
                continue
            iou = _iou(found.boxes[i], memory.boxes[j - 1]) if j else 0.0
            same = found.labels[i] == memory.labels[j - 1] if j else True
            result[i, j] = (
                np.log(shares[j] / sum(shares))
                + weights.score * np.log(found.scores[i])
                + weights.iou * iou
                + weights.label * same
            )
    return result


def _random_boxes(rng, num):
    corner = rng.uniform(0, 30, (num, 2))
    return np.hstack([corner, corner + rng.uniform(5, 30, (num, 2))])


def _random_found(rng, num, prototypes=None, valid=None):
    embeds = rng.normal(size=(num, E))
    if prototypes is not None:
        embeds = prototypes[rng.integers(0, len(prototypes), num)] + 0.3 * embeds
    return _found(
        _random_boxes(rng, num),
        rng.integers(0, 2, num),
        rng.uniform(0.1, 1, num),
        embeds,
        valid,
    )


def _random_memory(rng, slots, live):
    return queue.empty((), slots=slots, embed_channels=E)._replace(
        embeds=jnp.asarray(rng.normal(size=(slots, E)), jnp.float32),
        boxes=jnp.asarray(_random_boxes(rng, slots), jnp.float32),
        labels=jnp.asarray(rng.integers(0, 2, slots), jnp.int32),
        live=jnp.asarray(live),
        ids=jnp.arange(slots, dtype=jnp.int32),
        next_id=jnp.int32(slots),
    )


def _in_float64(record):
    return jax.tree.map(
        lambda x: np.asarray(x, np.float64) if x.dtype == jnp.float32 else x, record
    )


@pytest.mark.parametrize("weights", [MASKTRACK, MatchWeights(0.3, 5.0, 1.5)])
def test_score_equals_the_formula_as_loops(weights):
    rng = np.random.default_rng(0)
    memory = _random_memory(rng, 5, [True, False, True, True, False])
    found = _random_found(rng, 6)
    want = _score_loop(_in_float64(memory), _in_float64(found), weights)
    assert np.isneginf(want[:, [2, 5]]).all()
    np.testing.assert_allclose(score(memory, found, weights), want, rtol=2e-5)


def test_default_weights_are_those_of_the_original():
    assert MASKTRACK == (1.0, 2.0, 10.0)


def _golden_pair(arrays, kind):
    """Memory after frame 0 and detections of frame 1; embeddings give the logits."""
    if kind == "mmdet":
        (boxes0, labels0), (boxes1, labels1, scores) = (
            [arrays[f"f{t}_det_{name}"] for name in names]
            for t, names in (
                (0, ("boxes", "labels")),
                (1, ("boxes", "labels", "scores")),
            )
        )
        logits = arrays["sim_logits_1"]
    else:
        boxes0, boxes1 = (arrays[f"f{t}_dets"][:, :4] + _HALF_OPEN for t in (0, 1))
        labels0, labels1 = (arrays[f"f{t}_labels"] for t in (0, 1))
        scores, logits = arrays["f1_dets"][:, 4], arrays["match_score_1"]
    memory = queue.empty((), slots=10, embed_channels=10)._replace(
        embeds=jnp.eye(10),
        boxes=jnp.asarray(boxes0),
        labels=jnp.asarray(labels0, jnp.int32),
        live=jnp.ones(10, bool),
    )
    np.testing.assert_array_equal(logits[:, 0], 0)
    return memory, _found(boxes1, labels1, scores, logits[:, 1:])


@pytest.mark.parametrize(
    ("kind", "name"), [("mmdet", "match_scores_1"), ("orig", "comp_score_1")]
)
def test_score_equals_the_published_code(golden, kind, name):
    arrays = np.load(golden / f"parity/{kind}_masktrack_infer.npz")
    memory, found = _golden_pair(arrays, kind)
    got = score(memory, found, MASKTRACK)
    np.testing.assert_allclose(got, arrays[name], atol=1e-5)


# ------------------------------------------------------------------------ the choice


def _match_loop(scores, valid):
    """The original's loop: row by row, a better row takes a slot from a worse one."""
    holder, new = {}, set()
    for i, row in enumerate(scores):
        if not valid[i]:
            continue
        j = int(np.argmax(row))
        if j == 0:
            new.add(i)
        elif j not in holder or row[j] > scores[holder[j]][j]:
            holder[j] = i
    return {i: j - 1 for j, i in holder.items()}, new


@pytest.mark.parametrize("seed", range(12))
def test_match_equals_the_loop_of_the_original(seed):
    rng = np.random.default_rng(seed)
    # Whole numbers: many ties, within a row and between rows of one slot.
    scores = rng.integers(0, 5, (10, 7)).astype(np.float32)
    scores[:, rng.integers(1, 7)] = -np.inf  # a slot that is not in use
    valid = rng.uniform(size=10) < 0.8
    known, new = _match_loop(scores, valid)
    got = match(jnp.asarray(scores), jnp.asarray(valid))
    assert {int(i): int(got.slot[i]) for i in np.flatnonzero(got.known)} == known
    assert set(np.flatnonzero(got.new)) == new
    assert known
    assert len(known) + len(new) < valid.sum()  # some lost


def test_shared_match_equals_the_loop_of_mmdet():
    """Row by row; a better row takes the slot, but the worse one before it stays."""
    rng = np.random.default_rng(0)
    shared = 0
    for _ in range(12):
        scores = rng.integers(0, 12, (10, 5)).astype(np.float32)
        valid = rng.uniform(size=10) < 0.8
        best, known = {}, {}
        for i in np.flatnonzero(valid):
            j = int(np.argmax(scores[i]))
            if j and scores[i, j] > best.get(j, -np.inf):
                best[j] = scores[i, j]
                known[int(i)] = j - 1
        got = queue.match(jnp.asarray(scores), jnp.asarray(valid), shared=True)
        assert {int(i): int(got.slot[i]) for i in np.flatnonzero(got.known)} == known
        shared += len(known) - len(set(known.values()))
    assert shared > 3


def test_of_rows_that_share_a_slot_the_last_is_kept():
    memory, _, _ = _frame(_empty(), _objects([1]))
    found = _objects([1, 2])
    choice = queue.Match(jnp.zeros(2, int), jnp.ones(2, bool), jnp.zeros(2, bool))
    memory, ids, stays = queue.write(
        memory, found, choice, update_labels=False, expire_after=None
    )
    assert ids.tolist() == [0, 0]
    assert stays.all()
    np.testing.assert_array_equal(memory.boxes[0], found.boxes[1])


@pytest.mark.parametrize("t", [1, 2])
def test_match_gives_the_ids_of_the_original_code(golden, t):
    arrays = np.load(golden / "parity/orig_masktrack_infer.npz")
    got = match(jnp.asarray(arrays[f"comp_score_{t}"]), jnp.ones(10, bool))
    assert not got.new.any()
    ids = np.where(got.known, got.slot, -1)
    assert (ids == -1).any()
    np.testing.assert_array_equal(ids, arrays[f"f{t}_ids"])


def test_a_contested_slot_goes_to_the_first_row_on_ties_and_else_to_the_best():
    scores = jnp.array([[0.0, 5, 1], [0, 7, 1], [0, 7, 1], [9, 7, 1], [0, 1, 2]])
    got = match(scores, jnp.ones(5, bool))
    np.testing.assert_array_equal(got.known, [False, True, False, False, True])
    np.testing.assert_array_equal(got.new, [False, False, False, True, False])
    got = match(scores, jnp.array([True, False, False, True, True]))
    np.testing.assert_array_equal(got.known, [True, False, False, False, True])


# ------------------------------------------------------------------------- the write


def test_ids_count_up_and_are_never_reused():
    memory, seen = _empty(slots=3), []
    for t in range(6):  # all new in each frame: each evicts an older one
        memory, ids, stays = _frame(memory, _objects([2 * t, 2 * t + 1]))
        seen += ids
        assert stays == [True, True]
    assert seen == list(range(12))
    assert int(memory.next_id) == 12
    assert int(memory.evicted) == 12 - 3
    assert int(memory.frame) == 6


def test_known_tracks_keep_their_id_in_any_order():
    memory, ids, _ = _frame(_empty(), _objects([3, 1, 2]))
    assert ids == [0, 1, 2]
    memory, ids, _ = _frame(memory, _objects([2, 5, 3]))
    assert ids == [2, 3, 0]
    assert int(memory.evicted) == 0


@pytest.mark.parametrize("begin", [0, *range(2**31 - 6, 2**31)])  # the clock runs over
def test_a_full_queue_gives_up_the_longest_unseen(begin):
    memory = _empty(slots=3)._replace(frame=jnp.int32(begin))
    for objects in ([1, 2, 3], [1, 3], [3, 1], [2, 3], [4, 3]):
        memory, ids, _ = _frame(memory, _objects(objects))
    # Object 1 was last seen in frame 2, object 2 in frame 3: 1 had to leave.
    assert ids == [3, 2]
    assert set(_live(memory)) == {1, 2, 3}
    assert int(memory.evicted) == 1
    _, ids, _ = _frame(memory, _objects([1, 2]))
    assert ids == [4, 1]  # back, under a new id


def test_what_a_frame_matches_it_never_gives_away():
    memory, _, _ = _frame(_empty(slots=3), _objects([1]))
    memory, _, _ = _frame(memory, _objects([2, 3]))
    # Object 1 is the longest unseen until this very frame sees it again.
    memory, ids, stays = _frame(memory, _objects([4, 1, 5]))
    assert ids == [3, 0, 4]
    assert all(stays)
    assert set(_live(memory)) == {0, 3, 4}
    assert int(memory.evicted) == 2


@pytest.mark.parametrize("begin", [0, 2**31 - 3])
@pytest.mark.parametrize("expire_after", [1, 3])
def test_a_track_leaves_after_so_many_frames_unseen(expire_after, begin):
    for unseen in range(5):
        memory = _empty()._replace(frame=jnp.int32(begin))
        memory, _, _ = _frame(memory, _objects([1]), expire_after=expire_after)
        for _ in range(unseen):
            none = _objects([1], valid=[False])
            memory, _, _ = _frame(memory, none, expire_after=expire_after)
        stays = unseen < expire_after
        assert (0 in _live(memory)) == stays
        memory, ids, _ = _frame(memory, _objects([1]), expire_after=expire_after)
        assert ids == [0 if stays else 1]
        assert int(memory.evicted) == 0  # leaving on time is no eviction


def test_without_expiry_a_track_waits_forever():
    memory, _, _ = _frame(_empty(), _objects([1]))
    for _ in range(40):
        memory, _, _ = _frame(memory, _objects([1], valid=[False]))
    assert _frame(memory, _objects([1]))[1] == [0]


@pytest.mark.parametrize(("pause", "kept"), [(5999, True), (6000, False)])
def test_tracks_expire_by_the_time_that_is_told(pause, kept):
    memory, _, _ = _frame(_empty(), _objects([1]), expire_after=6000, now=2_000)
    unseen = _objects([1], valid=[False])
    memory, _, _ = _frame(memory, unseen, expire_after=6000, now=2_000 + pause)
    assert bool(memory.live.any()) == kept


@pytest.mark.parametrize("update_labels", [False, True])
def test_a_match_brings_box_and_embedding_and_the_label_if_told(update_labels):
    memory, _, _ = _frame(_empty(), _objects([1, 2], label=0))
    again = _objects([2], label=1)
    again = again._replace(boxes=again.boxes + 3, embeds=again.embeds * 4)
    memory, ids, _ = _frame(memory, again, update_labels=update_labels)
    assert ids == [1]
    slot = _live(memory)[1]
    np.testing.assert_array_equal(memory.boxes[slot], again.boxes[0])
    np.testing.assert_array_equal(memory.embeds[slot], again.embeds[0])
    assert int(memory.labels[slot]) == int(update_labels)
    assert int(memory.last_seen[slot]) == 1
    other = _live(memory)[0]  # unseen: all as it was
    np.testing.assert_array_equal(memory.boxes[other], _objects([1]).boxes[0])
    assert int(memory.last_seen[other]) == 0


def test_losers_are_dropped_and_leave_no_trace():
    memory, _, _ = _frame(_empty(), _objects([1]))
    twice = _objects([1, 1])
    twice = twice._replace(
        scores=jnp.array([0.5, 0.8]),
        boxes=twice.boxes.at[0].add(1.0),
    )
    memory, ids, stays = _frame(memory, twice)
    assert ids == [-1, 0]
    assert stays == [False, True]
    assert set(_live(memory)) == {0}
    np.testing.assert_array_equal(memory.boxes[_live(memory)[0]], twice.boxes[1])
    assert int(memory.next_id) == 1


def test_slots_that_are_not_in_use_never_match():
    rng = np.random.default_rng(0)
    found = _random_found(rng, 3)
    # What lies in the slots fits perfectly, but it is not live.
    memory = _random_memory(rng, 4, np.zeros(4, bool))._replace(
        boxes=jnp.pad(found.boxes, ((0, 1), (0, 0))),
        labels=jnp.pad(found.labels, (0, 1)),
        embeds=jnp.pad(100 * found.embeds, ((0, 1), (0, 0))),
    )
    _, ids, _ = _frame(memory, found)
    assert ids == [4, 5, 6]


def test_rows_that_are_not_valid_neither_match_nor_write():
    memory, ids, stays = _frame(
        _empty(), _objects([1, 2, 3], valid=[True, False, True])
    )
    assert ids == [0, -1, 1]
    assert stays == [True, False, True]
    before = memory
    memory, ids, _ = _frame(memory, _objects([1, 3, 4], valid=[False] * 3))
    assert ids == [-1] * 3
    jax.tree.map(
        np.testing.assert_array_equal, memory, before._replace(frame=jnp.int32(2))
    )


def test_more_detections_than_slots_are_refused():
    choice = Match(jnp.zeros(5, jnp.int32), jnp.zeros(5, bool), jnp.ones(5, bool))
    with pytest.raises(
        ValueError, match="slots: must hold 5 detections of a frame, is 4"
    ):
        queue.write(
            _empty(slots=4),
            _objects(range(5)),
            choice,
            update_labels=False,
            expire_after=None,
        )


def test_a_video_that_has_not_begun_has_nothing_in_its_memory():
    maps = (jax.ShapeDtypeStruct((2, 3, 5), jnp.bfloat16),)
    memory = queue.empty(maps, slots=4, embed_channels=16)
    (feature,) = memory.features
    assert (feature.shape, feature.dtype) == ((2, 3, 5), jnp.bfloat16)
    assert all((np.asarray(x, np.float32) == 0).all() for x in jax.tree.leaves(memory))


# -------------------------------------------------------------------- all of it, long


class SlowQueue:
    """The same queue, written with dicts: slot -> track."""

    def __init__(self, slots, update_labels, expire_after):
        self.slots, self.tracks = slots, {}
        self.update_labels, self.expire_after = update_labels, expire_after
        self.next_id = self.evicted = self.frame = 0

    def step(self, found, memory):
        """Ids of the detections; memory: only its arrays that scores are made of."""
        known, new = _match_loop(
            _score_loop(_in_float64(memory), _in_float64(found), MASKTRACK), found.valid
        )
        ids = [-1] * len(found.scores)
        for i, slot in known.items():
            self.put(slot, i, found, self.tracks[slot]["id"])
            ids[i] = self.tracks[slot]["id"]
        for i in sorted(new):
            slot = self.room()
            self.put(slot, i, found, self.next_id)
            ids[i] = self.next_id
            self.next_id += 1
        for slot, track in list(self.tracks.items()):
            age = self.frame - track["last_seen"]
            if self.expire_after is not None and age >= self.expire_after:
                del self.tracks[slot]
        self.frame += 1
        return ids

    def put(self, slot, i, found, track_id):
        label = int(found.labels[i])
        if slot in self.tracks and not self.update_labels:
            label = self.tracks[slot]["label"]
        self.tracks[slot] = dict(
            id=track_id,
            label=label,
            last_seen=self.frame,
            box=found.boxes[i].tolist(),
            embed=found.embeds[i].tolist(),
        )

    def room(self):
        for slot in range(self.slots):
            if slot not in self.tracks:
                return slot
        slot = min(self.tracks, key=lambda s: (self.tracks[s]["last_seen"], s))
        del self.tracks[slot]
        self.evicted += 1
        return slot


@pytest.mark.parametrize(
    ("update_labels", "expire_after"), [(False, None), (True, 3), (False, 1)]
)
def test_a_long_video_equals_a_slow_queue(update_labels, expire_after):
    rng = np.random.default_rng(5)
    prototypes = 2 * rng.normal(size=(12, E))
    memory = queue.empty((), slots=7, embed_channels=E)
    slow = SlowQueue(7, update_labels, expire_after)
    lost = known = 0
    for _ in range(40):
        valid = np.arange(5) < rng.integers(0, 6)
        found = _random_found(rng, 5, prototypes, valid)
        want = slow.step(found, memory)
        before = int(memory.next_id)
        memory, ids, stays = _frame(
            memory, found, update_labels=update_labels, expire_after=expire_after
        )
        assert ids == want
        assert stays == [i >= 0 for i in ids]
        lost += valid.sum() - sum(stays)
        known += sum(0 <= i < before for i in ids)
        assert _live(memory) == {t["id"]: s for s, t in slow.tracks.items()}
        for slot, track in slow.tracks.items():
            assert int(memory.labels[slot]) == track["label"]
            assert int(memory.last_seen[slot]) == track["last_seen"]
            assert memory.boxes[slot].tolist() == track["box"]
            assert memory.embeds[slot].tolist() == track["embed"]
        assert (int(memory.next_id), int(memory.frame)) == (slow.next_id, slow.frame)
        assert int(memory.evicted) == slow.evicted
    # The video holds all that can happen.
    assert lost > 5
    assert known > 10
    assert slow.evicted > 0 or expire_after
