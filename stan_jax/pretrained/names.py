"""How the tensors of another system find their places in our model, by table."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stan_jax.errors import InputError
from stan_jax.model.stan import STD


class Rule(NamedTuple):
    """One line of a table.

    source: name in the file; {i} stands for a number, the same one in `path`.
    path: name of ours, with slashes; empty: the tensor is not needed.
    layout: from the file's order of axes to ours.
    """

    source: str
    path: str
    layout: Callable[[np.ndarray], np.ndarray] = np.asarray


def conv(kernel: np.ndarray) -> np.ndarray:
    """[out in h w] to [h w in out]."""
    return kernel.transpose(2, 3, 1, 0)


def caffe_stem(kernel: np.ndarray) -> np.ndarray:
    """Likewise, for a first layer that takes BGR frames that were not divided by std.

    Source: detectron2 config defaults, PIXEL_STD of 1; our frames are RGB over STD.
    """
    return conv(kernel)[:, :, ::-1] * np.asarray(STD, np.float32)[None, None, :, None]


def norm(source: str, path: str) -> tuple[Rule, ...]:
    """Return the lines of a batch norm as torch names its parts."""
    parts = dict(weight="scale", bias="bias", running_mean="mean", running_var="var")
    rules = [Rule(f"{source}.{a}", f"{path}/{b}") for a, b in parts.items()]
    return (*rules, Rule(f"{source}.num_batches_tracked", ""))


def translate(
    file: str | Path,
    tensors: Mapping[str, np.ndarray],
    rules: Sequence[Rule],
    wanted: Mapping[str, tuple[int, ...]],
    defaults: Mapping[str, float] | None = None,
) -> dict[str, np.ndarray]:
    """Return our arrays by path.

    wanted: shape of each of our arrays.
    defaults: last part of a path -> value of arrays that the file does not hold.
    Raises: InputError, one for all: tensors without a line, with two or without a
    place, two tensors in one place, other shapes, and places that stay empty.
    """
    patterns = [(_pattern(rule.source), rule) for rule in rules]
    found, wrong = {}, []
    for name, tensor in tensors.items():
        fits = [(m, rule) for p, rule in patterns if (m := p.fullmatch(name))]
        if len(fits) != 1:
            wrong.append(f"{name} fits {len(fits)} lines of the table, not 1")
            continue
        ((match, rule),) = fits
        path = rule.path.format(**match.groupdict())
        if not path:
            continue
        if path not in wanted:
            wrong.append(f"{name} has no place in the model")
        elif path in found:
            wrong.append(f"{name} is a second tensor for {path}")
        elif tensor.ndim != len(wanted[path]):
            wrong.append(f"{name} is {tensor.shape}, {path} is {wanted[path]}")
            found[path] = tensor
        else:
            found[path] = rule.layout(tensor)
            if found[path].shape != wanted[path]:
                wrong.append(f"{name} is {tensor.shape}, {path} is {wanted[path]}")
    for path in wanted.keys() - found.keys():
        value = (defaults or {}).get(path.rsplit("/", 1)[-1])
        if value is None:
            wrong.append(f"nothing gives {path}")
        else:
            found[path] = np.full(wanted[path], value, np.float32)
    if wrong:
        shown = "; ".join(sorted(wrong)[:8])
        more = f"; and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise InputError(file, "", shown + more)
    return found


def count(tensors: Mapping[str, np.ndarray], rules: Sequence[Rule]) -> int:
    """Return how many of the names a table knows."""
    patterns = [_pattern(rule.source) for rule in rules]
    return sum(any(p.fullmatch(name) for p in patterns) for name in tensors)


def _pattern(template: str) -> re.Pattern:
    parts = re.split(r"\{(\w+)\}", template)
    text = [
        rf"(?P<{part}>\d+)" if i % 2 else re.escape(part)
        for i, part in enumerate(parts)
    ]
    return re.compile("".join(text))
