import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model
from flax import nnx

from stan_jax.model import build as builder
from stan_jax.model import layers

# Compiled whole: one operation at a time takes far longer to compile than to run.
apply = jax.jit(lambda layer, x: layer(x))


def _normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
    ("size", "stride", "groups"),
    [(1, 1, 1), (1, 2, 1), (3, 1, 2), (3, 2, 1), (7, 2, 1)],
)
def test_conv_equals_loops_on_odd_and_even_maps(size, stride, groups):
    conv = tiny_model.shake(
        layers.conv(4, 6, size, stride=stride, groups=groups, rngs=nnx.Rngs(0))
    )
    given = tiny_model.arrays(conv)
    for hw in ((9, 12), (8, 7)):
        x = _normal(2, 2, *hw, 4)
        want = tiny_model.conv(x, **given, stride=stride, groups=groups)
        np.testing.assert_allclose(apply(conv, x), want, atol=2e-5)


def test_frozen_batch_norm_equals_its_formula():
    norm = layers.FrozenBatchNorm(5, rngs=nnx.Rngs(0))
    x = _normal(0, 2, 3, 4, 5)
    np.testing.assert_allclose(
        apply(norm, x), x, rtol=1e-5
    )  # mean 0, variance 1 at first
    scale, bias, mean = (_normal(i, 5) for i in (1, 2, 3))
    var = jnp.abs(_normal(4, 5)) + 0.1
    norm.scale[...], norm.bias[...] = scale, bias
    norm.mean[...], norm.var[...] = mean, var
    got = apply(norm, x)
    x, scale, bias, mean, var = (
        np.asarray(a, np.float64) for a in (x, scale, bias, mean, var)
    )
    want = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_only_scale_and_bias_of_a_frozen_batch_norm_learn():
    _, learned, rest = nnx.split(
        layers.FrozenBatchNorm(5, rngs=nnx.Rngs(0)), nnx.Param, ...
    )
    assert set(learned) == {"scale", "bias"}
    assert set(rest) == {"mean", "var"}


def test_group_norm_equals_its_formula_per_frame_and_group():
    norm = layers.GroupNorm(12, group_size=4, rngs=nnx.Rngs(0))
    norm.scale[...], norm.bias[...] = _normal(1, 12), _normal(2, 12)
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 12)) * 3 + np.arange(12)
    x = x.astype(np.float32)
    want = x.astype(np.float64)
    for frame in want:
        for first in range(0, 12, 4):
            group = frame[..., first : first + 4]
            group[...] = (group - group.mean()) / np.sqrt(group.var() + 1e-5)
    want = want * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])
    np.testing.assert_allclose(apply(norm, jnp.asarray(x)), want, atol=2e-5)


def test_group_norm_does_not_see_scale_and_shift_of_its_input():
    norm = layers.GroupNorm(8, group_size=8, rngs=nnx.Rngs(0))
    x = _normal(0, 2, 6, 6, 8)
    np.testing.assert_allclose(apply(norm, 4 * x + 8), apply(norm, x), atol=2e-4)


def test_group_norm_of_a_constant_is_its_bias():
    norm = layers.GroupNorm(8, rngs=nnx.Rngs(0))
    norm.bias[...] = _normal(1, 8)
    x = jnp.full((1, 3, 3, 8), 5.0)
    got = apply(norm, x)
    np.testing.assert_allclose(got[0, 1, 2], norm.bias[...], atol=1e-3)
    grad = jax.jit(jax.grad(lambda x: norm(x).sum()))(x)
    assert np.isfinite(grad).all()


def test_group_norm_computes_in_float32_and_keeps_bfloat16():
    norm = layers.GroupNorm(8, rngs=nnx.Rngs(0))
    x = (_normal(0, 2, 16, 16, 8) + 20).astype(jnp.bfloat16)
    got = apply(norm, x)
    assert got.dtype == jnp.bfloat16
    exact = apply(norm, x.astype(jnp.float32))
    np.testing.assert_allclose(got.astype(jnp.float32), exact, rtol=2**-8, atol=1e-6)


def test_group_norm_refuses_channels_that_do_not_divide():
    with pytest.raises(ValueError, match="12 channels do not divide by 8"):
        layers.GroupNorm(12, rngs=nnx.Rngs(0))


def _drawn(init, shape=(3, 3, 64, 32), seed=0):
    return np.asarray(init(nnx.Rngs(seed).params(), shape))


def _drawn_in_jit(init, shape=(3, 3, 64, 32), seed=0):
    return np.asarray(jax.jit(lambda: init(nnx.Rngs(seed).params(), shape))())


@pytest.mark.parametrize("draw", [_drawn, _drawn_in_jit])
def test_initializers_have_the_deviation_of_their_source(draw):
    np.testing.assert_allclose(draw(layers.normal(0.01)).std(), 0.01, rtol=0.02)
    # He et al. 2015 with the fan out, Glorot and Bengio 2010; a tap each of 9.
    np.testing.assert_allclose(
        draw(layers.KAIMING).std(), np.sqrt(2 / (9 * 32)), rtol=0.02
    )
    bound = np.sqrt(6 / (9 * 64 + 9 * 32))
    xavier = draw(layers.XAVIER)
    np.testing.assert_allclose([xavier.min(), xavier.max()], [-bound, bound], rtol=0.01)
    np.testing.assert_allclose(xavier.std(), bound / np.sqrt(3), rtol=0.02)
    for init in (layers.normal(1.0), layers.KAIMING, layers.XAVIER):
        assert abs(draw(init).mean()) < 0.05 * draw(init).std()


