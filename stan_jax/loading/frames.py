"""The frames of one video of a dataset, decoded ahead of time."""

from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import UInt8

from stan_jax.annotations import youtube_vis
from stan_jax.annotations.youtube_vis import Dataset, Video
from stan_jax.ops import canvas


def read_frames(
    dataset: Dataset,
    video: Video,
    size_hw: tuple[int, int],
    *,
    num_threads: int = 2,
    ahead: int = 16,
) -> Generator[UInt8[np.ndarray, "h w 3"], None, None]:
    """Yield each frame of a video as RGB, in order.

    Args:
      size_hw: height and width that they are resized to.
      num_threads: threads that decode.
      ahead: frames that are decoded before they are asked for.
    Raises: InputError as `youtube_vis.read_frame`.
    """

    def read(t: int) -> UInt8[np.ndarray, "h w 3"]:
        frame = youtube_vis.read_frame(dataset, video, t, max_hw=size_hw)
        return canvas.resize_frame(frame, size_hw)

    pool, waiting = ThreadPoolExecutor(num_threads), deque()
    try:
        for t in range(len(video.file_names)):
            waiting.append(pool.submit(read, t))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
