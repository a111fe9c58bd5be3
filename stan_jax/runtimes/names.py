"""Names that an exported tracker has for what goes in and what comes out."""

from collections.abc import Mapping
from typing import Any

from stan_jax.types import MemoryQueue

FORMAT = "1"  # of what the names mean
MEMORY, NEW = "memory_", "new_memory_"
FRAME, FRAMES, SIZE, CLOCK = "frame", "frames", "size_hw", "clock"
SEEN = "frames_valid"  # of a clip: `valid` is a result
_MAP = "features_"


def flat(memory: MemoryQueue) -> dict[str, Any]:
    """Return the memory by name: its maps are numbered, the finest first."""
    table = memory._asdict()
    maps = table.pop("features")
    return {f"{_MAP}{n}": x for n, x in enumerate(maps)} | table


def nested(table: Mapping[str, Any]) -> MemoryQueue:
    """Return the memory that `flat` gave these names."""
    maps = [name for name in table if name.startswith(_MAP)]
    rest = {name: x for name, x in table.items() if name not in maps}
    return MemoryQueue(tuple(table[f"{_MAP}{n}"] for n in range(len(maps))), **rest)
