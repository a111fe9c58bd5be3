import itertools
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model

from stan_jax.errors import InputError
from stan_jax.masks import codec
from stan_jax.media.source import Frame
from stan_jax.model import parameters
from stan_jax.ops import canvas
from stan_jax.tracking import rollout, tracker
from stan_jax.tracking.frame_tracks import FrameTracks
from stan_jax.tracking.program import Program
from stan_jax.tracking.tracker import State, Tracker
from tests import runs

# Only what has moved away can be the same: most detections are new tracks.
RESTLESS = tiny_model.ASSOCIATION._replace(
    weights=tiny_model.MATCH_COEFF._replace(iou=-1e3, label=1e3)
)
SIZE = (90, 140)  # of the videos here, neither the canvas nor its ratio


@pytest.fixture(scope="module")
def model():
    return tiny_model.build()


@pytest.fixture(scope="module")
def tracks(model):
    return tiny_model.tracker(model)


@pytest.fixture(scope="module")
def video():
    small = tiny_model.moving(1, 7)
    return [canvas.resize_frame(frame, SIZE) for frame in small]


def _same(got, want):
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert (a.index, a.size_hw, a.evicted) == (b.index, b.size_hw, b.evicted)
        np.testing.assert_array_equal(a.ids, b.ids)
        np.testing.assert_array_equal(a.labels, b.labels)
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)
        np.testing.assert_allclose(a.boxes, b.boxes, atol=2e-2)
        assert a.masks.shape == (len(a.ids), *SIZE)
        assert (a.masks != b.masks).mean() < 1e-4 if len(a.ids) else True


def _steps(tracks, video):
    state, shown = tracks.start(SIZE), []
    for frame in video:
        state, now = tracks.step(state, frame)
        shown.append(now)
    return state, shown


def test_track_equals_step_after_step(tracks, video):
    want = _steps(tracks, video)[1]
    assert sum(len(frame.ids) for frame in want) > 10
    _same(list(tracks.track(video)), want)
    # Length unknown beforehand, and one frame more than whole clips.
    _same(list(tracks.track(frame for frame in video)), want)


def test_tracks_are_those_of_the_clip_with_masks_of_the_frame(model, tracks, video):
    h, w = tracks.fitted_hw(SIZE)
    padded = np.zeros((len(video), *tiny_model.CANVAS, 3), np.uint8)
    for row, frame in zip(padded, video, strict=True):
        row[:h, :w] = canvas.resize_frame(frame, (h, w))
    memory = rollout.start(model, tiny_model.CANVAS, slots=tiny_model.TRACKING.slots)
    settings = tiny_model.TRACKING
    clip = jax.jit(
        lambda memory, frames: rollout.clip(
            model,
            memory,
            frames,
            jnp.array([h, w]),
            jnp.ones(len(video), bool),
            thresholds=settings.thresholds,
            association=settings.association,
            first_frame=settings.first_frame,
        )
    )
    memory, want = clip(memory, jnp.asarray(padded))
    for t, frame in enumerate(tracks.track(video)):
        valid = np.asarray(want.valid[t])
        np.testing.assert_array_equal(frame.ids, want.ids[t][valid])
        np.testing.assert_array_equal(frame.labels, want.labels[t][valid])
        scale = np.tile(np.array(SIZE) / (h, w), 2)[[1, 0, 3, 2]]
        np.testing.assert_allclose(
            frame.boxes, np.asarray(want.boxes)[t][valid] * scale, rtol=1e-4, atol=2e-2
        )
        for box, mask in zip(frame.boxes, frame.masks, strict=True):
            ys, xs = np.nonzero(mask)
            if len(ys):  # half a cell of the grid may lie beyond the box
                reach = (box[2:] - box[:2]).max() / 28 + 1
                assert xs.min() >= box[0] - reach
                assert ys.max() <= box[3] + reach


