"""Tracking metrics of a results file against an annotation file."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from stan_jax.evaluation.worker_pool import open_pool
from stan_jax.metrics import tracking
from stan_jax.results import readers
from stan_jax.results.readers import Truth


def evaluate_files(
    instances_path: str | Path, results_path: str | Path, workers: int = 1
) -> dict:
    """The summary over all videos, every category taken for one.

    HOTA and its parts are means over ALPHAS. workers: processes that share the videos.
    Raises: InputError as `youtube_vis_ap.evaluate_files`; a results file without
    results is fine here.
    """
    with open_pool(workers) as pool:
        truth = readers.true_tracks(instances_path)
        work = partial(
            tracking.count, instances_path=instances_path, results_path=results_path
        )
        counts = pool.run(work, truth, results_path, may_be_empty=True)
    total = tracking.Total()
    for video in in_order(truth, counts, instances_path):
        total.add(video)
    return total.summary()


def in_order(truth: Truth, counts: Mapping, instances_path: str | Path) -> list:
    """Return the counts of each video in the order of TrackEval, which is by folder.

    Sums of floats depend on it.
    """
    ids = sorted(
        [video_id for video_id in truth.videos if video_id in counts],
        key=lambda i: tracking.folder_of(instances_path, truth.videos[i]),
    )
    return [counts[video_id] for video_id in ids]
