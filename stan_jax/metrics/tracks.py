"""An object through a video: annotated, or predicted."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from stan_jax.masks.run_lengths import Masks


class TrueTrack(NamedTuple):
    """An annotated object of one video."""

    id: int  # unique in the whole set
    category_id: int
    crowd: bool  # neither counted when missed nor wrong when predicted
    area: float  # mean pixels over the frames that show it
    masks: Masks


class PredictedTrack(NamedTuple):
    """A predicted object of one video."""

    score: float
    category_id: int
    masks: Masks
    row: int = -1  # which row of the file it is


def mean_area(areas: Iterable) -> float:
    """Mean of the areas that are neither 0 nor None; 0 if all are."""
    shown = [a for a in areas if a]
    return float(np.mean(shown)) if shown else 0.0