def test_state_is_a_value_that_can_be_kept_and_resumed(tracks, video):
    state, _ = _steps(tracks, video[:3])
    leaves, structure = jax.tree.flatten(state.memory)
    kept = [np.asarray(x).copy() for x in leaves]
    first = [tracks.step(state, frame)[1] for frame in video[3:4]]
    again = State(jax.tree.unflatten(structure, kept), state.size_hw)
    _same([tracks.step(again, video[3])[1]], first)


def test_frames_may_come_as_small_as_the_model_sees_them(tracks, video):
    fitted = tracks.fitted_hw(SIZE)
    small = [canvas.resize_frame(frame, fitted) for frame in video]
    _same(list(tracks.track(small, size_hw=SIZE)), list(tracks.track(video)))


def test_portrait_videos_have_a_canvas_of_their_own(tracks, video):
    tall = [frame.transpose(1, 0, 2) for frame in video]
    shown = list(tracks.track(tall))
    assert all(frame.size_hw == SIZE[::-1] for frame in shown)
    assert tracks.start(SIZE[::-1]).size_hw == SIZE[::-1]


def test_no_frames_are_no_tracks(tracks):
    assert list(tracks.track([])) == []


def test_program_is_traced_once_for_each_orientation_and_serves_any_parameters(video):
    model, other = tiny_model.build(), tiny_model.build(5)
    structure, values = parameters.split(model)
    program = Program(structure, values, tiny_model.TRACKING)
    both = [
        list(Tracker(program, given).track(video))
        for given in (values, parameters.split(other)[1])
    ]
    assert program.traces == 1
    assert any(
        a.scores.tolist() != b.scores.tolist() for a, b in zip(*both, strict=True)
    )
    list(Tracker(program, values).track([f.transpose(1, 0, 2) for f in video]))
    assert program.traces == 2


def test_a_program_keeps_no_parameters(model):
    structure, values = parameters.split(model)
    program = Program(structure, values, tiny_model.TRACKING)
    kept = jax.tree.leaves(program.like)
    assert len(kept) == len(jax.tree.leaves(values))
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in kept)


def test_memory_of_a_frame_does_not_hold_its_masks(tracks, video):
    big = [canvas.resize_frame(video[0], (720, 1120))]
    (frame,) = tracks.track(big)
    assert len(frame.ids)
    size = sum(len(rle["counts"]) for rle in frame.segmentations)
    assert size < 0.05 * frame.masks.size


def test_rows_above_a_score_keep_their_masks(tracks, video):
    frame = next(frame for frame in tracks.track(video) if len(frame.ids) > 2)
    score = float(np.sort(frame.scores)[-2])
    kept = frame.above(score)
    assert len(kept.ids) == len(kept.segmentations) == 2
    rows = frame.scores >= score
    np.testing.assert_array_equal(kept.masks, frame.masks[rows])
    assert set(kept.arrays()) == {"ids", "labels", "scores", "boxes", "masks"}


def test_tracks_that_left_a_full_memory_are_counted(model, video):
    few = tiny_model.TRACKING._replace(slots=6, association=RESTLESS)
    shown = list(tiny_model.tracker(model, few).track(video * 2))
    counts = [frame.evicted for frame in shown]
    assert counts == sorted(counts)
    assert counts[-1] > 0
    state, steps = _steps(tiny_model.tracker(model, few), video * 2)
    assert [frame.evicted for frame in steps] == counts
    assert int(state.memory.evicted) == counts[-1]


def test_of_rows_with_one_id_the_last_is_shown():
    got = tracker._last_of_each_id(
        np.array([3, 4, 3, 3, -1]), np.array([True, True, True, False, False])
    )
    np.testing.assert_array_equal(got, [False, True, True, False, False])


def test_masks_are_stretched_to_the_frame():
    given = np.array([[2, 4, 10, 12], [0, 0, 0, 0]], np.float32)
    boxes = tracker._scaled(given, (16, 32), (32, 48), False)
    np.testing.assert_allclose(boxes[0], [3, 8, 15, 24])
    grid = np.ones((4, 4), np.float32)
    first, second = (tracker._pasted(grid, box, (32, 48), False) for box in boxes)
    want = np.zeros((32, 48), bool)
    want[8:24, 3:15] = True
    want[[8, 8, 23, 23], [3, 14, 3, 14]] = False  # bilinear: corners are rounded
    np.testing.assert_array_equal(codec.decode(first), want)
    assert not codec.area(second)


