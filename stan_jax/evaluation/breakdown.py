"""Breakdown of the lost AP of a results file into kinds of errors."""

from functools import partial
from pathlib import Path

from stan_jax.evaluation.worker_pool import open_pool
from stan_jax.metrics.error_kinds import Breakdown, one_video, total
from stan_jax.results import readers


def evaluate_files(
    instances_path: str | Path, results_path: str | Path, workers: int = 1
) -> Breakdown:
    """Read both files and go through them one video at a time.

    Raises: InputError as `youtube_vis_ap.evaluate_files`.
    """
    with open_pool(workers) as pool:
        truth = readers.true_tracks(instances_path)
        ids = [c["id"] for c in truth.categories]
        parts = pool.run(partial(one_video, ids), truth, results_path)
    return total(ids, parts)
