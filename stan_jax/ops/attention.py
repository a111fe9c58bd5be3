"""Attention in linear memory: cells of one set gather values from another."""

import functools
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

# A logit of what is masked; not infinite, so that differences of two are numbers.
_LOWEST = float(np.finfo(np.float32).min)


def attend(
    query: Float[Array, "b j d"],
    key: Float[Array, "b i d"],
    value: Float[Array, "b i c"],
    mask: Bool[Array, "b i"] | None = None,
    *,
    query_mask: Bool[Array, "b j"] | None = None,
    normalise: Literal["source", "target"] = "source",
    scale: float = 1.0,
    precision: jax.lax.PrecisionLike = None,
    block: int | None = None,
) -> Float[Array, "b j c"]:
    """Sum over i of weight[i, j] * value[i], the product V Cor of Eq. 2.

    weight is the softmax of scale * <key_i, query_j>, in float32, over the keys i
    ("source": each result is a convex mix of values) or over the queries j ("target":
    each value is shared out). Choice A1: the paper does not name the axis.

    Args:
      mask, query_mask: false cells are as if they were not there; their weights are 0,
        and so are results without any key and results of false queries.
      precision: of the product of keys and queries, see `jax.lax.Precision`.
      block: most rows of the map that exist at once, else about 2^20 entries' worth.
        The result does not depend on it; memory is linear in cells, backward as well.
    """
    if mask is None:
        mask = jnp.ones(key.shape[:2], bool)
    if query_mask is None:
        query_mask = jnp.ones(query.shape[:2], bool)
    # The axis of the softmax stays whole, the other one is cut.
    whole, cut = key.shape[1], query.shape[1]
    if normalise == "target":
        whole, cut = cut, whole
    if block is None:
        # 4 MB stay in a cache of a CPU; fewer than 64 rows no longer fill a GPU.
        block = max(64, 2**20 // max(1, query.shape[0] * whole))

    gather = partial(_gather, normalise, scale, precision)
    if cut <= block:
        return gather((query, query_mask), (key, value, mask))
    num_blocks = -(-cut // block)
    if normalise == "source":
        queries = _split((query, query_mask), num_blocks)
        result = jax.lax.map(lambda some: gather(some, (key, value, mask)), queries)
        result = result.swapaxes(0, 1).reshape(query.shape[0], -1, value.shape[-1])
        return result[:, :cut]

    def add(total, some):
        return total + gather((query, query_mask), some).astype(jnp.float32), None

    total = jnp.zeros((*query.shape[:2], value.shape[-1]), jnp.float32)
    total, _ = jax.lax.scan(add, total, _split((key, value, mask), num_blocks))
    return total.astype(value.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _gather(normalise: str, scale: float, precision: Any, queries, keys):
    """Plain form of `attend`, with the whole map of its arguments in memory."""
    return _gather_forward(normalise, scale, precision, queries, keys)[0]


def _gather_forward(normalise, scale, precision, queries, keys):
    value = keys[1]
    logits, some = _logits(normalise, scale, precision, queries, keys)
    top = logits.max(-1, keepdims=True, initial=_LOWEST)
    weight = jnp.exp(logits - top)
    total = jnp.where(some, weight.sum(-1, keepdims=True), jnp.inf)
    weight = weight.astype(value.dtype)
    # Short rows are divided instead of the map.
    if normalise == "source":
        result = jnp.einsum(
            "bji,bic->bjc", weight, value, preferred_element_type=jnp.float32
        )
        result = (result / total).astype(value.dtype)  # rounded once
    else:
        shared = (value / total).astype(value.dtype)
        result = jnp.einsum("bij,bic->bjc", weight, shared)
    return result, (queries, keys, result, top + jnp.log(total))


def _gather_backward(normalise, scale, precision, kept, grad):
    """Makes the map again, so that none is kept, from what its softmax has added up.

    The gradient of a softmax needs the sum of weight times gradient along its axis,
    which equals a product of rows as short as a value: no further walk over the map.
    Source: Dao et al., "FlashAttention", app. B.2; of the other axis by the same law.
    """
    queries, keys, result, log_total = kept
    (query, _), (key, value, _) = queries, keys
    logits, _ = _logits(normalise, scale, precision, queries, keys)
    weight = jnp.exp(logits - log_total)
    rounded = weight.astype(value.dtype)
    if normalise == "source":
        to_value = jnp.einsum("bji,bjc->bic", rounded, grad)
        rows, columns, short = grad, value, (grad, result)
    else:
        to_value = jnp.einsum("bij,bjc->bic", rounded, grad)
        rows, columns, short = value, grad, (value, to_value)
    to_weight = _map(rows, columns)
    one, other = (x.astype(jnp.float32) for x in short)
    shared = (one * other).sum(-1, keepdims=True)
    to_logits = (scale * weight * (to_weight - shared)).astype(key.dtype)
    rows, columns = _in_order(normalise, query, key)
    to_rows = jnp.einsum("brc,bcd->brd", to_logits, columns, precision=precision)
    to_columns = jnp.einsum("brc,brd->bcd", to_logits, rows, precision=precision)
    to_query, to_key = _in_order(normalise, to_rows, to_columns)
    return (to_query, None), (to_key, to_value, None)


_gather.defvjp(_gather_forward, _gather_backward)


def _logits(normalise, scale, precision, queries, keys):
    """Return the map, and which of its rows hold something.

    The softmax is along rows, which is how memory is walked. Columns are masked by
    numbers that are added: a mask as large as the map would take as long as the exp.
    """
    (query, query_mask), (key, _, mask) = queries, keys
    logits = _map(*_in_order(normalise, query, key), precision)
    rows, columns = _in_order(normalise, query_mask, mask)
    some = (rows & columns.any(-1, keepdims=True))[:, :, None]
    return logits * scale + jnp.where(columns, 0, _LOWEST)[:, None, :], some


def _map(rows, columns, precision=None):
    return jnp.einsum(
        "brd,bcd->brc",
        rows,
        columns,
        precision=precision,
        preferred_element_type=jnp.float32,
    )


def _in_order(normalise, of_query, of_key):
    """Return what belongs to the rows of the map, then what belongs to its columns."""
    return (of_query, of_key) if normalise == "source" else (of_key, of_query)


def _split(arrays, num_blocks: int):
    """Each [b i ...] as [blocks b i/blocks ...], the end filled with 0 and false."""

    def split(x):
        size = -(-x.shape[1] // num_blocks)
        fill = num_blocks * size - x.shape[1]
        x = jnp.pad(x, [(0, 0), (0, fill)] + [(0, 0)] * (x.ndim - 2))
        return x.reshape(x.shape[0], num_blocks, size, *x.shape[2:]).swapaxes(0, 1)

    return jax.tree.map(split, arrays)


def attend_near(
    query: Float[Array, "b h w d"],
    key: Float[Array, "b q h w d"],
    value: Float[Array, "b q h w c"],
    bias: Float[Array, "q side side"],
    mask: Bool[Array, "b q h w"],
    query_mask: Bool[Array, "b h w"],
    *,
    scale: float = 1.0,
    block: int | None = None,
) -> Float[Array, "b h w c"]:
    """As `attend`, but a cell looks at the square of cells around its own place alone.

    Far less work than all cells with all, where what is far away has no weight anyway.

    Args:
      key, value: of q maps, which share one softmax.
      bias: what is added to the logits of each map and shift; its side is odd.
      mask, query_mask: as of `attend`.
      block: rows of cells that are looked from at once, else about 2^22 logits' worth.
    """
    (b, h, w, _), (q, side, _) = query.shape, bias.shape
    reach, most = side // 2, block or max(1, 2**22 // (b * q * side * w * w))
    size = min(most, h)
    num_blocks = -(-h // size)
    below = num_blocks * size - h
    query = jnp.pad(query, ((0, 0), (0, below), (0, 0), (0, 0)))
    edge = ((0, 0), (0, 0), (reach, below + reach), (0, 0))
    key, value = (jnp.pad(x, (*edge, (0, 0))) for x in (key, value))
    mask = jnp.pad(mask, edge)

    away = np.arange(w)[None] - np.arange(w)[:, None] + reach  # of two columns
    near = (away >= 0) & (away < side)
    bias = bias[:, :, np.clip(away, 0, side - 1)]  # [q side w w]
    bias = bias.reshape(1, 1, q * side, w, w).swapaxes(2, 3)

    def shifts(maps):
        """Each map as it lies for a cell that looks so many rows away."""
        return [maps[:, n, y : y + size] for n in range(q) for y in range(side)]

    def rows(given):
        # Each row of cells with each of `side` whole rows, as products of matrices.
        query, key, value, mask = given
        products = [
            jnp.einsum("bhxd,bhyd->bhxy", query, x, preferred_element_type=jnp.float32)
            for x in shifts(key)
        ]
        there = jnp.stack(shifts(mask), 2)[:, :, None] & near[None, None, :, None]
        logits = scale * jnp.stack(products, 3) + bias
        weight = jax.nn.softmax(logits, axis=(3, 4), where=there).astype(value.dtype)
        terms = (
            jnp.einsum("bhxy,bhyc->bhxc", weight[:, :, :, n], x)
            for n, x in enumerate(shifts(value))
        )
        return functools.reduce(jnp.add, terms)

    if num_blocks == 1:
        result = rows((query, key, value, mask))
    else:
        starts = range(0, h, size)
        blocks = jnp.stack([query[:, y : y + size] for y in starts])
        wide = (
            jnp.stack([x[:, :, y : y + size + 2 * reach] for y in starts])
            for x in (key, value, mask)
        )
        # As in `attend`, the backward pass makes each block of the map again.
        result = jax.lax.map(jax.checkpoint(rows), (blocks, *wide))
        result = result.swapaxes(0, 1).reshape(b, -1, w, value.shape[-1])[:, :h]
    return jnp.where(query_mask[..., None], result, 0)
