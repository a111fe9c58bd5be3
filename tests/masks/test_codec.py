import numpy as np
import pytest
from test_run_lengths import masks_of_many_kinds

from stan_jax.masks import codec

MASKS = list(masks_of_many_kinds())


@pytest.mark.parametrize("mask", MASKS)
def test_encode_part_gives_the_text_of_encode(mask):
    assert codec.encode_part(mask, (0, 0), mask.shape) == codec.encode(mask)


@pytest.mark.parametrize("corner", [(0, 0), (3, 5), (34, 47), (0, 20), (17, 0)])
def test_encode_part_places_the_part_in_its_frame(corner):
    rng = np.random.default_rng(1)
    for share in (0.0, 0.3, 1.0):
        frame = np.zeros((40, 50), bool)
        part = rng.random((6, 3)) < share
        frame[corner[0] : corner[0] + 6, corner[1] : corner[1] + 3] = part
        assert codec.encode_part(part, corner, (40, 50)) == codec.encode(frame)


def test_encode_part_joins_runs_that_go_on_in_the_next_column():
    part = np.ones((4, 3), bool)
    part[0, 0] = part[3, 2] = False
    assert codec.encode_part(part, (0, 1), (4, 9)) == codec.encode(
        np.pad(part, ((0, 0), (1, 5)))
    )


@pytest.mark.parametrize("mask", MASKS)
def test_decode_part_is_the_tight_box_of_the_mask(mask):
    top, left, part = codec.decode_part(codec.encode(mask))
    if not mask.any():
        assert not part.size
        return
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert (top, left) == (rows[0], columns[0])
    want = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    np.testing.assert_array_equal(part, want)
