"""How the tensors of another system find their places in our model, by table."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stan_jax.errors import InputError
from stan_jax.model.stan import BOX_CELLS, STD

EPSILON = 1e-5  # of our frozen batch norm
OWN = "stan."  # before names of ours that stand in a file of another system


class Layout(NamedTuple):
    """An order of axes and rows: how the file's becomes ours, and the way back."""

    ours: Callable[[np.ndarray], np.ndarray]
    theirs: Callable[[np.ndarray], np.ndarray]


class Rule(NamedTuple):
    """One line of a table.

    source: name in the file; {i} stands for a number, the same one in `path`.
    path: name of ours, with slashes; empty: the tensor is not needed.
    """

    source: str
    path: str
    layout: Layout = Layout(np.asarray, np.asarray)


class Translation(NamedTuple):
    """What became of a file: our arrays by path, and names by their fate."""

    arrays: dict[str, np.ndarray]
    skipped: list[str]  # of the file, not needed
    missing: list[str]  # of ours, not in the file


def _dense(rows: Layout) -> Layout:
    """[out in] to [in out], after the rows were put in order."""
    return Layout(lambda x: rows.ours(x).T, lambda x: rows.theirs(x.T))


def _point(rows: Layout) -> Layout:
    """[out in 1 1] to [in out]."""
    return Layout(
        lambda x: rows.ours(x)[:, :, 0, 0].T,
        lambda x: rows.theirs(x.T[:, :, None, None]),
    )


def _roi(kernel: np.ndarray) -> np.ndarray:
    """[out c*y*x] to [y*x*c out], the cells of a RoI."""
    rows = kernel.reshape(len(kernel), -1, BOX_CELLS, BOX_CELLS)
    return rows.transpose(2, 3, 1, 0).reshape(-1, len(kernel))


def _roi_back(kernel: np.ndarray) -> np.ndarray:
    out = kernel.shape[1]
    cells = kernel.reshape(BOX_CELLS, BOX_CELLS, -1, out)
    return cells.transpose(3, 2, 0, 1).reshape(out, -1)


def _deconv(kernel: np.ndarray) -> np.ndarray:
    """[in out y x] to [in y*x*out]: a deconvolution that never overlaps."""
    return kernel.transpose(0, 2, 3, 1).reshape(len(kernel), -1)


def _deconv_back(kernel: np.ndarray) -> np.ndarray:
    return kernel.reshape(len(kernel), 2, 2, -1).transpose(0, 3, 1, 2)


def _caffe_stem(kernel: np.ndarray) -> np.ndarray:
    """[out in h w] to [h w in out] of a layer that takes BGR not divided by a std.

    Source: detectron2 config defaults, PIXEL_STD of 1; our frames are RGB over STD.
    """
    std = np.asarray(STD, np.float32)[None, None, :, None]
    return kernel.transpose(2, 3, 1, 0)[:, :, ::-1] * std


def _one_way(kernel: np.ndarray) -> np.ndarray:
    raise NotImplementedError("nothing is written for this family")


def _rolled(per_class: int) -> Layout:
    """Rows by class: the background from the first place to the last."""
    return Layout(
        lambda x: np.roll(x, -per_class, axis=0), lambda x: np.roll(x, per_class, 0)
    )


def _without_first(per_class: int) -> Layout:
    """Rows by class: without those of the background, which nothing reads."""

    def back(x: np.ndarray) -> np.ndarray:
        return np.concatenate([np.zeros_like(x[:per_class]), x])

    return Layout(lambda x: x[per_class:], back)


AS_IS = Layout(np.asarray, np.asarray)
CONV = Layout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
DENSE, POINT = _dense(AS_IS), _point(AS_IS)
ROI = Layout(_roi, _roi_back)
DECONV = Layout(_deconv, _deconv_back)
CAFFE_STEM = Layout(_caffe_stem, _one_way)
# Written against eps 0, read with EPSILON.
VAR_OF_EPS_0 = Layout(lambda x: (x - np.float64(EPSILON)).astype(np.float32), _one_way)


def layer(source: str, path: str, layout: Layout, bias: Layout = AS_IS) -> list[Rule]:
    """Return the lines of a layer with a bias, as torch names its parts."""
    return [
        Rule(f"{source}.weight", f"{path}/kernel", layout),
        Rule(f"{source}.bias", f"{path}/bias", bias),
    ]


def norm(source: str, path: str, var: Layout = AS_IS) -> list[Rule]:
    """Return the lines of a batch norm as torch names its parts."""
    return [
        Rule(f"{source}.weight", f"{path}/scale"),
        Rule(f"{source}.bias", f"{path}/bias"),
        Rule(f"{source}.running_mean", f"{path}/mean"),
        Rule(f"{source}.running_var", f"{path}/var", var),
        Rule(f"{source}.num_batches_tracked", ""),
    ]


class Columns(NamedTuple):
    """Where a family has the background in its class logits, boxes and masks."""

    logits: Layout
    boxes: Layout
    masks: Layout


BACKGROUND_LAST = Columns(AS_IS, AS_IS, AS_IS)  # none in boxes and masks
BACKGROUND_FIRST = Columns(_rolled(1), _rolled(4), _rolled(1))
FIRST_LEFT_OUT = Columns(_rolled(1), _without_first(4), _without_first(1))


def class_logits(source: str, columns: Columns) -> list[Rule]:
    """Return the lines of the layer that names the class of a RoI."""
    rows = columns.logits
    return layer(source, "box_head/logits", _dense(rows), rows)


