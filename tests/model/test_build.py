"""The model is made of parts: a backbone of any make trains and tracks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model
from flax import nnx

from stan_jax.errors import InputError
from stan_jax.model import parameters
from stan_jax.model.backbone import Backbone
from stan_jax.model.build import BACKBONES, architecture, assemble, build
from stan_jax.model.layers import NORMS, conv
from stan_jax.training import losses
from tests.training import tiny_pairs

REST = {
    k: v
    for k, v in tiny_model.SETTINGS.items()
    if k not in ("backbone", "backbone_args", "norm")
}


class Patches(nnx.Module):
    """A backbone that no table knows: no norm, maps at strides 8 and 16 only."""

    channels = (6, 10)
    strides = (8, 16)
    multiple = 16
    frozen_paths = ("first",)

    def __init__(self, rngs):
        self.first = conv(3, 6, 7, stride=8, rngs=rngs)
        self.second = conv(6, 10, 3, stride=2, rngs=rngs)

    def __call__(self, x):
        x = jax.lax.stop_gradient(jax.nn.relu(self.first(x)))
        return [x, self.second(x)]


@pytest.fixture(scope="module")
def model():
    rngs = nnx.Rngs(0)
    rest = REST | dict(sta=dict(key_channels=4, strides=(8, 32)))
    return assemble(Patches(rngs), **rest, rngs=rngs)


def test_handed_in_backbone_gives_its_levels(model):
    assert isinstance(model.backbone, Backbone)
    assert model.fpn.strides == (8, 16, 32)
    assert model.frozen_paths == ("backbone/first",)
    frames = jnp.zeros((1, 48, 80, 3), jnp.uint8)
    levels = jax.eval_shape(model.features, frames, jnp.array([[48, 80]]))
    assert [x.shape for x in levels] == [
        (1, 6, 10, 16),
        (1, 3, 5, 16),
        (1, 2, 3, 16),
    ]
    with pytest.raises(InputError, match="must have sides that divide by 16, is 40 x"):
        model.features(frames[:, :40], jnp.array([[40, 80]]))


def test_handed_in_backbone_trains(model):
    structure, values = parameters.split(model)
    pairs = tiny_pairs.batch(tiny_pairs.pair(0), tiny_pairs.pair(1))

    def loss(params):
        made = parameters.merge(structure, values._replace(params=params))
        terms = losses.terms(
            made,
            pairs,
            jax.random.split(jax.random.key(0), 2),
            thresholds=tiny_model.THRESHOLDS,
            sampling=tiny_pairs.SAMPLING,
            kinds=tiny_pairs.KINDS,
        )
        return losses.total(terms, tiny_pairs.WEIGHTS)[0]

    grads = parameters.by_path(jax.jit(jax.grad(loss))(values.params))
    for path, grad in grads.items():
        frozen = parameters.within(path, model.frozen_paths)
        if frozen or "backbone" in path:
            assert np.any(grad) != frozen, path


def test_handed_in_backbone_tracks(model):
    settings = tiny_model.TRACKING._replace(
        thresholds=tiny_model.THRESHOLDS._replace(score_threshold=0.0)
    )
    shown = list(tiny_model.tracker(model, settings).track(tiny_model.moving(0, 4)))
    assert all(len(frame.ids) for frame in shown)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_of_the_table_keeps_the_protocol(name):
    def make():
        return BACKBONES[name](norm=NORMS["group"], rngs=nnx.Rngs(0))

    backbone = nnx.eval_shape(make)
    assert isinstance(backbone, Backbone)
    frame = jnp.zeros((1, 2 * backbone.multiple, backbone.multiple, 3))
    maps = jax.eval_shape(lambda b, x: b(x), backbone, frame)
    assert [x.shape[-1] for x in maps] == list(backbone.channels)
    assert [frame.shape[1] // x.shape[1] for x in maps] == list(backbone.strides)
    assert all(b == 2 * a for a, b in zip(backbone.strides, backbone.strides[1:]))  # noqa: B905


def test_attention_on_a_level_that_is_not_there_is_refused():
    rngs = nnx.Rngs(0)
    rest = REST | dict(sta=dict(key_channels=4, strides=(4,)))
    with pytest.raises(InputError, match=r"sta.strides: must be among \(8, 16, 32\)"):
        assemble(Patches(rngs), **rest, rngs=rngs)


def test_architecture_is_all_that_build_takes():
    full = architecture(tiny_model.SETTINGS)
    assert "num_classes" not in full
    again = build(num_classes=3, **full, rngs=nnx.Rngs(0))
    want = build(**tiny_model.SETTINGS, rngs=nnx.Rngs(0))
    sides = (parameters.by_path(parameters.split(x)[1]) for x in (again, want))
    for (path, a), (same, b) in zip(*(x.items() for x in sides), strict=True):
        assert path == same
        np.testing.assert_array_equal(a, b)
