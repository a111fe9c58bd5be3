from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model

from stan_jax.tracking import rollout

T, SLOTS = 4, 10
SIZE = jnp.array([60, 88])  # inside a canvas of 64 x 96

HOW: dict[str, Any] = dict(
    thresholds=tiny_model.THRESHOLDS,
    association=tiny_model.ASSOCIATION,
    first_frame="self",
)
_static = tuple(HOW)
jitted_clip = jax.jit(rollout.clip, static_argnames=_static)
jitted_step = jax.jit(rollout.step, static_argnames=_static)


def clip(*args, **options):
    return jitted_clip(*args, **(HOW | options))


def step(*args, **options):
    return jitted_step(*args, **(HOW | options))


@pytest.fixture(scope="module")
def model():
    return tiny_model.build()


@pytest.fixture(scope="module")
def videos():
    """Two videos of 6 frames."""
    return [jnp.asarray(tiny_model.moving(seed, 6)) for seed in (1, 2)]


def _start(model):
    return rollout.start(model, tiny_model.CANVAS, slots=SLOTS)


def _clips(model, video, *lengths, memory=None, **options):
    """The tracks of a video cut into clips of these lengths, padded to T frames."""
    memory, found, first = memory or _start(model), [], 0
    for length in lengths:
        frames = np.zeros((T, *video.shape[1:]), np.uint8)
        frames[:length] = video[first : first + length]
        valid = jnp.arange(T) < length
        memory, tracks = clip(
            model, memory, jnp.asarray(frames), SIZE, valid, **options
        )
        found.append(jax.tree.map(lambda x, n=length: x[:n], tracks))
        first += length
    return memory, jax.tree.map(lambda *x: jnp.concatenate(x), *found)


def _steps(model, video, memory=None):
    memory, found = memory or _start(model), []
    for frame in video:
        memory, tracks = step(model, memory, frame, SIZE)
        found.append(tracks)
    return memory, jax.tree.map(lambda *x: jnp.stack(x), *found)


