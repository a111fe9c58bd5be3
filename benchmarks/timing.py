"""Parts of every benchmark: the name of the machine, the time of a program."""

import platform
import statistics
import time
from typing import Any, NamedTuple

import jax


class Timing(NamedTuple):
    """Time and memory of one compiled program over a few runs."""

    median_s: float
    best_s: float
    extra_bytes: float  # beside arguments and results; NaN where no backend says
    result: Any

    def __str__(self) -> str:
        return (
            f"{self.median_s * 1e3:10.2f}{self.best_s * 1e3:9.2f}"
            f"{self.extra_bytes / 1e6:10.2f}"
        )


COLUMNS = f"{'median ms':>10}{'best ms':>9}{'extra MB':>10}"  # of a printed Timing


def measure(function, args, repeats):
    """Compile, run once, then time `repeats` runs."""
    run = jax.jit(function).lower(*args).compile()
    result = jax.block_until_ready(run(*args))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run(*args))
        seconds.append(time.perf_counter() - start)
    analysis = run.memory_analysis()
    memory = analysis.temp_size_in_bytes if analysis else float("nan")
    return Timing(statistics.median(seconds), min(seconds), memory, result)


def where(repeats):
    """Device, versions, date: without them a figure says little."""
    device = jax.devices()[0]
    return (
        f"{device.platform} {device.device_kind}, {platform.machine()}, "
        f"jax {jax.__version__}, python {platform.python_version()}, "
        f"{repeats} runs, {time.strftime('%Y-%m-%d')}"
    )