def test_legacy_paste_takes_the_last_pixel_to_the_larger_frame():
    """Inclusive 10..19 of 32 becomes 20..38 of 64, not 20..39."""
    given = np.array([[10, 10, 20, 20]], np.float32)
    boxes = tracker._scaled(given, (32, 32), (64, 64), True)
    np.testing.assert_array_equal(boxes[0], [20, 20, 39, 39])
    grid = np.ones((28, 28), np.float32)
    mask = codec.decode(tracker._pasted(grid, boxes[0], (64, 64), True))
    rows = np.flatnonzero(mask.any(1))
    assert (rows[0], rows[-1]) == (20, 38)
    boxes = tracker._scaled(given, (32, 32), (64, 64), False)
    np.testing.assert_array_equal(boxes[0], [20, 20, 40, 40])


# ---- times, scenes, sources


def _frames(video, times, fresh=()):
    return [
        Frame(image, seconds, 0.1, t in fresh)
        for t, (image, seconds) in enumerate(zip(video, times, strict=True))
    ]


def test_the_clock_of_the_memory_counts_seconds_where_they_are_known(
    tracks, video, monkeypatch
):
    clocks, clip = [], tracks.program.clip

    def spied(*args):
        clocks.extend(args[-1][args[-2]].tolist())
        return clip(*args)

    monkeypatch.setattr(tracks.program, "clip", spied)
    second = tracker.TICKS * tracker.FRAMES_PER_S
    for rate in (3, 6, 24):
        clocks.clear()
        list(tracks.track(_frames(video, [t / rate for t in range(7)])))
        assert clocks == [round(second * t / rate) for t in range(7)]
    clocks.clear()
    list(tracks.track(video))  # without times each is a frame of a training set
    assert clocks == [tracker.TICKS * t for t in range(7)]


def test_a_camera_may_run_until_the_clock_begins_anew(tracks, video):
    late = 2**31 // tracker.TICKS - 3  # a day of 25 frames a second
    early, state = tracks.start(SIZE), tracks.start(SIZE)._replace(before=late)
    for t, image in enumerate(video):
        early, want = tracks.step(early, image)
        state, got = tracks.step(state, image)
        assert (want.index, got.index) == (t, late + t)
        np.testing.assert_array_equal(got.ids, want.ids)


def test_a_fresh_frame_begins_a_memory_and_never_an_old_id(tracks, video):
    times = [t / 10 for t in range(14)]
    given = _frames(video * 2, times, fresh=(0, 7))
    got = list(tracks.track(given))
    whole = list(tracks.track(video))
    assert [x.index for x in got] == list(range(14))
    before = {i for x in got[:7] for i in x.ids.tolist()}
    after = {i for x in got[7:] for i in x.ids.tolist()}
    assert before
    assert after
    assert not before & after
    shift = min(after)
    for a, b in zip(got[7:], whole, strict=True):  # as a video that begins there
        np.testing.assert_array_equal(a.ids - shift, b.ids)
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)


def test_a_fresh_frame_may_have_another_size(tracks, video):
    other = [canvas.resize_frame(frame, (120, 80)) for frame in video[:4]]
    given = _frames(video[:4] + other, [t / 10 for t in range(8)], fresh=(0, 4))
    got = list(tracks.track(given))
    assert [x.size_hw for x in got] == [SIZE] * 4 + [(120, 80)] * 4
    assert got[5].masks.shape[1:] == (120, 80)
    with pytest.raises(InputError, match="must be 90 x 140"):
        list(tracks.track(_frames(video[:4] + other, [t / 10 for t in range(8)])))


def test_step_takes_the_time_of_a_frame(tracks, video):
    state, shown = tracks.start(SIZE), []
    for t, image in enumerate(video):
        state, now = tracks.step(state, image, seconds=t / 25)
        shown.append(now)
    _same(shown, list(tracks.track(video, fps=25)))
    assert [x.seconds for x in shown] == [t / 25 for t in range(len(video))]
    assert shown[3].classes == [("cat", "dog", "cow")[i] for i in shown[3].labels]


