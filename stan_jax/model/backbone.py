"""The protocol of a backbone: what the pyramid, STAN and training ask of it."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Array, Float


@runtime_checkable
class Backbone(Protocol):
    """A module that turns normalised RGB frames into maps of rising stride.

    Any nnx.Module with these members will do; `ResNet` and `MobileNetV2` are two.
    Constructor arguments named `frozen_*` only choose what takes no gradient, so a
    trained model may be used with others.
    """

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each map."""
        ...

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each map in pixels; each is twice the one before."""
        ...

    @property
    def multiple(self) -> int:
        """Pixels that both sides of a canvas must divide by."""
        ...

    @property
    def frozen_paths(self) -> tuple[str, ...]:
        """Paths inside the backbone that take no gradient, such as "layer1/0"."""
        ...

    def __call__(
        self, x: Float[Array, "b fh fw 3"]
    ) -> Sequence[Float[Array, "b _ _ _"]]:
        """Return the maps, finest first."""
        ...
