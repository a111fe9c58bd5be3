"""Videos dealt over processes and devices, and what they found put together.

Each worker is one device. It goes through its videos in the order of the set and
writes what it finds to a file of its own, a line a video, in a folder that all
processes see. The first process then reads all of them side by side: memory does not
grow with the set, and results are those of one worker byte for byte.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import jax

from stan_jax.annotations.youtube_vis import Video
from stan_jax.errors import InputError
from stan_jax.files import replacing
from stan_jax.results.writer import TrackResult
from stan_jax.training import processes

Found = tuple[Video, list[TrackResult]]
# Tracks a video on a device; asks, frame by frame, whether to go on.
Track = Callable[[jax.Device, Video, Callable[[], bool]], list[TrackResult]]
STOP = "stop"  # a file that is there as soon as some worker has ended early


class Stopped(Exception):
    """Videos were not tracked to the end, because one of the processes was asked to."""


def deal(
    videos: Sequence[Video], workers: int, *, together: int = 0
) -> list[list[Video]]:
    """Return the videos of each worker, in their order.

    The longest are dealt first, each to whom has the fewest frames so far.
    together: so many of the first all go to the first worker.
    """
    owners = dict.fromkeys(range(min(together, len(videos))), 0)
    frames = [0] * workers
    frames[0] = sum(len(videos[i].file_names) for i in owners)
    rest = range(len(owners), len(videos))
    for i in sorted(rest, key=lambda i: -len(videos[i].file_names)):
        owners[i] = frames.index(min(frames))
        frames[owners[i]] += len(videos[i].file_names)
    return [[v for i, v in enumerate(videos) if owners[i] == w] for w in range(workers)]


def share(
    videos: Sequence[Video], workers: Sequence[jax.Device], *, together: int = 0
) -> list[Video]:
    """Return the videos of this process; arguments as of `deal`, and its devices."""
    shares = deal(videos, len(workers), together=together)
    mine = zip(workers, shares, strict=True)
    here = jax.process_index()
    return [v for d, videos in mine if d.process_index == here for v in videos]


@contextlib.contextmanager
def tracked(
    videos: Sequence[Video],
    workers: Sequence[jax.Device],
    track: Track,
    *,
    out: Path,
    stop: Callable[[], bool],
    together: int = 0,
) -> Generator[Iterator[Found]]:
    """Track the videos in all processes; the first is given what was found, in order.

    Args:
      workers: devices of all processes.
      track: a video; of several workers, in a thread for each.
      out: the whole results file, beside which the parts lie until the block ends.
      stop: whether this process is asked to stop.
      together: see `deal`.
    Raises: in all processes, InputError of any of them; Stopped where one was asked to.
    """
    if len(workers) == 1:
        yield ((v, _asked(track, workers[0], v, stop)) for v in videos)
        return
    folder = out.with_name(f".{out.name}.parts")
    shares = deal(videos, len(workers), together=together)
    try:
        _prepare(folder)
        stopped = False
        with processes.in_all(long=True):
            try:
                _track_mine(workers, shares, track, folder, stop)
            except Stopped:
                stopped = True
        if any(processes.of_all(stopped)):
            raise Stopped
        yield _joined(videos, shares, folder) if processes.is_first() else iter(())
    finally:
        if processes.is_first():
            shutil.rmtree(folder, ignore_errors=True)


def _asked(
    track: Track, device: jax.Device, video: Video, stop: Callable[[], bool]
) -> list[TrackResult]:
    tracks = track(device, video, stop)
    if stop():  # what it has of the video is not all
        raise Stopped
    return tracks


def _prepare(folder: Path) -> None:
    """Make the folder of the parts anew, and see that it is there for all."""
    with processes.in_all():
        if processes.is_first():
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
            with _named(folder):
                folder.mkdir(parents=True)
    with processes.in_all():
        if not folder.is_dir():
            rule = "is not seen here: results must lie where all processes see them"
            raise InputError(folder, "", rule)


def _track_mine(
    workers: Sequence[jax.Device],
    shares: list[list[Video]],
    track: Track,
    folder: Path,
    stop: Callable[[], bool],
) -> None:
    """Track what the devices of this process were dealt, side by side."""
    ended = folder / STOP

    def ends() -> bool:
        return stop() or ended.exists()

    def work(worker: int) -> None:
        path = _part(folder, worker)
        with _named(path), replacing(path) as part, open(part, "w") as file:
            for video in shares[worker]:
                tracks = _asked(track, workers[worker], video, ends)
                file.write(json.dumps(tracks) + "\n")

    mine = [i for i, d in enumerate(workers) if d.process_index == jax.process_index()]
    with ThreadPoolExecutor(len(mine)) as pool:
        running = [pool.submit(work, i) for i in mine]
        try:
            for done in as_completed(running):
                done.result()
        except BaseException:
            ended.touch()  # for the other workers, here and elsewhere
            raise


def _joined(
    videos: Sequence[Video], shares: list[list[Video]], folder: Path
) -> Iterator[Found]:
    """Yield each video with its tracks, from the part that has them."""
    owners = {v.id: worker for worker, mine in enumerate(shares) for v in mine}
    with contextlib.ExitStack() as stack:
        parts = [
            stack.enter_context(open(_part(folder, worker)))
            for worker in range(len(shares))
        ]
        for video in videos:
            rows = json.loads(parts[owners[video.id]].readline())
            yield (
                video,
                [
                    TrackResult(score, category, {int(t): m for t, m in masks.items()})
                    for score, category, masks in rows
                ],
            )


def _part(folder: Path, worker: int) -> Path:
    return folder / f"{worker}.jsonl"


@contextlib.contextmanager
def _named(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        rule = f"cannot be made: {error.strerror or error}"
        raise InputError(path, "", rule) from error
