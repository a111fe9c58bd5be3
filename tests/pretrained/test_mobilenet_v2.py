import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stan_jax.errors import InputError
from stan_jax.model import stan
from stan_jax.model.layers import FrozenBatchNorm, GroupNorm
from stan_jax.model.mobilenet_v2 import MobileNetV2
from stan_jax.pretrained import mobilenet_v2


def _split(norm=FrozenBatchNorm):
    model = MobileNetV2(norm=norm, rngs=nnx.Rngs(0))
    structure, params, frozen = nnx.split(model, nnx.Param, ...)
    return structure, nnx.to_pure_dict(params), nnx.to_pure_dict(frozen)


@pytest.fixture(scope="module")
def backbone():
    return _split()


@pytest.fixture(scope="module")
def weights(shared_data):
    return shared_data / "pretrained/mobilenetv2_imagenet.npz"


@pytest.fixture
def broken(weights, tmp_path):
    """The file of the weights after a change."""

    def make(change):
        arrays = dict(np.load(weights))
        change(arrays)
        path = tmp_path / "broken.npz"
        np.savez(path, **arrays)
        return path

    return make


def test_backbone_gives_the_reference_output(backbone, weights, shared_data):
    structure, *state = backbone
    reference = np.load(shared_data / "pretrained/reference_outputs.npz")
    model = nnx.merge(structure, *mobilenet_v2.load(weights, *state))
    images = jnp.asarray(reference["images"])
    size_hw = jnp.full((2, 2), 224)
    maps = jax.jit(lambda m, x: m(stan.normalise(x, size_hw)))(model, images)
    want = reference["mobilenet_s32"]
    assert np.abs(want).max() > 1
    np.testing.assert_allclose(maps[3], want, atol=1e-4)


def test_every_array_of_the_file_but_the_head_finds_its_place(backbone, weights):
    _, params, frozen = backbone
    loaded = mobilenet_v2.load(weights, params, frozen)
    assert jax.tree.structure(loaded) == jax.tree.structure((params, frozen))
    arrays = np.load(weights)
    given = [arrays[k] for k in arrays.files if not k.startswith("head.")]
    got = jax.tree.leaves(loaded)

    def fingerprint(leaves):
        return sorted((x.shape, float(x.astype(np.float64).sum())) for x in leaves)

    assert fingerprint(got) == fingerprint(given)
    assert {x.dtype for x in got} == {np.dtype(np.float32)}
    norm = loaded[1]["blocks"][4]["depthwise"]["bn"]
    np.testing.assert_array_equal(norm["var"], arrays["block4.depthwise.bn.var"])


def test_all_that_is_wrong_with_a_file_is_named_at_once(backbone, broken):
    def change(arrays):
        del arrays["stem.conv"], arrays["block3.project.bn.var"]
        arrays["block17.expand.conv"] = np.zeros(3)
        arrays["block2.depthwise.conv"] = np.zeros((5, 5, 1, 144))

    path = broken(change)
    with pytest.raises(InputError) as caught:
        mobilenet_v2.load(path, *backbone[1:])
    assert caught.value.file == str(path)
    assert caught.value.rule.split("; ") == [
        "blocks/17/expand/conv/kernel has no place",
        "blocks/2/depthwise/kernel is (5, 5, 1, 144), needed (3, 3, 1, 144)",
        "blocks/3/project/bn/var is missing",
        "stem/conv/kernel is missing",
    ]


def test_a_key_of_another_naming_is_named_as_it_stands(backbone, broken):
    path = broken(lambda arrays: arrays.update({"classifier.weight": np.zeros(2)}))
    with pytest.raises(InputError, match="classifier.weight has no place$"):
        mobilenet_v2.load(path, *backbone[1:])


def test_statistics_have_no_place_in_a_group_norm(weights):
    with pytest.raises(InputError, match="stem/bn/mean has no place"):
        mobilenet_v2.load(weights, *_split(GroupNorm)[1:])


@pytest.mark.parametrize("content", [b"", b"no archive", 1000, None])
def test_a_file_that_is_no_archive_is_refused_by_name(
    backbone, weights, tmp_path, content
):
    path = tmp_path / "weights.npz"
    if isinstance(content, int):
        content = weights.read_bytes()[:-content]  # cut short
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="weights.npz: must be an .npz file"):
        mobilenet_v2.load(path, *backbone[1:])