@pytest.mark.parametrize("init", [layers.normal(1.0), layers.KAIMING, layers.XAVIER])
@pytest.mark.parametrize("shape", [(3, 3, 64, 32), (300, 40)])
def test_initializers_draw_from_one_law_in_and_out_of_jit(init, shape):
    host, traced = (
        np.sort(draw(init, shape).ravel()) for draw in (_drawn, _drawn_in_jit)
    )
    assert traced.dtype == host.dtype
    assert (host != traced).any()
    # Kolmogorov-Smirnov: 1.95 sqrt(2 / n) is exceeded once in a thousand.
    every = np.concatenate([host, traced])
    shares = [np.searchsorted(x, every, "right") / len(x) for x in (host, traced)]
    assert np.abs(shares[0] - shares[1]).max() < 1.95 * np.sqrt(2 / len(host))


@pytest.mark.parametrize("draw", [_drawn, _drawn_in_jit])
def test_initializers_follow_the_seed_alone(draw):
    for init in (layers.normal(1.0), layers.KAIMING, layers.XAVIER):
        np.testing.assert_array_equal(draw(init), draw(init))
        assert (draw(init) != draw(init, seed=1)).any()


def test_two_layers_of_one_model_start_differently():
    rngs = nnx.Rngs(0)
    one, other = (layers.conv(4, 4, 3, rngs=rngs) for _ in range(2))
    assert (one.kernel[...] != other.kernel[...]).any()


def test_initializers_give_shapes_without_drawing():
    got = nnx.eval_shape(lambda: layers.conv(4, 6, 3, rngs=nnx.Rngs(0)))
    shapes = {k: v.shape for k, v in nnx.to_pure_dict(nnx.state(got)).items()}
    assert shapes == {"kernel": (3, 3, 4, 6), "bias": (6,)}


def test_model_built_in_jit_has_living_kernels_of_the_same_law(key):
    def build(key):
        model = builder.build(**tiny_model.SETTINGS, rngs=nnx.Rngs(key))
        return nnx.to_pure_dict(nnx.state(model))

    outside, inside = build(key), jax.jit(build)(key)
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(outside),
        jax.tree_util.tree_leaves_with_path(inside),
        strict=True,
    )
    for (path, want), (same_path, got) in pairs:
        name = jax.tree_util.keystr(path)
        assert same_path == path
        assert (got.shape, got.dtype) == (want.shape, want.dtype), name
        if path[-1].key != "kernel":
            np.testing.assert_array_equal(got, want, err_msg=name)
            continue
        assert got.std() > 0, name
        near = 4 / np.sqrt(got.size)  # four deviations of the difference of two
        np.testing.assert_allclose(got.std(), want.std(), rtol=near, err_msg=name)


def _stages(number, each, how):
    """The gradient of stages of products and tanh, and its arguments."""

    def loss(kernels, x):
        for stage in range(number):

            def function(x, stage=stage):
                for kernel in kernels[stage * each : (stage + 1) * each]:
                    x = jnp.tanh(x @ kernel)
                return x

            x = how(function, x)
        return (x**2).sum()

    kernels = np.random.default_rng(0).normal(size=(number * each, 16, 16)) / 4
    x = np.random.default_rng(1).normal(size=(2048, 16))
    given = [jnp.asarray(k, jnp.float32) for k in kernels], jnp.asarray(x, jnp.float32)
    return jax.jit(jax.grad(loss, (0, 1))), given


def _kept(function, x):
    return function(x)


def test_what_is_recomputed_has_the_same_gradient_and_keeps_no_map_within():
    plain, given = _stages(4, 8, _kept)
    again, _ = _stages(4, 8, layers.recomputed)
    for one, other in zip(
        *(jax.tree.leaves(f(*given)) for f in (again, plain)), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())

    def held(function):
        return function.lower(*given).compile().memory_analysis().temp_size_in_bytes

    assert held(again) < 0.6 * held(plain)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_what_is_recomputed_keeps_its_type_within_jit_and_without(dtype):
    scale = jnp.asarray(3, dtype)
    x = jnp.arange(4, dtype=dtype)
    for wrap in (lambda f: f, jax.jit):
        got, back = jax.vjp(
            wrap(lambda x: layers.recomputed(lambda x: x * scale, x)), x
        )
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, 3 * x)
        np.testing.assert_array_equal(back(got)[0], 9 * x)


def test_building_compiles_nothing_for_a_shape(caplog):
    """They would be most of what a start compiles."""

    def build(n):
        rngs = nnx.Rngs(0)
        layers.conv(3, n, 3, rngs=rngs)
        layers.linear(n, 4, init=layers.KAIMING, rngs=rngs)
        layers.FrozenBatchNorm(n, rngs=rngs)
        layers.GroupNorm(n, rngs=rngs)
        return [x for x in caplog.messages if x.startswith("Compiling")]

    with jax.log_compiles(True), caplog.at_level("WARNING"):
        build(8)  # the keys
        caplog.clear()
        assert not build(328)
        jnp.zeros(329)
        assert build(328)  # so they are seen
