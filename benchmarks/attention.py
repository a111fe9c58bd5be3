"""Seconds and memory of attention: median of repeated runs, compiled and warm.

    python benchmarks/attention.py [--repeats=10]

Cells of the levels of a 384 x 640 frame (3840 is P3, 15360 is P2) and of the demo,
a tenth of the cells masked out, value channels four to eight times the key's. "plain"
holds the whole map; rows without it are those where the default does the same (small)
or where it would take over 256 MB.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import timing

from stan_jax.ops import attention

# images, cells, key channels, value channels
ROWS = ((8, 240, 16, 64), (8, 960, 16, 64), (1, 960, 32, 256), (1, 3840, 32, 256))
LARGE = ((1, 15360, 32, 256),)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    print(timing.where(repeats))
    print(f"{'':48}{timing.COLUMNS}")
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
                    found = timing.measure(run, (query, key, value, mask), repeats)
                    print(f"{name:34} {what:13}{found}", flush=True)


if __name__ == "__main__":
    main()
