"""The fixture that writes small sets; helpers are in tiny_sets.py."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_sets


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., tiny_sets.Folder]:
    """Two landscape videos, of 3 and 2 frames, unless told otherwise."""

    def make(name: str = "set", videos=((24, 40, 3), (24, 40, 2))) -> tiny_sets.Folder:
        return tiny_sets.make(tmp_path / name, videos)

    return make