def _bitwise(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


def _agree(got, want):
    """Same ids, labels and masks; numbers to 1e-4."""
    for name in ("ids", "labels", "valid"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    np.testing.assert_array_equal(got.masks >= 0.5, want.masks >= 0.5)
    np.testing.assert_allclose(got.scores, want.scores, atol=1e-4)
    np.testing.assert_allclose(got.boxes, want.boxes, atol=1e-2)


def _memories_agree(got, want):
    for name in ("live", "ids", "labels", "last_seen", "next_id", "frame", "evicted"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    for a, b in zip(got.features, want.features, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_the_videos_of_these_tests_hold_all_that_can_happen(model, videos):
    for video in videos:
        memory, tracks = _clips(model, video, 4, 2)
        ids = [
            set(np.asarray(i)[v]) for i, v in zip(tracks.ids, tracks.valid, strict=True)
        ]
        assert ids[0] & ids[1] & ids[2]  # known tracks
        assert set.union(*ids) - ids[0]  # tracks that are new later
        assert (~tracks.valid & (tracks.scores > 0)).any()  # losers
        assert int(memory.frame) == 6


def test_clip_equals_step_frame_by_frame(model, videos):
    for video in videos:
        memory, tracks = _clips(model, video, 4, 2)
        slow_memory, slow = _steps(model, video)
        _agree(tracks, slow)
        _memories_agree(memory, slow_memory)


def test_how_a_video_is_cut_into_clips_changes_nothing(model, videos):
    memory, tracks = _clips(model, videos[0], 4, 2)
    for lengths in ((2, 4), (1, 3, 2), (3, 3)):
        other_memory, other = _clips(model, videos[0], *lengths)
        _agree(other, tracks)
        _memories_agree(other_memory, memory)


def test_two_videos_interleaved_equal_each_alone(model, videos):
    memories, found = [_start(model) for _ in videos], [[], []]
    for frames in zip(*videos, strict=True):
        for i, frame in enumerate(frames):
            memories[i], tracks = step(model, memories[i], frame, SIZE)
            found[i].append(tracks)
    for i, video in enumerate(videos):
        memory, alone = _steps(model, video)
        _bitwise(jax.tree.map(lambda *x: jnp.stack(x), *found[i]), alone)
        _bitwise(memories[i], memory)


def test_two_videos_under_vmap_equal_one_by_one(model, videos):
    both = jax.jit(
        jax.vmap(partial(rollout.clip, model, **HOW), in_axes=(None, 0, None, None))
    )
    frames = jnp.stack([video[:T] for video in videos])
    memory, tracks = both(_start(model), frames, SIZE, jnp.ones(T, bool))
    for i, video in enumerate(videos):
        want_memory, want = _clips(model, video, T)
        one = partial(jax.tree.map, lambda x, i=i: x[i])
        _agree(one(tracks), want)
        _memories_agree(one(memory), want_memory)


@jax.jit
def _explicit(model, video, previous):
    """What is found in each frame of a video, given the frame before each."""
    sizes = jnp.broadcast_to(SIZE[None], (len(video), 2))
    x0 = [x[:, None] for x in model.attended(model.features(previous, sizes))]
    x1, thresholds = model.features(video, sizes), tiny_model.THRESHOLDS
    levels = model.attend(x0, x1, sizes)
    proposals = model.proposals(levels, sizes, thresholds)
    return model.detect(levels, proposals, sizes, thresholds)


def test_each_frame_attends_to_the_raw_one_before_and_the_first_to_itself(
    model, videos
):
    for video in videos:
        video = video[:T]
        _, tracks = _clips(model, video, 1, 3)  # across the border of two clips
        found = _explicit(model, video, jnp.concatenate([video[:1], video[:-1]]))
        np.testing.assert_array_equal(tracks.labels, found.labels)
        np.testing.assert_allclose(tracks.scores, found.scores, atol=1e-4)
        np.testing.assert_allclose(tracks.boxes, found.boxes, atol=1e-2)
    # It is this very frame that matters: with another, scores differ.
    other = _explicit(model, video, jnp.concatenate([video[:1], video[1:]]))
    assert np.abs(other.scores - found.scores).max(1).tolist()[0] == 0
    assert (np.abs(other.scores - found.scores).max(1)[1:] > 1e-3).all()


# A13 and A14: what the queue keeps, and of how many frames.
queues = pytest.mark.parametrize(
    "queue",
    [
        dict(frames=2, value_source="previous"),
        dict(frames=3, value_source="both", stored="attended"),
        dict(stored="attended"),
    ],
    ids=str,
)


def _with_queue(queue):
    # So small a factor on the logits that no frame is without weight.
    sta = tiny_model.SETTINGS["sta"] | dict(scale=0.05) | queue
    model = tiny_model.build(sta=sta)
    if model.sta.age is not None:
        ages = jnp.linspace(0.5, -0.5, model.sta.age.shape[1])
        model.sta.age[...] = jnp.broadcast_to(ages, model.sta.age.shape)
    return model


@queues
def test_a_longer_queue_is_the_same_frame_by_frame_and_however_it_is_cut(queue, videos):
    model = _with_queue(queue)
    memory, tracks = _clips(model, videos[0], 4, 2)
    for other_memory, other in (
        _steps(model, videos[0]),
        _clips(model, videos[0], 1, 3, 2),
    ):
        _agree(other, tracks)
        _memories_agree(other_memory, memory)


@queues
def test_a_longer_queue_holds_what_equation_3_gives_of_the_frames_before(queue, videos):
    model, video = _with_queue(queue), videos[0][:4]
    memory, _ = _clips(model, video, 3, 1)
    raw = [model.attended(model.features(frame[None], SIZE[None])) for frame in video]
    sizes, q = SIZE[None], model.sta.frames
    stored: list[Any] = []  # the newest first
    for x in raw:
        past = [y for _, y in zip(range(q), stored or [x], strict=False)]
        known = jnp.arange(q)[None] < len(past)
        past += [jax.tree.map(jnp.zeros_like, x)] * (q - len(past))
        levels = [jnp.stack(level, 1) for level in zip(*past, strict=True)]
        new = model.sta(levels, x, sizes, known)
        stored.insert(0, x if model.sta.stored == "raw" else new)
    for level, held in enumerate(memory.features):
        want = [x[level][0] for x in stored[:q]]
        np.testing.assert_allclose(held, jnp.stack(want), atol=2e-3)


def test_a_queue_of_attended_maps_remembers_more_than_one_frame(videos):
    other = videos[0].at[0].set(videos[1][0])
    for stored, differs in (("raw", False), ("attended", True)):
        model = _with_queue(dict(stored=stored, value_source="previous"))
        (_, got), (_, want) = (_clips(model, v, 4) for v in (other, videos[0]))
        assert (got.scores[1] != want.scores[1]).any()
        assert bool((got.scores[2] != want.scores[2]).any()) == differs


def test_a_new_video_does_not_see_the_features_of_the_last(model, videos):
    fresh = _start(model)
    stale, _ = _clips(model, videos[0], T)
    want = _clips(model, videos[1], T, memory=fresh)
    got = _clips(model, videos[1], T, memory=fresh._replace(features=stale.features))
    _bitwise(got, want)
    # Once it has begun it does.
    begun = fresh._replace(frame=jnp.int32(1))
    _, blank = _clips(model, videos[1], T, memory=begun)
    assert (blank.scores[0] != want[1].scores[0]).any()
    _, stale = _clips(
        model, videos[1], T, memory=begun._replace(features=stale.features)
    )
    assert (stale.scores[0] != blank.scores[0]).any()


def test_padding_frames_leave_no_trace(model, videos):
    memory, _ = _clips(model, videos[0], 3)
    nothing = jnp.zeros(T, bool)
    after, tracks = clip(model, memory, videos[1][:T], SIZE, nothing)
    _bitwise(after, memory)
    assert not tracks.valid.any()

    # Behind true frames, whatever they show.
    two = jnp.arange(T) < 2
    results = [
        clip(model, memory, videos[1][:T].at[2:].set(rest), SIZE, two)
        for rest in (videos[0][4:], 0)
    ]
    first = [(m, jax.tree.map(lambda x: x[:2], t)) for m, t in results]
    _bitwise(*first)
    assert int(first[0][0].frame) == 3 + 2
    assert not results[0][1].valid[2:].any()


def test_gamma_0_tracks_as_the_baseline_bit_for_bit(videos):
    model = tiny_model.build()
    plain = tiny_model.without_attention(model)
    attentive = _clips(model, videos[0], 4, 2)
    model.sta.gamma[...] = jnp.zeros(4)
    got, want = (_clips(m, videos[0], 4, 2) for m in (model, plain))
    _bitwise(got[1], want[1])
    _bitwise(got[0]._replace(features=()), want[0])
    assert (attentive[1].scores != want[1].scores).any()


def test_skip_leaves_the_first_frame_of_a_video_as_it_is(model, videos):
    plain = tiny_model.without_attention(model)
    (memory, got), (_, attentive), (_, raw) = (
        _clips(model, videos[0], 4, 2, first_frame="skip"),
        _clips(model, videos[0], 4, 2),
        _clips(plain, videos[0], 4, 2),
    )
    for name in ("boxes", "scores", "masks"):
        first, later = getattr(got, name)[:1], getattr(got, name)[1:]
        np.testing.assert_allclose(first, getattr(raw, name)[:1], atol=1e-4)
        # Also at the start of the second clip, which is not that of the video.
        np.testing.assert_allclose(later, getattr(attentive, name)[1:], atol=1e-4)
    assert (got.scores[0] != attentive.scores[0]).any()
    assert int(memory.frame) == 6


def test_another_way_of_the_first_frame_is_refused(model, videos):
    with pytest.raises(
        ValueError, match="first_frame: must be 'self' or 'skip', is 'none'"
    ):
        rollout.clip(
            model,
            _start(model),
            videos[0],
            SIZE,
            jnp.ones(6, bool),
            **(HOW | dict(first_frame="none")),
        )


def test_options_of_the_queue_arrive_there(model, videos):
    short = tiny_model.ASSOCIATION._replace(expire_after=1)
    memory, _ = _clips(model, videos[0], 4, association=short)
    _, everything = _clips(model, videos[0], 4)
    assert (memory.last_seen[memory.live] == 3).all()
    assert set(memory.ids[memory.live].tolist()) < set(everything.ids.ravel().tolist())


def test_memory_starts_in_the_shapes_and_types_that_clip_returns(model):
    frames = jax.ShapeDtypeStruct((T, *tiny_model.CANVAS, 3), jnp.uint8)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), model)
    for given, dtype in ((model, jnp.float32), (half, jnp.bfloat16)):
        memory = _start(given)
        assert {x.dtype for x in memory.features} == {np.dtype(dtype)}
        after, _ = jax.eval_shape(
            partial(rollout.clip, **HOW),
            given,
            memory,
            frames,
            SIZE,
            jnp.ones(T, bool),
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_equal(
                (a.shape, a.dtype), (b.shape, b.dtype)
            ),
            after,
            memory,
        )
    assert _start(tiny_model.without_attention(model)).features == ()


@pytest.fixture
def cached_operations():
    """Keeps single operations in the compile cache too: there are many of them."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 0.0)
    yield
    jax.config.update(name, before)


@pytest.mark.slow
@pytest.mark.usefixtures("cached_operations")
def test_jit_equals_eager(model, videos):
    valid = jnp.arange(2) < 2
    got = clip(model, _start(model), videos[0][:2], SIZE, valid)
    want = rollout.clip(model, _start(model), videos[0][:2], SIZE, valid, **HOW)
    _agree(got[1], want[1])
    _memories_agree(got[0], want[0])
