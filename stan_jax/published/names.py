"""Tables that take the tensors of another system to their places in our model."""

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
    """An order of axes and rows: the way from the file's to ours, and back."""

    ours: Callable[[np.ndarray], np.ndarray]
    theirs: Callable[[np.ndarray], np.ndarray]


class Rename(NamedTuple):
    """Name of a tensor in a file and in our model: one line of a table.

    source: name in the file; {i} stands for a number, the same one in `path`.
    path: name of ours, with slashes; empty: the tensor is not needed.
    """

    source: str
    path: str
    layout: Layout = Layout(np.asarray, np.asarray)


class Translation(NamedTuple):
    """Our arrays of a file by path, and the names that are left over on either side."""

    arrays: dict[str, np.ndarray]
    skipped: list[str]  # of the file, not needed
    missing: list[str]  # of ours, not in the file


def _dense(rows: Layout) -> Layout:
    """Return the layout [out in] to [in out], after the rows were put in order."""
    return Layout(lambda x: rows.ours(x).T, lambda x: rows.theirs(x.T))


def _point(rows: Layout) -> Layout:
    """Return the layout [out in 1 1] to [in out]."""
    return Layout(
        lambda x: rows.ours(x)[:, :, 0, 0].T,
        lambda x: rows.theirs(x.T[:, :, None, None]),
    )


def _roi(kernel: np.ndarray) -> np.ndarray:
    """Turn [out c*y*x] into [y*x*c out], the cells of a RoI."""
    rows = kernel.reshape(len(kernel), -1, BOX_CELLS, BOX_CELLS)
    return rows.transpose(2, 3, 1, 0).reshape(-1, len(kernel))


def _roi_back(kernel: np.ndarray) -> np.ndarray:
    out = kernel.shape[1]
    cells = kernel.reshape(BOX_CELLS, BOX_CELLS, -1, out)
    return cells.transpose(3, 2, 0, 1).reshape(out, -1)


def _deconv(kernel: np.ndarray) -> np.ndarray:
    """Turn [in out y x] into [in y*x*out]: a deconvolution that never overlaps."""
    return kernel.transpose(0, 2, 3, 1).reshape(len(kernel), -1)


def _deconv_back(kernel: np.ndarray) -> np.ndarray:
    return kernel.reshape(len(kernel), 2, 2, -1).transpose(0, 3, 1, 2)


def _caffe_stem(kernel: np.ndarray) -> np.ndarray:
    """Turn [out in h w] of a layer for BGR not divided by a std into [h w in out].

    Source: detectron2 config defaults, PIXEL_STD of 1; our frames are RGB over STD.
    """
    std = np.asarray(STD, np.float32)[None, None, :, None]
    return kernel.transpose(2, 3, 1, 0)[:, :, ::-1] * std


def _one_way(kernel: np.ndarray) -> np.ndarray:
    raise NotImplementedError("nothing is written for this family")


def _rolled(per_class: int) -> Layout:
    """Return rows by class, the background moved from the first place to the last."""
    return Layout(
        lambda x: np.roll(x, -per_class, axis=0), lambda x: np.roll(x, per_class, 0)
    )


def _without_first(per_class: int) -> Layout:
    """Return rows by class without those of the background, which nothing reads."""

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


def layer(source: str, path: str, layout: Layout, bias: Layout = AS_IS) -> list[Rename]:
    """Return the lines of a layer with a bias, as torch names its parts."""
    return [
        Rename(f"{source}.weight", f"{path}/kernel", layout),
        Rename(f"{source}.bias", f"{path}/bias", bias),
    ]


def norm(source: str, path: str, var: Layout = AS_IS) -> list[Rename]:
    """Return the lines of a batch norm as torch names its parts."""
    return [
        Rename(f"{source}.weight", f"{path}/scale"),
        Rename(f"{source}.bias", f"{path}/bias"),
        Rename(f"{source}.running_mean", f"{path}/mean"),
        Rename(f"{source}.running_var", f"{path}/var", var),
        Rename(f"{source}.num_batches_tracked", ""),
    ]


class Columns(NamedTuple):
    """Place of the background in the class logits, boxes and masks of a family."""

    logits: Layout
    boxes: Layout
    masks: Layout


BACKGROUND_LAST = Columns(AS_IS, AS_IS, AS_IS)  # none in boxes and masks
BACKGROUND_FIRST = Columns(_rolled(1), _rolled(4), _rolled(1))
FIRST_LEFT_OUT = Columns(_rolled(1), _without_first(4), _without_first(1))


