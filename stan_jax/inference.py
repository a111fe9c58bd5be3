"""Track and score the videos of a dataset."""

from collections.abc import Callable
from pathlib import Path

from stan_jax.annotations.youtube_vis import Dataset, Video
from stan_jax.loading.frames import read_frames
from stan_jax.metrics.video_ap import VideoAp
from stan_jax.results import readers
from stan_jax.results import writer as results
from stan_jax.results.writer import ResultsWriter, TrackBuilder
from stan_jax.tracking.frame_tracks import FrameTracks
from stan_jax.tracking.tracker import Tracker

OFFICIAL = ("AP", "AP50", "AP75", "AR1", "AR10")  # the table of the challenge


def evaluate(
    tracker: Tracker,
    dataset: Dataset,
    out: str | Path,
    *,
    watch: Callable[[Video, FrameTracks], None] = lambda video, frame: None,
) -> dict[str, float]:
    """Return the official numbers of a dataset by name; write its results.json.

    Each video is scored when it ends, its masks straight from memory.
    watch: called with every frame. Without annotations the result is empty.
    Raises: InputError as `youtube_vis.read_frame`; nothing is left at `out` then.
    """
    ids = [category.id for category in dataset.categories]
    # A set prepared with tensorflow-datasets has no json to be scored with.
    scored = dataset.annotated and dataset.stored is None
    truth = readers.true_tracks(dataset.path) if scored else None
    score = VideoAp([c["id"] for c in truth.categories]) if truth else None
    predicted = 0
    with ResultsWriter(out) as writer:
        for video in dataset.videos:
            builder = TrackBuilder(ids)
            size_hw = (video.height, video.width)
            frames = read_frames(dataset, video, tracker.fitted_hw(size_hw))
            for frame in tracker.track(frames, size_hw=size_hw):
                builder.add(
                    frame.index,
                    frame.ids,
                    frame.labels,
                    frame.scores,
                    frame.segmentations,
                )
                watch(video, frame)
            tracks = builder.tracks()
            writer.add_video(video.id, tracks, length=len(video.file_names))
            predicted += len(tracks)
            if truth and score:
                true = truth.tracks.get(video.id, [])
                length = len(video.file_names)
                score.add_video(
                    video.id, true, results.predicted_tracks(tracks, length)
                )
    if not score:
        return {}
    if not predicted:  # which the official code, and so ours, takes for a mistake
        return dict.fromkeys(OFFICIAL, 0.0)
    stats = score.finish()
    return {name: float(stats[name]) for name in OFFICIAL}
