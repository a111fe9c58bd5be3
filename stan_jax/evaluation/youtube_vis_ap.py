"""Official score of a results file against an annotation file.

Same numbers as youtubevos/cocoapi (ytvos.py, ytvoseval.py), to the last digit. Where
that code stops with a traceback or never returns, there is one InputError instead.
"""

from functools import partial
from pathlib import Path

from stan_jax.evaluation.worker_pool import open_pool
from stan_jax.metrics.video_ap import VideoAp, match
from stan_jax.results import readers


def evaluate_files(
    instances_path: str | Path,
    results_path: str | Path,
    class_agnostic: bool = False,
    workers: int = 1,
) -> dict:
    """The twelve statistics by name; -1 where there is nothing to find.

    Also the curves `precision`, `recall`, `scores` of `VideoAp.finish`.
    class_agnostic: all listed categories count as one.
    workers: processes, this one among them.
    Memory holds one video and 88 bytes a found track; the annotations, checked, lie on
    disk meanwhile (in TMPDIR).
    Raises: InputError for a file that the official code would fail on.
    """
    with open_pool(workers) as pool:
        truth = readers.true_tracks(instances_path)
        score = VideoAp([c["id"] for c in truth.categories], class_agnostic)
        parts = pool.run(partial(_matched, score.groups), truth, results_path)
    for video_id, matched in parts.items():
        score.add_matched(video_id, matched)
    return score.finish()


def _matched(groups, video: dict, truth: list, found: list) -> dict:
    return match(groups, truth, found)


def table(stats: dict) -> str:
    """The twelve lines that the official evaluator prints."""
    scores = {"AP": "Average Precision  (AP)", "AR": "Average Recall     (AR)"}
    lines = []
    for name, value in stats.items():
        if name[:2] in scores:
            rest = name[2:].removeprefix("_")
            limit = rest if name[:2] == "AR" and rest.isdigit() else "100"
            iou = f"0.{rest}" if name[:2] == "AP" and rest.isdigit() else "0.50:0.95"
            area = rest if rest.isalpha() else "all"
            lines.append(
                f" {scores[name[:2]]} @[ IoU={iou:<9} | area={area:>6} "
                f"| maxDets={limit:>3} ] = {value:.3f}"
            )
    return "\n".join(lines)