def class_logits(source: str, columns: Columns) -> list[Rename]:
    """Return the lines of the layer that names the class of a RoI."""
    rows = columns.logits
    return layer(source, "box_head/logits", _dense(rows), rows)


def box_deltas(source: str, columns: Columns) -> list[Rename]:
    """Return the lines of the layer that moves the box of each class."""
    rows = columns.boxes
    return layer(source, "box_head/deltas", _dense(rows), rows)


def mask_logits(source: str, columns: Columns) -> list[Rename]:
    """Return the lines of the layer that draws the mask of each class."""
    rows = columns.masks
    return layer(source, "mask_head/logits", _point(rows), rows)


def upsampling(source: str) -> list[Rename]:
    """Return the lines of the deconvolution of the mask head."""
    return [
        Rename(f"{source}.weight", "mask_head/upsample/kernel", DECONV),
        Rename(f"{source}.bias", "mask_head/upsample_bias"),
    ]


def under(renames: Iterable[Rename], source: str, path: str = "") -> tuple[Rename, ...]:
    """Return a table whose names stand below others."""
    return tuple(
        Rename(source + line.source, line.path and path + line.path, line.layout)
        for line in renames
    )


def translate(
    file: str | Path,
    tensors: Mapping[str, np.ndarray],
    renames: Sequence[Rename],
    wanted: Mapping[str, tuple[int, ...]],
    *,
    defaults: Mapping[str, float] | None = None,
    may_miss: Sequence[str] = (),
) -> Translation:
    """Return our arrays by path, and what was left over on either side.

    Args:
      file: named in errors.
      tensors: by their names in the file; names of ours, after OWN, need no line.
      renames: the table.
      wanted: shape of each of our arrays.
      defaults: last part of a path -> value of arrays that the file does not hold.
      may_miss: beginnings of paths that the file need not hold.

    Raises: InputError, one for all: tensors without a line, with two or without a
    place, two tensors in one place, other shapes, and places that stay empty.
    """
    own = (Rename(OWN + path.replace("/", "."), path) for path in wanted)
    renames = [*renames, *own]
    patterns = [(_pattern(rename.source), rename) for rename in renames]
    found, skipped, missing, wrong = {}, [], [], []
    for name, tensor in tensors.items():
        fits = [(m, rename) for p, rename in patterns if (m := p.fullmatch(name))]
        if len(fits) != 1:
            wrong.append(f"{name} fits {len(fits)} lines of the table, not 1")
            continue
        ((match, rename),) = fits
        path = rename.path.format(**match.groupdict())
        if not path:
            skipped.append(name)
            continue
        if path not in wanted:
            wrong.append(f"{name} has no place in the model")
            continue
        if path in found:
            wrong.append(f"{name} is a second tensor for {path}")
        found[path] = _placed(tensor, rename.layout)
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
    arrays: Mapping[str, np.ndarray], renames: Sequence[Rename]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return arrays of ours under the names of a table, and those that it lacks.

    What has no name there goes under its own, after OWN. Of several lines for one
    path the first is written.
    """
    patterns = [(_pattern(rename.path), rename) for rename in renames if rename.path]
    result, own = {}, []
    for path, array in arrays.items():
        fits = [(m, rename) for p, rename in patterns if (m := p.fullmatch(path))]
        if not fits:
            result[OWN + path.replace("/", ".")] = array
            own.append(path)
            continue
        match, rename = fits[0]
        name = rename.source.format(**match.groupdict())
        result[name] = np.ascontiguousarray(rename.layout.theirs(array))
    return result, own


def places(
    tensors: Mapping[str, np.ndarray], renames: Sequence[Rename]
) -> dict[str, np.ndarray]:
    """Return the tensors, as they are in the file, by our paths; others are left out.

    Names of ours, after OWN, are known as well.
    """
    patterns = [(_pattern(rename.source), rename) for rename in renames]
    found = {}
    for name, tensor in tensors.items():
        if name.startswith(OWN):
            found[name.removeprefix(OWN).replace(".", "/")] = tensor
        for pattern, rename in patterns:
            if rename.path and (match := pattern.fullmatch(name)):
                found[rename.path.format(**match.groupdict())] = tensor
    return found


def count(tensors: Iterable[str], renames: Sequence[Rename]) -> int:
    """Return how many of the names a table knows."""
    patterns = [_pattern(rename.source) for rename in renames]
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
