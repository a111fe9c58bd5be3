from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stan_jax.export.suppression import REPLACED
from stan_jax.ops.nms import nms
from tests.export import onnx_runs


def _scene(seed, *rows):
    """Crowded boxes on whole pixels, with many equal scores and overlaps."""
    rng = np.random.default_rng(seed)
    corner, size = rng.integers(0, 30, (*rows, 2)), rng.integers(0, 20, (*rows, 2))
    boxes = np.concatenate([corner, corner + size], -1).astype(np.float32)
    scores = (rng.integers(0, 30, rows) / 30).astype(np.float32)
    return boxes, scores, rng.random(rows) < 0.8, rng.integers(0, 3, rows, np.int32)


def _in_groups(boxes, scores, valid, groups):
    return nms(boxes, scores, valid, threshold=0.5, groups=groups)


@pytest.mark.parametrize("rows", [1, 60, 300])
def test_the_operator_keeps_the_boxes_that_ours_keeps(rows):
    boxes, scores, valid, groups = _scene(rows, rows)
    for threshold in (0.0, 0.3, 0.5):
        one = partial(nms, threshold=threshold)
        model = onnx_runs.agree(one, boxes, scores, valid, replaced=REPLACED)
    assert "NonMaxSuppression" in onnx_runs.operators(model)
    onnx_runs.agree(_in_groups, boxes, scores, valid, groups, replaced=REPLACED)
    none = np.zeros_like(valid)
    onnx_runs.agree(_in_groups, boxes, scores, none, groups, replaced=REPLACED)


def test_each_image_of_a_batch_is_by_itself_and_may_share_what_all_have():
    boxes, scores, valid, groups = _scene(0, 3, 50)
    every = jax.vmap(_in_groups)
    onnx_runs.agree(every, boxes, scores, valid, groups, replaced=REPLACED)
    shared = jax.vmap(_in_groups, (None, 0, None, None))
    onnx_runs.agree(shared, boxes[0], scores, valid[0], groups[0], replaced=REPLACED)


def test_the_loops_of_ours_keep_them_as_well():
    boxes, scores, valid, groups = _scene(1, 300)  # two blocks
    model = onnx_runs.agree(_in_groups, boxes, scores, valid, groups)
    assert "NonMaxSuppression" not in onnx_runs.operators(model)
    some = [jnp.stack([x[:60], x[60:120]]) for x in (boxes, scores, valid, groups)]
    onnx_runs.agree(jax.vmap(_in_groups), *some)
