import math

import pytest

from stan_jax.planning.largest import largest


def _search(peak, start=32, step=16, limit=1000.0, fixed=0.0):
    asked = []

    def counted(batch):
        asked.append(batch)
        return peak(batch)

    batch, peaks = largest(counted, (start, peak(start)), step, limit, fixed)
    assert peaks == {b: peak(b) for b in (start, *asked)}
    return batch, len(asked)


def test_search_finds_the_largest_of_a_line_by_two_compiles_more():
    # 300 is where the line is at 1000
    assert _search(lambda b: 100.0 + 3 * b) == (288, 2)


def test_search_finds_it_by_one_where_it_knows_what_does_not_grow():
    assert _search(lambda b: 100.0 + 3 * b, fixed=100.0) == (288, 1)
    assert _search(lambda b: 2000.0 + b, fixed=2000.0) == (0, 1)


@pytest.mark.parametrize("start", [16, 32, 512])
def test_search_starts_from_what_fits_and_from_what_does_not(start):
    batch, compiles = _search(lambda b: 100.0 + 3 * b, start=start)
    assert batch == 288
    assert compiles <= 3


def test_search_goes_on_where_memory_bends_upwards():
    batch, compiles = _search(lambda b: 100.0 + 2 * b + 0.004 * b * b)
    assert batch <= 286 < batch + 32  # 286.4 is where the curve is at 1000
    assert compiles <= 5


def test_search_goes_on_where_memory_bends_downwards():
    batch, compiles = _search(lambda b: 100.0 + 30 * b**0.5)
    assert batch <= 900 < batch + 32  # 900 is where the curve is at 1000
    assert compiles <= 6


def test_search_goes_on_where_a_larger_batch_takes_less():
    """As for 16 v5e: near the limit their compiler begins to save memory."""
    met = {352: 9.29, 608: 14.31, 672: 14.23}
    batch, compiles = _search(
        lambda b: met.get(b, 0.55 + 0.0203 * b), start=352, limit=15.75, fixed=0.55
    )
    assert (batch, compiles) == (736, 4)  # 748 is where the line is at the limit
    assert _search(lambda b: 500.0, fixed=500.0) == (32, 0)


def test_search_halves_while_it_is_not_told_how_far_it_is_off():
    batch, _ = _search(lambda b: 90.0 * b if b < 8 else math.inf, start=32, step=1)
    assert batch == 7


def test_search_says_where_nothing_fits():
    assert _search(lambda b: 2000.0 + b) == (0, 1)
    assert _search(lambda b: 2000.0 + b, start=16) == (0, 0)


def test_search_asks_for_nothing_larger_than_what_does_not_fit():
    asked = []

    def peak(batch):
        asked.append(batch)
        return 100.0 + 3 * batch

    largest(peak, (512, peak(512)), 16, 1000.0, 0.0)
    assert max(asked[1:]) < 512
