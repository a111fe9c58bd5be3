import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.lax import GatherDimensionNumbers, GatherScatterMode

from tests.export import onnx_runs

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(5, 4, 3)).astype(np.float32)
# Inside, at both ends, and outside on both sides.
ROWS = np.array([[0, 4, 2], [-1, 5, -7], [3, 99, 1]], np.int32)
MODES = ("clip", "fill", "promise_in_bounds")
INSIDE = np.array([4, 0, 4, 2], np.int32)


def _windows(mode):
    """Windows [2 3] of a table [5 4 3], at starts that may leave no room for them."""
    d = GatherDimensionNumbers((1, 2), (0,), (0, 1))
    sizes = (1, 2, 3)
    return lambda x, at: lax.gather(x, at, d, sizes, mode=mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("table", [TABLE, TABLE > 0, (50 * TABLE).astype(np.int32)])
def test_rows_are_taken_as_jax_takes_them(table, mode):
    rows = INSIDE if mode == "promise_in_bounds" else ROWS
    onnx_runs.agree(lambda x, at: x.at[at].get(mode=mode), table, rows)
    onnx_runs.agree(lambda x, at: x.at[:, at % 4].get(mode=mode), table, INSIDE)
    onnx_runs.agree(lambda x, at: x.at[at, at, 1].get(mode=mode), table, rows % 4)


def test_fill_value_is_that_of_the_caller_or_of_the_type():
    for table, fill in (
        (TABLE, 7.0),
        (TABLE.astype(np.uint8), None),
        (TABLE > 0, None),
    ):
        onnx_runs.agree(
            lambda x, at, fill=fill: x.at[at].get(mode="fill", fill_value=fill),
            table,
            ROWS,
        )


@pytest.mark.parametrize("mode", ["CLIP", "FILL_OR_DROP"])
def test_windows_that_poke_out_are_moved_or_filled_as_jax_does(mode):
    starts = np.array([[0, 0], [4, 2], [4, 3], [9, 1], [2, -1]], np.int32)
    onnx_runs.agree(_windows(GatherScatterMode[mode]), TABLE, starts)


def test_rows_along_any_axis_and_per_row_are_taken():
    at = np.argsort(TABLE, axis=1).astype(np.int32)
    onnx_runs.agree(lambda x, at: jnp.take_along_axis(x, at, 1), TABLE, at)
    onnx_runs.agree(lambda x, at: jnp.take(x, at, 2), TABLE, INSIDE % 3)
    each = jax.vmap(lambda x, i: x[i])  # an axis that goes along on both sides
    onnx_runs.agree(each, TABLE, INSIDE[[0, 1, 2, 3, 0]] % 4)
    onnx_runs.agree(jax.vmap(each, (1, None)), TABLE, INSIDE[[0, 1, 2, 3, 0]] % 3)
    onnx_runs.agree(lambda x, at: x[at], TABLE, np.array(3, np.uint8))


@pytest.mark.parametrize("start", [(0, 0, 0), (1, 2, 0), (9, 1, 0), (-3, -1, -9)])
def test_a_window_that_moves_is_cut_and_written_inside(start):
    start = [np.array(x, np.int32) for x in start]
    onnx_runs.agree(lambda x, *at: lax.dynamic_slice(x, at, (2, 2, 3)), TABLE, *start)
    part = TABLE[:2, 1:3]
    onnx_runs.agree(
        lambda x, part, *at: lax.dynamic_update_slice(x, part, at), TABLE, part, *start
    )
    onnx_runs.agree(lambda x: lax.dynamic_slice(x, (), ()), np.float32(3))
    onnx_runs.agree(lambda x, y: lax.dynamic_update_slice(x, y, ()), *TABLE[0, 0, :2])


@pytest.mark.parametrize("mode", ["drop", "clip", "promise_in_bounds"])
@pytest.mark.parametrize("how", ["set", "add", "mul", "min", "max"])
def test_rows_are_written_as_jax_writes_them(how, mode):
    table = TABLE if how != "set" else TABLE > 0
    rows = np.array([3, 0, 4] if mode == "promise_in_bounds" else [3, -9, 7], np.int32)
    if how != "set":
        rows = np.concatenate([rows, rows])  # twice the same: both count
    new = RNG.normal(size=(len(rows), 4, 3)).astype(np.float32).astype(table.dtype)

    def f(x, at, new):
        return getattr(x.at[at], how)(new, mode=mode)

    onnx_runs.agree(f, table, rows, new, atol=1e-5)


def test_columns_single_entries_and_batches_are_written():
    onnx_runs.agree(lambda x, new: x.at[:, 2].set(new), TABLE, TABLE[:, 0])
    onnx_runs.agree(lambda x, at: x.at[at, at % 3, 0].set(5.0), TABLE, INSIDE[1:])
    each = jax.vmap(lambda x, i, new: x.at[i].set(new, mode="drop"))
    rows = np.array([0, 3, 9, 2, -2], np.int32)
    onnx_runs.agree(each, TABLE, rows, TABLE[:, 3])
    onnx_runs.agree(lambda x, at: x.at[at].add(1), TABLE.astype(np.uint8), INSIDE)


@pytest.mark.parametrize("mode", ["CLIP", "FILL_OR_DROP"])
def test_windows_that_poke_out_are_moved_or_dropped_as_jax_does(mode):
    d = lax.ScatterDimensionNumbers((1, 2), (0,), (0, 1))
    starts = np.array([[0, 0], [4, 3], [2, -1]], np.int32)
    new = RNG.normal(size=(3, 2, 3)).astype(np.float32)

    def f(x, at, new):
        return lax.scatter(x, at, new, d, mode=GatherScatterMode[mode])

    onnx_runs.agree(f, TABLE, starts, new)
