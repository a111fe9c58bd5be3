"""How cells of one set gather values from another: attention in linear memory."""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_AXIS = {"source": 1, "target": 2}  # of the map [b i j]


def attend(
    query: Float[Array, "b j d"],
    key: Float[Array, "b i d"],
    value: Float[Array, "b i c"],
    mask: Bool[Array, "b i"] | None = None,
    *,
    query_mask: Bool[Array, "b j"] | None = None,
    normalise: Literal["source", "target"] = "source",
    scale: float = 1.0,
    block: int = 512,
) -> Float[Array, "b j c"]:
    """Sum over i of weight[i, j] * value[i], the product V Cor of Eq. 2.

    weight is the softmax of scale * <key_i, query_j>, in float32, over the keys i
    ("source": each result is a convex mix of values) or over the queries j ("target":
    each value is shared out). Choice A1: the paper does not name the axis.
    mask, query_mask: false cells are as if they were not there; their weights are 0,
    and so are results without any key and results of false queries.
    block: rows of the (i j) map that exist at once. A map of up to 4 * block^2 entries
    is built whole. Exact either way; memory is linear in cells, backward as well.
    """
    num_keys, num_queries = key.shape[1], query.shape[1]
    if mask is None:
        mask = jnp.ones(key.shape[:2], bool)
    if query_mask is None:
        query_mask = jnp.ones(query.shape[:2], bool)
    gather = partial(_gather, axis=_AXIS[normalise], scale=scale)

    if num_keys * num_queries <= 4 * block**2:
        return gather(query, query_mask, key, mask, value)
    # The normalised axis stays whole, the other is cut; checkpoint: the backward pass
    # makes each block of the map again instead of keeping all of them.
    remade = jax.checkpoint(gather)
    if normalise == "source":
        blocks = _blocks(query, block), _blocks(query_mask, block)
        result = jax.lax.map(lambda q: remade(*q, key, mask, value), blocks)
        return _join(result)[:, :num_queries]

    def add(total, keys):
        return total + remade(query, query_mask, *keys), None

    blocks = _blocks(key, block), _blocks(mask, block), _blocks(value, block)
    total = jnp.zeros((*query.shape[:2], value.shape[-1]), value.dtype)
    return jax.lax.scan(add, total, blocks)[0]


def _gather(query, query_mask, key, mask, value, *, axis: int, scale: float):
    """The plain form, with the whole map of its arguments in memory."""
    logits = jnp.einsum("bid,bjd->bij", key, query, preferred_element_type=jnp.float32)
    both = mask[:, :, None] & query_mask[:, None, :]
    weight = jax.nn.softmax(logits * scale, axis=axis, where=both)
    return jnp.einsum("bij,bic->bjc", weight.astype(value.dtype), value)


def _blocks(x, block: int):
    """[b i ...] as [blocks b block ...], the end filled with zeros (masks: false)."""
    fill = -x.shape[1] % block
    x = jnp.pad(x, [(0, 0), (0, fill)] + [(0, 0)] * (x.ndim - 2))
    return x.reshape(x.shape[0], -1, block, *x.shape[2:]).swapaxes(0, 1)


def _join(x):
    """Inverse of `_blocks`, filling included."""
    x = x.swapaxes(0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])