def test_states_can_be_forked_and_run_side_by_side(tracks, video):
    state, _ = tracks.step(tracks.start(SIZE), video[0])
    ahead, first = tracks.step(state, video[1])
    _, second = tracks.step(state, video[1])  # rewound
    _same([first], [second])
    assert (state.seen, ahead.seen) == (1, 2)


def test_a_window_is_for_what_is_named(tracks, video):
    with pytest.raises(InputError, match="choose frames before"):
        tracks.track(video, every=2)


def test_detections_of_supervision_hold_the_same(tracks, video, monkeypatch):
    class Detections:
        def __init__(self, **fields):
            self.fields = fields

    package = types.SimpleNamespace(Detections=Detections)
    monkeypatch.setitem(sys.modules, "supervision", package)
    frame = next(frame for frame in tracks.track(video) if len(frame.ids) > 2)
    fields = frame.to_supervision().fields
    np.testing.assert_array_equal(fields["mask"], frame.masks)
    np.testing.assert_array_equal(fields["tracker_id"], frame.ids)
    np.testing.assert_array_equal(fields["xyxy"], frame.boxes)
    assert fields["data"]["class_name"].tolist() == frame.classes


# ---- wrong calls: one line each, that says the cure


@pytest.mark.parametrize(
    ("setting", "value", "rule"),
    [
        ("slots", 3, "must hold 6 detections of a frame, is 3"),
        ("slots", 0, "must be above 0, is 0"),
        ("first_frame", "none", "must be 'self' or 'skip', is 'none'"),
        ("clip_length", 0, "must be above 0, is 0"),
        ("dtype", "float8", "must be one of float32, bfloat16, is 'float8'"),
        ("canvas", (96, 64), "must be landscape and hold 64 x 96, is 96 x 64"),
        ("canvas", (72, 96), "must have sides that divide by 32, is 72 x 96"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_any_frame(
    model, setting, value, rule
):
    with pytest.raises(InputError, match=f"^{setting}: {rule}"):
        tiny_model.tracker(model, tiny_model.TRACKING._replace(**{setting: value}))


def test_scale_that_leaves_the_canvas_is_refused(model):
    with pytest.raises(InputError, match="hold 64 x 128, is 64 x 96"):
        tiny_model.tracker(model, tiny_model.TRACKING._replace(scale_hw=(64, 128)))


FRAME = np.zeros((*SIZE, 3), np.uint8)
WRONG_FRAMES = {
    "floats in 0..1": (FRAME / 255, "uint8 in 0..255, is float64: .*255"),
    "wide integers": (FRAME.astype(np.int64), "must be uint8 .* is int64"),
    "swapped sides": (FRAME.transpose(1, 0, 2), "is 140 x 90: are height and width"),
    "another size": (FRAME[:50], "must be 90 x 140 .height x width., is 50 x 140"),
    "alpha": (np.zeros((*SIZE, 4), np.uint8), r"leave out alpha, frame\[..., :3\]"),
    "grey": (FRAME[..., 0], "a grey picture needs its channel three times"),
    "one channel": (FRAME[..., :1], "a grey picture needs its channel three times"),
    "channels first": (FRAME.transpose(2, 0, 1), r"frame.transpose\(1, 2, 0\)"),
    "a batch": (FRAME[None], "pass frames one at a time"),
    "empty": (FRAME[:0], r"must be \[height width 3\], is \[0, 140, 3\]"),
    "a list": (FRAME.tolist(), "is a list: np.asarray"),
    "a path": ("frame.png", "is a str: np.asarray"),
    "none": (None, "is a NoneType"),
}


@pytest.mark.parametrize("name", WRONG_FRAMES)
def test_wrong_frame_is_one_line_with_the_cure(tracks, name):
    frame, rule = WRONG_FRAMES[name]
    state = tracks.start(SIZE)
    with pytest.raises(InputError, match=rule) as caught:
        tracks.step(state, frame)
    assert "\n" not in str(caught.value)
    for number in (1, 4):  # in the first clip, and in the second
        with pytest.raises(InputError, match=f"frames: frame {number}: "):
            list(tracks.track([*[FRAME] * number, frame]))


@pytest.mark.parametrize(
    ("frames", "rule"),
    [
        (FRAME, "is one picture .90, 140, 3.: use .frame., or tracker.step"),
        ("clip.mp4", "^clip.mp4: there is no such file, folder or camera"),
        (b"clip.mp4", "must be an iterable of RGB pictures.*is a bytes"),
        (5, "must be an iterable of RGB pictures.*is a int"),
    ],
)
def test_what_is_no_sequence_of_frames_is_refused(tracks, frames, rule):
    with pytest.raises(InputError, match=rule):
        tracks.track(frames)  # at once, before anything is iterated over


@pytest.mark.parametrize(
    ("size", "rule"),
    [
        ((0, 5), "height and width must be at least 1, are 0 and 5"),
        ((90.5, 140), "two whole numbers, .height, width., is"),
        ("90x140", "two whole numbers"),
        (90, "two whole numbers"),
        ((90, 140, 3), "two whole numbers"),
    ],
)
def test_size_that_is_none_is_refused(tracks, size, rule):
    with pytest.raises(InputError, match=f"^size_hw: .*{rule}"):
        tracks.start(size)
    with pytest.raises(InputError, match=f"^size_hw: .*{rule}"):
        tracks.track([FRAME], size_hw=size)


def test_state_of_another_tracker_or_of_none_is_refused(model, tracks):
    other = tiny_model.tracker(model, tiny_model.TRACKING._replace(slots=9))
    with pytest.raises(InputError, match="of another tracker or canvas; begin with"):
        tracks.step(other.start(SIZE), FRAME)
    with pytest.raises(InputError, match="what start or step returned, is a NoneType"):
        tracks.step(None, FRAME)
    with pytest.raises(InputError, match="is a MemoryQueue"):
        tracks.step(tracks.start(SIZE).memory, FRAME)


def test_every_mask_of_a_frame_decodes_to_its_size():
    mask = np.zeros(SIZE, bool)
    mask[3:9, 5:50] = True
    arrays = [np.zeros(1, int), np.zeros(1, int), np.ones(1), np.zeros((1, 4))]
    frame = FrameTracks(0, SIZE, *arrays, (codec.encode(mask),), 0)
    np.testing.assert_array_equal(frame.masks, mask[None])
    none = frame._replace(segmentations=(), **dict.fromkeys(["ids"], np.zeros(0, int)))
    assert none.masks.shape == (0, *SIZE)
    assert list(itertools.chain(none.masks)) == []


# Not ru_maxrss: that of a process begins with what its parent held.
LARGE = """
import sys
sys.path[:0] = ["tests"]
import numpy as np
import tiny_model

thresholds = tiny_model.THRESHOLDS._replace(
    score_threshold=0.0, detections=100, proposals=300, pre_nms=300, box_nms=1.0,
    rpn_nms=1.0, nms_candidates=2000,
)
settings = tiny_model.TRACKING._replace(thresholds=thresholds, slots=128)
tracker = tiny_model.tracker(tiny_model.build(), settings)
frame = np.random.default_rng(0).integers(0, 256, (2160, 3840, 3), np.uint8)
counts = [len(shown.segmentations) for shown in tracker.track([frame, frame])]
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(*counts, int(status["VmHWM"].split()[0]) / 1e6)
"""


@pytest.mark.slow
def test_hundred_masks_of_a_4k_frame_fit_into_memory():
    """Pasted at once they would be 3.3 GB as probabilities alone."""
    done = subprocess.run(
        [sys.executable, "-c", LARGE], capture_output=True, text=True, cwd=runs.ROOT
    )
    assert done.returncode == 0, done.stderr
    *counts, peak = map(float, done.stdout.split())
    assert counts[0] == 100
    assert peak < 2.5
