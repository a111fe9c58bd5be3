from functools import partial

import numpy as np
import pytest
from jax import lax

from stan_jax.errors import InputError
from stan_jax.export.convert import onnx_of
from tests.export import onnx_runs

RNG = np.random.default_rng(0)
DIMENSIONS = ("NHWC", "HWIO", "NHWC")
X = RNG.normal(size=(2, 7, 8, 4)).astype(np.float32)
KERNEL = RNG.normal(size=(3, 3, 4, 6)).astype(np.float32)
HOWS = {
    "same": dict(padding="SAME"),
    "stride": dict(window_strides=(2, 2), padding=[(1, 1), (1, 0)]),
    "apart": dict(padding="VALID", rhs_dilation=(2, 1)),
    "between": dict(padding=[(1, 2), (2, 2)], lhs_dilation=(2, 3)),
    "cut": dict(padding=[(-1, 2), (0, -2)]),
}


@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
def test_convolution_is_that_of_jax(how):
    how = dict(window_strides=(1, 1), dimension_numbers=DIMENSIONS) | how
    onnx_runs.agree(partial(lax.conv_general_dilated, **how), X, KERNEL, atol=1e-4)


def test_groups_and_other_orders_of_axes_are_those_of_jax():
    own = partial(
        lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=DIMENSIONS,
        feature_group_count=4,
    )
    onnx_runs.agree(own, X, np.ascontiguousarray(KERNEL[:, :, :1, :4]), atol=1e-4)
    channels_first = partial(
        lax.conv_general_dilated, window_strides=(1,), padding="SAME"
    )
    x, kernel = X[0].transpose(0, 2, 1), KERNEL[0].transpose(2, 1, 0)
    onnx_runs.agree(channels_first, x, kernel, atol=1e-4)


def test_groups_of_a_batch_are_refused():
    def f(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            "SAME",
            dimension_numbers=DIMENSIONS,
            batch_group_count=2,
        )

    with pytest.raises(InputError, match="batch_group_count has no writer to ONNX"):
        onnx_of(f, X, KERNEL)
