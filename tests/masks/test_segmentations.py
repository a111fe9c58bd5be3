import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from stan_jax.masks import codec, segmentations

HW = 5, 7


def rle(runs):
    return codec.encode_runs(runs, HW)


MASKS = st.integers(0, 2**35 - 1).map(
    lambda bits: codec.encode(
        np.array([bits >> i & 1 for i in range(35)], bool).reshape(HW)
    )
)
ODD = st.sampled_from([rle([3, 0, 4, 28]), rle([0, 3, 0, 2, 30]), rle([35])])
ENTRIES = st.lists(st.none() | st.just([]) | MASKS | ODD, max_size=6)


@hypothesis.given(ENTRIES)
def test_texts_at_once_are_those_one_by_one(entries):
    found = segmentations.compress_texts(entries, *HW)
    assert found is not None
    masks, odd = found
    assert masks == [segmentations.compress(entry, *HW) for entry in entries]
    assert odd.tolist() == [bool(e) and segmentations.odd_runs(e) for e in entries]


@pytest.mark.parametrize(
    "entry",
    [
        {"size": [7, 5], "counts": "S1"},
        {"size": [*HW], "counts": ""},
        {"size": [*HW], "counts": "é"},
        {"size": [*HW], "counts": "!!"},
        {"size": [*HW], "counts": "00"},
        {"size": [*HW], "counts": [35]},
        {"size": [*HW]},
        [[1, 1, 4, 1, 4, 4]],
        "text",
        0,
        "",
        {},
    ],
)
def test_what_is_no_text_is_left_to_the_other(entry):
    assert segmentations.compress_texts([rle([3, 32]), entry], *HW) is None


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), 1e9, -1e9])
def test_polygon_that_lies_nowhere_near_is_refused(odd):
    good = [1, 1, 4, 1, 4, 5]
    assert codec.area(segmentations.from_polygons([good], 6, 8))
    for i in range(6):
        polygon = [*good[:i], odd, *good[i + 1 :]]
        with pytest.raises(ValueError, match="must lie in or near its 6 x 8 frame"):
            segmentations.from_polygons([good, polygon], 6, 8)
