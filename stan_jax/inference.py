"""Track and score the videos of a dataset."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from threading import Lock

import jax

from stan_jax import dealing
from stan_jax.annotations.youtube_vis import Dataset, Video
from stan_jax.dealing import Found
from stan_jax.loading.frames import read_frames
from stan_jax.metrics.video_ap import VideoAp
from stan_jax.results import readers
from stan_jax.results import writer as results
from stan_jax.results.readers import Truth
from stan_jax.results.writer import ResultsWriter, TrackBuilder, TrackResult
from stan_jax.tracking.frame_tracks import FrameTracks
from stan_jax.tracking.program import on_device
from stan_jax.tracking.tracker import Tracker
from stan_jax.training import mesh, processes

OFFICIAL = ("AP", "AP50", "AP75", "AR1", "AR10")  # the table of the challenge


def evaluate(
    tracker: Tracker,
    dataset: Dataset,
    out: str | Path,
    *,
    watch: Callable[[Video, FrameTracks], None] = lambda video, frame: None,
    stop: Callable[[], bool] = lambda: False,
    together: int = 0,
    devices: Sequence[jax.Device] | None = None,
) -> dict[str, float]:
    """Return the official numbers of a dataset by name; write its results.json.

    Of several processes all call it: each tracks some of the videos, on each of its
    devices, the first writes and scores, and all are given the numbers. Results are
    those of one device byte for byte. Without annotations there are no numbers.

    Args:
      watch: called with every frame tracked in this process, one at a time.
      stop: asked after every frame whether to end early.
      together: so many of the first videos are tracked one after the other in the
        first process.
      devices: of all processes; default: `mesh.workers`.
    Raises: InputError as `youtube_vis.read_frame`, and `dealing.Stopped` where `stop`
    of one process says so; nothing is left at `out` then.
    """
    workers = mesh.workers() if devices is None else list(devices)
    ids = [category.id for category in dataset.categories]
    mine = [d for d in workers if d.process_index == jax.process_index()]
    on = {d: tracker if len(workers) == 1 else on_device(tracker, d) for d in mine}
    one_at_a_time = Lock()

    def track(
        device: jax.Device, video: Video, stop: Callable[[], bool]
    ) -> list[TrackResult]:
        builder = TrackBuilder(ids)
        size_hw = (video.height, video.width)
        frames = read_frames(dataset, video, tracker.fitted_hw(size_hw))
        for frame in on[device].track(frames, size_hw=size_hw):
            builder.add(
                frame.index, frame.ids, frame.labels, frame.scores, frame.segmentations
            )
            with one_at_a_time:
                watch(video, frame)
            if stop():
                break
        return builder.tracks()

    with processes.in_all():
        truth = _truth(dataset) if processes.is_first() else None
    with dealing.tracked(
        dataset.videos, workers, track, out=Path(out), stop=stop, together=together
    ) as found:
        scores = None
        with processes.in_all(long=True):
            if processes.is_first():
                scores = _score(found, truth, out)
    return processes.of_all(scores)[0]


def _truth(dataset: Dataset) -> Truth | None:
    # A set prepared with tensorflow-datasets has no json to be scored with.
    scored = dataset.annotated and dataset.stored is None
    return readers.true_tracks(dataset.path) if scored else None


def _score(
    found: Iterable[Found], truth: Truth | None, out: str | Path
) -> dict[str, float]:
    """Write what was found; score each video as it comes, its masks from memory."""
    score = VideoAp([c["id"] for c in truth.categories]) if truth else None
    predicted = 0
    with ResultsWriter(out) as writer:
        for video, tracks in found:
            length = len(video.file_names)
            writer.add_video(video.id, tracks, length=length)
            predicted += len(tracks)
            if truth and score:
                true = truth.tracks.get(video.id, [])
                score.add_video(
                    video.id, true, results.predicted_tracks(tracks, length)
                )
    if not score:
        return {}
    if not predicted:  # which the official code, and so ours, takes for a mistake
        return dict.fromkeys(OFFICIAL, 0.0)
    stats = score.finish()
    return {name: float(stats[name]) for name in OFFICIAL}
