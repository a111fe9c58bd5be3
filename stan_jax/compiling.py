"""How programs are compiled, and the memory that it leaves behind."""

import ctypes
import gc
import sys
from collections.abc import Callable
from typing import Any

import jax

# On a CPU the newer way to write fused operations. It takes 0.3 GB more to compile a
# ResNet-50's tracker and a third more time for the demo's programs, and frames are no
# faster; training steps are, by 2 to 12 % (jax 0.10.2, 2026-11-27). From 0.11 on there
# is no other way.
_NEWER = "xla_cpu_use_fusion_emitters"


def jit_for_frames(function: Callable) -> Any:
    """Return the function compiled as is best for tracking; not within another jit."""
    older = jax.default_backend() == "cpu" and jax.__version_info__ < (0, 11)
    return jax.jit(function, compiler_options={_NEWER: False} if older else None)


def give_back() -> None:
    """Give what is free back to the system: 0.8 GB after a ResNet-50 was compiled.

    Modules of nnx refer to one another in circles, which Python finds by looking for
    them only; and the C library of Linux keeps pages that compiling has freed, beside
    which the first step would take as many again. Those of others have no such call.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
        if trim is not None:
            trim(0)
