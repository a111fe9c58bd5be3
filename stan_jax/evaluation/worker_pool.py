"""Worker pool of an evaluation: each video once, in one process or in several."""

import contextlib
import gc
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Container, Generator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from stan_jax.errors import InputError
from stan_jax.metrics.tracks import PredictedTrack, TrueTrack
from stan_jax.results import readers
from stan_jax.results.readers import Truth

BACKLOG = 4  # videos that wait for each helper: enough to keep it busy

# What is done with a video: (record of the video, true tracks, found tracks) -> part.
Work = Callable[[dict, list[TrueTrack], list[PredictedTrack]], Any]


class WorkerPool:
    """This process, and helpers that videos are given to as long as they are free."""

    def __init__(self, executor: ProcessPoolExecutor | None, helpers: int):
        self._executor, self._most = executor, BACKLOG * helpers
        self._open: dict[Any, Future] = {}

    def run(
        self,
        work: Work,
        truth: Truth,
        results_path: str | Path,
        *,
        may_be_empty: bool = False,
        only: Container | None = None,
    ) -> dict[Any, Any]:
        """Do the work with every video, or `only` some, while the results are read.

        Returns: what came of it by the video's id.

        Memory holds the parts, and with each helper a few videos. The work must be
        known to the helpers: a function of a module, or a partial of one.
        Raises: InputError for files that the official code would fail on.
        """
        parts, counts = {}, Counter()

        def give(video_id, rows: list[tuple[int, dict]]) -> None:
            if only is not None and video_id not in only:
                return
            for other in [i for i, future in self._open.items() if future.done()]:
                parts[other] = self._open.pop(other).result()
            self._open.pop(video_id, None)  # what came of some of its results
            true, found = truth.tracks.later(video_id), (results_path, rows)
            args = (
                work,
                truth.videos[video_id],
                true,
                partial(readers.read_predicted, *found),
            )
            if self._executor is not None and len(self._open) < self._most:
                self._open[video_id] = self._executor.submit(_one_video, *args)
            else:
                parts[video_id] = _one_video(*args)

        for video_id, rows in readers.predicted_rows(
            results_path, truth.videos, counts
        ):
            give(video_id, rows)
        if not counts and not may_be_empty:
            rule = "must hold at least one result, as officially"
            raise InputError(results_path, "", rule)
        given = {*parts, *self._open}
        for video_id in truth.videos:
            if video_id not in given:
                give(video_id, [])
        while self._open:
            video_id, future = self._open.popitem()
            parts[video_id] = future.result()
        return parts


def _one_video(work: Work, video: dict, true: Callable, found: Callable) -> Any:
    return work(video, true(), found())


@contextlib.contextmanager
def open_pool(workers: int) -> Generator[WorkerPool]:
    """Open a pool of so many processes, this one included; others start afresh."""
    if workers < 2:
        yield WorkerPool(None, 0)
        return
    # Not forked: the caller may run threads, as JAX does.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers - 1, mp_context=context)
    try:
        with _one_thread():
            for _ in range(workers - 1):
                executor.submit(_wake)
        yield WorkerPool(executor, workers - 1)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _one_thread() -> Generator[None]:
    """Processes started meanwhile leave the other processors to the others.

    Nothing here multiplies matrices: the threads of NumPy's library would only wait.
    """
    name = "OPENBLAS_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _wake() -> None:
    """Starting takes a helper as long as reading the annotations takes this process."""
    gc.disable()  # as where the files are read
