"""Strict JAX, two CPU devices, a compile cache, and where the reference data lie."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")

import jax
import pytest

from tests import tiny_sets

SHARED = Path(__file__).resolve().parents[2] / "shared"

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update(
    "jax_compilation_cache_dir",
    os.environ.get("STAN_JAX_CACHE", str(Path.home() / ".cache/stan_jax/xla")),
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of whole runs first: begun last, one worker would wait for them."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of reference numbers; tests that need it skip where it is absent."""
    return _present(SHARED / "golden")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real videos and pretrained backbones; likewise."""
    return _present(SHARED / "data")


@pytest.fixture(scope="session")
def shared_cases() -> Path:
    """Folder of inputs after public bug reports; likewise."""
    return _present(SHARED / "cases")


def _present(path: Path) -> Path:
    if not path.is_dir():
        pytest.skip(f"reference folder {path.name} is not beside the repository")
    return path


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., tiny_sets.Folder]:
    """Two landscape videos, of 3 and 2 frames, unless told otherwise."""

    def make(name: str = "set", videos=((24, 40, 3), (24, 40, 2))) -> tiny_sets.Folder:
        return tiny_sets.make(tmp_path / name, videos)

    return make
