from threading import Event

import jax
import pytest

from stan_jax import dealing
from stan_jax.annotations.youtube_vis import Video
from stan_jax.errors import InputError
from stan_jax.results.writer import TrackResult

LENGTHS = 3, 9, 4, 8, 1
MASK = {"size": [2, 2], "counts": "04"}


def videos(*lengths):
    return [
        Video(10 + i, ("a/0.jpg",) * length, 2, 2, ())
        for i, length in enumerate(lengths)
    ]


def numbers(share):
    return [v.id - 10 for v in share]


def test_longest_videos_are_dealt_first_and_each_share_keeps_the_order():
    shares = dealing.deal(videos(*LENGTHS), 2)
    assert [numbers(x) for x in shares] == [[0, 1, 4], [2, 3]]
    assert [numbers(x) for x in dealing.deal(videos(5), 3)] == [[0], [], []]
    (alone,) = dealing.deal(videos(*LENGTHS), 1)
    assert numbers(alone) == [0, 1, 2, 3, 4]


def test_first_videos_stay_together_with_the_first_worker():
    shares = dealing.deal(videos(*LENGTHS), 2, together=3)
    assert [numbers(x) for x in shares] == [[0, 1, 2], [3, 4]]
    shares = dealing.deal(videos(*LENGTHS), 2, together=9)
    assert [numbers(x) for x in shares] == [[0, 1, 2, 3, 4], []]


def run(tmp_path, track, *, workers=2, lengths=LENGTHS, stop=lambda: False):
    devices = jax.devices()[:workers]
    out = tmp_path / "r.json"
    with dealing.tracked(videos(*lengths), devices, track, out=out, stop=stop) as found:
        found = list(found)
    assert not list(tmp_path.iterdir())  # the parts are gone
    return found


def three_tracks(device, video, stop):
    """As many tracks as the id says, with numbers that text might round."""
    return [
        TrackResult(1 / (3 + i), i, {t: MASK for t in range(i, len(video.file_names))})
        for i in range(video.id - 10)
    ]


def test_what_two_workers_found_is_what_one_would_have(tmp_path):
    want = run(tmp_path, three_tracks, workers=1)
    assert run(tmp_path, three_tracks) == want
    assert [v.id for v, _ in want] == [10, 11, 12, 13, 14]
    assert [len(tracks) for _, tracks in want] == [0, 1, 2, 3, 4]


def test_workers_track_side_by_side_each_on_its_device(tmp_path):
    """Each waits until the other has begun."""
    begun = {d: Event() for d in jax.devices()[:2]}

    def track(device, video, stop):
        begun[device].set()
        assert all(event.wait(60) for event in begun.values())
        return [TrackResult(0.5, device.id, {0: MASK})]

    found = run(tmp_path, track, lengths=(2, 1))
    assert [t.category_id for _, (t,) in found] == [d.id for d in begun]


def test_error_of_one_worker_ends_the_other_and_leaves_nothing(tmp_path):
    begun = Event()

    def track(device, video, stop):
        if device.id:
            assert begun.wait(60)
            raise InputError("f.jpg", "", "is cut off")
        begun.set()
        while not stop():
            pass
        return []

    with pytest.raises(InputError, match=r"f\.jpg: is cut off"):
        run(tmp_path, track)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("workers", [1, 2])
def test_who_is_asked_to_stop_ends_all_and_leaves_nothing(tmp_path, workers):
    asked = []

    def track(device, video, stop):
        asked.append(video.id)
        return []

    with pytest.raises(dealing.Stopped):
        run(tmp_path, track, workers=workers, stop=lambda: bool(asked))
    assert len(asked) <= workers
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_made_is_named(tmp_path):
    out = tmp_path / "file" / "r.json"
    out.parent.write_text("")
    with (
        pytest.raises(InputError, match=r"\.r\.json\.parts: cannot be made"),
        dealing.tracked(
            videos(1, 1), jax.devices()[:2], three_tracks, out=out, stop=lambda: False
        ),
    ):
        pass