def box_deltas(source: str, columns: Columns) -> list[Rule]:
    """Return the lines of the layer that moves the box of each class."""
    rows = columns.boxes
    return layer(source, "box_head/deltas", _dense(rows), rows)


def mask_logits(source: str, columns: Columns) -> list[Rule]:
    """Return the lines of the layer that draws the mask of each class."""
    rows = columns.masks
    return layer(source, "mask_head/logits", _point(rows), rows)


def upsampling(source: str) -> list[Rule]:
    """Return the lines of the deconvolution of the mask head."""
    return [
        Rule(f"{source}.weight", "mask_head/upsample/kernel", DECONV),
        Rule(f"{source}.bias", "mask_head/upsample_bias"),
    ]


def under(rules: Iterable[Rule], source: str, path: str = "") -> tuple[Rule, ...]:
    """Return a table whose names stand below others."""
    return tuple(
        rule._replace(source=source + rule.source, path=rule.path and path + rule.path)
        for rule in rules
    )


def translate(
    file: str | Path,
    tensors: Mapping[str, np.ndarray],
    rules: Sequence[Rule],
    wanted: Mapping[str, tuple[int, ...]],
    *,
    defaults: Mapping[str, float] | None = None,
    may_miss: Sequence[str] = (),
) -> Translation:
    """Return our arrays by path, and what was left over on either side.

    wanted: shape of each of our arrays. Names of ours in the file, after OWN, need no
    rule. defaults: last part of a path -> value of arrays that the file does not hold.
    may_miss: beginnings of paths that the file need not hold.
    Raises: InputError, one for all: tensors without a line, with two or without a
    place, two tensors in one place, other shapes, and places that stay empty.
    """
    rules = [*rules, *(Rule(OWN + path.replace("/", "."), path) for path in wanted)]
    patterns = [(_pattern(rule.source), rule) for rule in rules]
    found, skipped, missing, wrong = {}, [], [], []
    for name, tensor in tensors.items():
        fits = [(m, rule) for p, rule in patterns if (m := p.fullmatch(name))]
        if len(fits) != 1:
            wrong.append(f"{name} fits {len(fits)} lines of the table, not 1")
            continue
        ((match, rule),) = fits
        path = rule.path.format(**match.groupdict())
        if not path:
            skipped.append(name)
            continue
        if path not in wanted:
            wrong.append(f"{name} has no place in the model")
            continue
        if path in found:
            wrong.append(f"{name} is a second tensor for {path}")
        found[path] = _placed(tensor, rule.layout)
        if tensor.dtype.kind != "f":
            wrong.append(f"{name} holds {tensor.dtype}, must hold floats")
        elif not np.isfinite(tensor).all():
            wrong.append(f"{name} holds values that are not finite")
        if found[path].shape != wanted[path]:
            wrong.append(f"{name} is {tensor.shape}, {path} is {wanted[path]}")
    for path in wanted.keys() - found.keys():
        value = (defaults or {}).get(path.rsplit("/", 1)[-1])
        if value is not None:
            found[path] = np.full(wanted[path], value, np.float32)
        elif path.startswith(tuple(may_miss)):
            missing.append(path)
        else:
            wrong.append(f"nothing gives {path}")
    if wrong:
        shown = "; ".join(sorted(wrong)[:8])
        more = f"; and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise InputError(file, "", shown + more)
    return Translation(found, sorted(skipped), sorted(missing))


def back(
    arrays: Mapping[str, np.ndarray], rules: Sequence[Rule]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return arrays of ours under the names of a table, and those that it lacks.

    What has no name there goes under its own, after OWN. Of several lines for one
    path the first is written.
    """
    patterns = [(_pattern(rule.path), rule) for rule in rules if rule.path]
    result, own = {}, []
    for path, array in arrays.items():
        fits = [(m, rule) for p, rule in patterns if (m := p.fullmatch(path))]
        if not fits:
            result[OWN + path.replace("/", ".")] = array
            own.append(path)
            continue
        match, rule = fits[0]
        name = rule.source.format(**match.groupdict())
        result[name] = np.ascontiguousarray(rule.layout.theirs(array))
    return result, own


def places(
    tensors: Mapping[str, np.ndarray], rules: Sequence[Rule]
) -> dict[str, np.ndarray]:
    """Return the tensors, as they are in the file, by our paths; others are left out.

    Names of ours, after OWN, are known as well.
    """
    patterns = [(_pattern(rule.source), rule) for rule in rules]
    found = {}
    for name, tensor in tensors.items():
        if name.startswith(OWN):
            found[name.removeprefix(OWN).replace(".", "/")] = tensor
        for pattern, rule in patterns:
            if rule.path and (match := pattern.fullmatch(name)):
                found[rule.path.format(**match.groupdict())] = tensor
    return found


def count(tensors: Iterable[str], rules: Sequence[Rule]) -> int:
    """Return how many of the names a table knows."""
    patterns = [_pattern(rule.source) for rule in rules]
    return sum(any(p.fullmatch(name) for p in patterns) for name in tensors)


def _placed(tensor: np.ndarray, layout: Layout) -> np.ndarray:
    try:
        return layout.ours(tensor)
    except (ValueError, IndexError):  # another number of axes: its shape is reported
        return tensor


def _pattern(template: str) -> re.Pattern:
    parts = re.split(r"\{(\w+)\}", template)
    text = [
        rf"(?P<{part}>\d+)" if i % 2 else re.escape(part)
        for i, part in enumerate(parts)
    ]
    return re.compile("".join(text))
