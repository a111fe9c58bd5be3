"""What a tracker gives for each frame; read without JAX."""

import importlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from stan_jax.masks import codec
from stan_jax.masks.codec import RLE


class FrameTracks(NamedTuple):
    """The tracks in one frame, in its own pixels; one row a track, best score first.

    Masks are kept as run lengths, so that a frame of any size takes little memory.
    """

    index: int  # of the frame in its video
    size_hw: tuple[int, int]
    ids: Int[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"]
    boxes: Float[np.ndarray, "n 4"]  # half-open xyxy
    segmentations: tuple[RLE, ...]
    evicted: int  # tracks of this video that a full memory has dropped so far
    seconds: float | None = None  # since the video began, where that is known
    categories: tuple[str, ...] = ()  # names of the classes by label

    @property
    def classes(self) -> list[str]:
        """Name of the class of each track."""
        return [self.categories[label] for label in self.labels.tolist()]

    @property
    def masks(self) -> Bool[np.ndarray, "n h w"]:
        """The masks as pixels, decoded anew at each call."""
        decoded = [codec.decode(rle) for rle in self.segmentations]
        return np.array(decoded, bool).reshape(len(decoded), *self.size_hw)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return ids, labels, scores, boxes and masks by name."""
        names = ("ids", "labels", "scores", "boxes", "masks")
        return {name: getattr(self, name) for name in names}

    def above(self, score: float) -> "FrameTracks":
        """Return the rows with at least this score."""
        return self.rows(np.flatnonzero(self.scores >= score))

    def rows(self, rows: Int[np.ndarray, " m"]) -> "FrameTracks":
        """Return some of the rows, by number."""
        return self._replace(
            **{k: getattr(self, k)[rows] for k in ("ids", "labels", "scores", "boxes")},
            segmentations=tuple(self.segmentations[row] for row in rows),
        )

    def to_supervision(self) -> Any:
        """Return `supervision.Detections`, with names of classes, for its annotators.

        Raises: ModuleNotFoundError where that package is absent.
        """
        supervision = importlib.import_module("supervision")
        return supervision.Detections(
            xyxy=self.boxes,
            mask=self.masks,
            confidence=self.scores,
            class_id=self.labels.astype(int),
            tracker_id=self.ids.astype(int),
            data={"class_name": np.array(self.classes, str)},
        )
