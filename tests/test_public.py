"""The public names: there, typed, and without JAX until a model is touched."""

import importlib
import subprocess
import sys
import time
from importlib.metadata import version

import pytest

import stan_jax
from tests import runs


def _python(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=runs.ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", stan_jax.__all__)
def test_public_name_is_where_its_home_has_it(name):
    found = getattr(stan_jax, name)
    home = importlib.import_module(stan_jax._HOME[name])
    assert getattr(home, name) is found
    assert found.__doc__
    assert name in dir(stan_jax)


def test_every_public_name_has_one_home():
    assert sorted(stan_jax._HOME) == sorted(stan_jax.__all__)
    with pytest.raises(AttributeError, match="'stan_jax' has no attribute 'laod'"):
        stan_jax.laod  # noqa: B018


def test_import_loads_neither_jax_nor_numpy_and_is_quick():
    code = "import stan_jax, sys; print({'jax', 'numpy', 'flax'} & set(sys.modules))"
    assert _python(code) == "set()"
    bare = min(_seconds("pass") for _ in range(3))
    assert min(_seconds("import stan_jax") for _ in range(3)) - bare < 0.3


def _seconds(code):
    start = time.perf_counter()
    _python(code)
    return time.perf_counter() - start


def test_errors_of_input_do_not_load_jax():
    code = "import stan_jax, sys; stan_jax.InputError; print('jax' in sys.modules)"
    assert _python(code) == "False"


def test_version_and_types_are_installed():
    assert version("stan_jax") == stan_jax.__version__
    assert (runs.ROOT / "stan_jax/py.typed").is_file()
    setup = (runs.ROOT / "setup.cfg").read_text()
    assert "version = attr: stan_jax.__version__" in setup
    assert "stan_jax = py.typed" in setup
