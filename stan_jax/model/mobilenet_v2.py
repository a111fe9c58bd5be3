"""MobileNetV2, a backbone for CPUs: maps of a frame at strides 4, 8, 16 and 32."""

from collections.abc import Callable

import jax
from flax import nnx
from jaxtyping import Array, Float

from stan_jax.errors import InputError
from stan_jax.model.layers import KAIMING, conv
from stan_jax.ops import convolution

# One row a block: channels, stride. Source: Sandler et al. 2018, table 2, with the
# strides of the Gluon weights (blocks 1, 3, 10, 13; the paper has 1, 3, 6, 13), so the
# 64-channel blocks run at stride 8.
BLOCKS = (
    (16, 1),
    (24, 2),
    (24, 1),
    (32, 2),
    (32, 1),
    (32, 1),
    (64, 1),
    (64, 1),
    (64, 1),
    (64, 1),
    (96, 2),
    (96, 1),
    (96, 1),
    (160, 2),
    (160, 1),
    (160, 1),
    (320, 1),
)
OUTPUTS = (2, 9, 12, 16)  # blocks whose results are C2..C5


class MobileNetV2(nnx.Module):
    """C2..C5 (24, 64, 96, 320 channels) of a MobileNetV2 of width 1.

    frozen_blocks: -1 trains everything, 0 freezes the stem, n also blocks 0..n-1.
    """

    channels = tuple(BLOCKS[i][0] for i in OUTPUTS)
    strides = (4, 8, 16, 32)
    multiple = 32

    def __init__(self, *, norm: Callable, frozen_blocks: int = -1, rngs: nnx.Rngs):
        if not -1 <= frozen_blocks <= len(BLOCKS):
            rule = f"must be in -1..{len(BLOCKS)}, is {frozen_blocks}"
            raise InputError("frozen_blocks", "", rule)
        self.frozen_blocks = frozen_blocks
        self.stem = ConvNorm(3, 32, 3, stride=2, norm=norm, rngs=rngs)
        channels, blocks = 32, []
        for i, (out, stride) in enumerate(BLOCKS):
            expansion = 6 if i else 1
            blocks.append(
                InvertedResidual(
                    channels, out, expansion, stride=stride, norm=norm, rngs=rngs
                )
            )
            channels = out
        self.blocks = nnx.List(blocks)

    def __call__(self, x: Float[Array, "b fh fw 3"]) -> list[Float[Array, "b h w c"]]:
        """Return the maps C2..C5 of normalised RGB frames."""
        x = jax.nn.relu6(self.stem(x))
        maps = []
        for i, block in enumerate(self.blocks):
            # What is frozen passes nothing back, so XLA drops its backward pass.
            x = jax.lax.stop_gradient(x) if i <= self.frozen_blocks else x
            x = block(x)
            if i in OUTPUTS:
                frozen = i < self.frozen_blocks
                maps.append(jax.lax.stop_gradient(x) if frozen else x)
        return maps

    @property
    def frozen_paths(self) -> tuple[str, ...]:
        """Paths of the submodules that take no gradient."""
        blocks = tuple(f"blocks/{i}" for i in range(self.frozen_blocks))
        return ("stem", *blocks) if self.frozen_blocks >= 0 else ()


class InvertedResidual(nnx.Module):
    """1x1 up, 3x3 per channel, 1x1 down; a shortcut where the shapes allow it."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        expansion: int,
        *,
        stride: int,
        norm: Callable,
        rngs: nnx.Rngs,
    ):
        middle = channels_in * expansion
        self.residual = stride == 1 and channels_in == channels
        self.expand = ConvNorm(channels_in, middle, 1, norm=norm, rngs=rngs)
        self.depthwise = DepthwiseNorm(middle, stride=stride, norm=norm, rngs=rngs)
        self.project = ConvNorm(middle, channels, 1, norm=norm, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        """Return the projection, which has no activation, plus the shortcut."""
        y = jax.nn.relu6(self.expand(x))
        y = self.project(jax.nn.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class ConvNorm(nnx.Module):
    """A convolution without bias and its norm."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        size: int,
        *,
        stride: int = 1,
        norm: Callable,
        rngs: nnx.Rngs,
    ):
        self.conv = conv(
            channels_in, channels, size, stride=stride, bias=False, rngs=rngs
        )
        self.bn = norm(channels, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        """Return norm(conv(x))."""
        return self.bn(self.conv(x))


class DepthwiseNorm(nnx.Module):
    """A 3x3 convolution of each channel with itself, and its norm."""

    def __init__(self, channels: int, *, stride: int, norm: Callable, rngs: nnx.Rngs):
        self.stride = stride
        self.kernel = nnx.Param(KAIMING(rngs.params(), (3, 3, 1, channels)))
        self.bn = norm(channels, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        """Return norm(conv(x))."""
        y = convolution.convolve_depthwise(x, self.kernel[...], self.stride, 1)
        return self.bn(y)
