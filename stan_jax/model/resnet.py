"""ResNet and ResNeXt backbones: maps of a frame at strides 4, 8, 16 and 32."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
from flax import nnx
from jaxtyping import Array, Float

from stan_jax.errors import InputError
from stan_jax.model.layers import conv, recomputed
from stan_jax.ops import convolution


class ResNet(nnx.Module):
    """C2..C5 of a ResNet; 18 and 34 layers use basic blocks, more use bottlenecks.

    Args:
      stages: blocks per stage.
      width: channels of the stem, doubled per stage.
      groups, group_width: the 3x3 convolutions of ResNeXt (64 groups of 4: 64x4d).
      caffe: put the stride of a bottleneck into its first 1x1, as MSRA and detectron2
        weights do, not into the 3x3 as torchvision does.
      frozen_stages: -1 trains everything, 0 freezes the stem, n also stages 1..n.
      recompute_stages: stages 1..n keep their last map alone for the gradient and make
        the others again, see `layers.recomputed`; 0 keeps all.
    Source: He et al. 2015, Xie et al. 2016; layout as torchvision.
    """

    strides = (4, 8, 16, 32)
    multiple = 32

    def __init__(
        self,
        *,
        stages: Sequence[int],
        bottleneck: bool,
        norm: Callable,
        width: int = 64,
        groups: int = 1,
        group_width: int = 64,
        caffe: bool = False,
        frozen_stages: int = -1,
        recompute_stages: int = 0,
        rngs: nnx.Rngs,
    ):
        if not -1 <= frozen_stages <= len(stages):
            rule = f"must be in -1..{len(stages)}, is {frozen_stages}"
            raise InputError("frozen_stages", "", rule)
        if not 0 <= recompute_stages <= len(stages):
            rule = f"must be in 0..{len(stages)}, is {recompute_stages}"
            raise InputError("recompute_stages", "", rule)
        self.frozen_stages = frozen_stages
        self.recompute_stages = recompute_stages
        self.conv1 = conv(3, width, 7, stride=2, bias=False, rngs=rngs)
        self.bn1 = norm(width, rngs=rngs)
        channels, out = width, []
        for i, blocks in enumerate(stages):
            inner = width * 2**i
            layer = []
            for j in range(blocks):
                stride = 2 if i > 0 and j == 0 else 1
                if bottleneck:
                    middle = inner * group_width * groups // 64
                    block = Bottleneck(
                        channels,
                        middle,
                        4 * inner,
                        stride=stride,
                        groups=groups,
                        caffe=caffe,
                        norm=norm,
                        rngs=rngs,
                    )
                    channels = 4 * inner
                else:
                    block = BasicBlock(
                        channels, inner, stride=stride, norm=norm, rngs=rngs
                    )
                    channels = inner
                layer.append(block)
            setattr(self, f"layer{i + 1}", nnx.List(layer))
            out.append(channels)
        self.channels = tuple(out)

    def __call__(self, x: Float[Array, "b fh fw 3"]) -> list[Float[Array, "b h w c"]]:
        """Return the maps C2..C5 of normalised RGB frames."""
        x = convolution.max_pool(jax.nn.relu(self.bn1(self.conv1(x))))
        maps = []
        for i in range(len(self.channels)):
            # A frozen stage passes nothing back, so XLA drops its whole backward pass.
            x = jax.lax.stop_gradient(x) if i <= self.frozen_stages else x
            stage = partial(_apply, getattr(self, f"layer{i + 1}"))
            again = self.frozen_stages <= i < self.recompute_stages
            x = recomputed(stage, x) if again else stage(x)
            maps.append(jax.lax.stop_gradient(x) if i < self.frozen_stages else x)
        return maps

    @property
    def frozen_paths(self) -> tuple[str, ...]:
        """Paths of the submodules that take no gradient."""
        stages = tuple(f"layer{i + 1}" for i in range(self.frozen_stages))
        return ("conv1", "bn1", *stages) if self.frozen_stages >= 0 else ()


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        *,
        stride: int,
        norm: Callable,
        rngs: nnx.Rngs,
    ):
        self.conv1 = conv(
            channels_in, channels, 3, stride=stride, bias=False, rngs=rngs
        )
        self.bn1 = norm(channels, rngs=rngs)
        self.conv2 = conv(channels, channels, 3, bias=False, rngs=rngs)
        self.bn2 = norm(channels, rngs=rngs)
        self.downsample = _shortcut(channels_in, channels, stride, norm, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        """Return relu(residual + shortcut)."""
        y = jax.nn.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return jax.nn.relu(y + _apply(self.downsample, x))


class Bottleneck(nnx.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut."""

    def __init__(
        self,
        channels_in: int,
        middle: int,
        channels: int,
        *,
        stride: int,
        groups: int,
        caffe: bool,
        norm: Callable,
        rngs: nnx.Rngs,
    ):
        first, second = (stride, 1) if caffe else (1, stride)
        self.conv1 = conv(channels_in, middle, 1, stride=first, bias=False, rngs=rngs)
        self.bn1 = norm(middle, rngs=rngs)
        self.conv2 = conv(
            middle, middle, 3, stride=second, groups=groups, bias=False, rngs=rngs
        )
        self.bn2 = norm(middle, rngs=rngs)
        self.conv3 = conv(middle, channels, 1, bias=False, rngs=rngs)
        self.bn3 = norm(channels, rngs=rngs)
        self.downsample = _shortcut(channels_in, channels, stride, norm, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        """Return relu(residual + shortcut)."""
        y = jax.nn.relu(self.bn1(self.conv1(x)))
        y = jax.nn.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return jax.nn.relu(y + _apply(self.downsample, x))


def _shortcut(
    channels_in: int, channels: int, stride: int, norm: Callable, rngs: nnx.Rngs
) -> Sequence[nnx.Module] | None:
    if stride == 1 and channels_in == channels:
        return None
    projection = conv(channels_in, channels, 1, stride=stride, bias=False, rngs=rngs)
    return nnx.List([projection, norm(channels, rngs=rngs)])


def _apply(layers: Sequence[nnx.Module] | None, x: Array) -> Array:
    for layer in layers or ():
        x = layer(x)
    return x
