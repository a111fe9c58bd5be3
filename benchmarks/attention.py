"""Seconds and memory of attention: median of repeated runs, compiled and warm.

    python benchmarks/attention.py [--repeats=10]

Cells of the levels of a 384 x 640 frame (3840 is P3, 15360 is P2) and of the demo,
a tenth of the cells masked out, value channels four to eight times the key's. "plain"
holds the whole map; rows without it are those where the default does the same (small)
or where it would take over 256 MB.
"""

import argparse
import platform
import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from stan_jax.ops import attention

# images, cells, key channels, value channels
ROWS = ((8, 240, 16, 64), (8, 960, 16, 64), (1, 960, 32, 256), (1, 3840, 32, 256))
LARGE = ((1, 15360, 32, 256),)


def measure(function, args, repeats):
    """Median and best seconds, and bytes beside arguments and results."""
    run = jax.jit(function).lower(*args).compile()
    jax.block_until_ready(run(*args))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run(*args))
        seconds.append(time.perf_counter() - start)
    analysis = run.memory_analysis()  # not every backend has one
    memory = analysis.temp_size_in_bytes if analysis else float("nan")
    return statistics.median(seconds), min(seconds), memory


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    device = jax.devices()[0]
    print(
        f"{device.platform} {device.device_kind}, {platform.machine()}, "
        f"jax {jax.__version__}, python {platform.python_version()}, "
        f"{repeats} runs, {time.strftime('%Y-%m-%d')}"
    )
    print(f"{'':48}{'median ms':>10}{'best ms':>9}{'extra MB':>10}")
    rng = np.random.default_rng(0)
    for batch, cells, d, c in ROWS + LARGE:
        query, key, value = (
            jnp.asarray(rng.standard_normal((batch, cells, n)) * 0.3, jnp.float32)
            for n in (d, d, c)
        )
        mask = jnp.asarray(rng.random((batch, cells)) < 0.9)
        forms = {"default": None}
        if 2**20 < batch * cells**2 < 2**26:
            forms["plain"] = cells
        for normalise in ("source", "target"):
            for form, block in forms.items():
                how = {"normalise": normalise, "block": block}

                def forward(query, key, value, mask, how=how):
                    run = partial(attention.attend, query_mask=mask, **how)
                    return run(query, key, value, mask)

                def loss(*args, forward=forward):
                    return (forward(*args) ** 2).sum()

                backward = jax.grad(loss, (0, 1, 2))
                name = f"{batch} x {cells}, {c} ch, {normalise}, {form}"
                for what, run in (("forward", forward), ("with gradient", backward)):
                    median, best, memory = measure(
                        run, (query, key, value, mask), repeats
                    )
                    print(
                        f"{name:34} {what:13}{median * 1e3:10.2f}{best * 1e3:9.2f}"
                        f"{memory / 1e6:10.2f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
