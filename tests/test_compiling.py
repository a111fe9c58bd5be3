import gc
import weakref

import jax
import jax.numpy as jnp
import pytest

from stan_jax import compiling


class Circle:
    def __init__(self):
        self.self = self


@pytest.fixture
def no_gc():
    gc.disable()
    yield
    gc.enable()


def test_what_refers_to_itself_is_given_back(no_gc):
    circle = weakref.ref(Circle())
    assert circle() is not None
    compiling.give_back()
    assert circle() is None


def test_pages_are_given_back_where_the_system_can(monkeypatch):
    class Elsewhere:
        pass

    monkeypatch.setattr(compiling.ctypes, "CDLL", lambda _: Elsewhere())
    compiling.give_back()  # which has no such call


def test_frames_are_computed_as_by_any_jit():
    x = jnp.arange(12.0).reshape(3, 4)

    def function(x):
        return (jnp.exp(x) - 1, x.sum(0))

    got = compiling.jit_for_frames(function)(x)
    for a, b in zip(got, jax.jit(function)(x), strict=True):
        assert jnp.allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize(
    ("platform", "version", "options"),
    [
        ("cpu", (0, 10, 2), {compiling._NEWER: False}),
        ("cpu", (0, 11, 0), None),
        ("gpu", (0, 10, 2), None),
    ],
)
def test_options_are_for_those_who_know_them(monkeypatch, platform, version, options):
    given = []
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(jax, "__version_info__", version)
    monkeypatch.setattr(jax, "jit", lambda f, **how: given.append(how))
    compiling.jit_for_frames(len)
    assert given == [{"compiler_options": options}]
