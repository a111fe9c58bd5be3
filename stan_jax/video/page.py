"""Scores and errors as one html page that needs nothing beside it."""

import base64
import html
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from stan_jax.data import segmentations
from stan_jax.errors import InputError
from stan_jax.evaluation import youtube_vis_ap
from stan_jax.evaluation.breakdown import KINDS, Breakdown, Error
from stan_jax.evaluation.run_lengths import Masks
from stan_jax.evaluation.score import Scores

WORST = 4  # tracks of each kind that are shown
PICTURES = 3  # frames of each
WIDTH = 320  # pixels of a picture
TRUE, FOUND = (40, 170, 80), (220, 60, 40)  # green, red

STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --soft: #667; --line: #dde; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); margin: 2rem auto;
  max-width: 64rem; padding: 0 1rem; background: #fff; }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
p.soft, td.soft { color: var(--soft) }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1rem 0 }
.tile { border: 1px solid var(--line); border-radius: .5rem; padding: .5rem 1rem }
.tile b { display: block; font-size: 1.4rem; font-variant-numeric: tabular-nums }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .25rem .6rem;
  border-bottom: 1px solid var(--line) }
th:first-child, td:first-child { text-align: left } th { font-weight: 600 }
.bar { background: #d9542b; height: .7rem; border-radius: .2rem; min-width: 1px }
td.wide { width: 30%; } td.text, th.text { text-align: left }
figure { margin: .75rem 0 } figcaption { color: var(--soft); font-size: .85rem }
figure img { max-width: 32%; border-radius: .25rem }
"""


def page(
    scores: Scores,
    lost: Breakdown,
    title: str,
    pictures: Mapping[Error, Sequence[bytes]] | None = None,
) -> str:
    """The whole page; `pictures` are JPEGs of some of the errors."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>",
        f"<h1>{html.escape(title)}</h1>",
        "<p class='soft'>YouTube-VIS numbers as the official evaluator gives them; "
        "tracking metrics with every category taken for one.</p>",
        _tiles(scores.official, ("AP", "AP50", "AP75", "AR1", "AR10")),
        _tiles(
            scores.tracking, ("HOTA", "DetA", "AssA", "IDF1", "MOTA", "IDSW", "Frag")
        ),
        "<h2>Where the AP goes</h2><p class='soft'>What AP would gain if every error "
        "of one kind were mended, the others left.</p>",
        _gains(lost),
        "<h2>By category</h2>",
        _categories(scores, lost),
        "<h2>The worst tracks</h2>",
    ]
    if pictures:
        parts.append(
            "<p class='soft'><span style='color: rgb(40,170,80)'>green</span>: the "
            "object as annotated, <span style='color: rgb(220,60,40)'>red</span>: as "
            "found.</p>"
        )
    for kind, meaning in KINDS.items():
        errors = [error for error in lost.errors if error.kind == kind]
        if errors:
            parts.append(f"<h2>{kind}: {meaning} ({len(errors)})</h2>")
            parts += [
                _error(error, scores.names, (pictures or {}).get(error, ()))
                for error in errors[:WORST]
            ]
    return "\n".join(parts) + "\n</html>\n"


def _tiles(values: Mapping[str, Any], names: Sequence[str]) -> str:
    tiles = (
        f"<div class='tile'>{name}<b>{_figure(values[name])}</b></div>"
        for name in names
    )
    return f"<div class='tiles'>{''.join(tiles)}</div>"


def _figure(value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    return "–" if value == -1 else f"{value:.3f}"


def _gains(lost: Breakdown) -> str:
    most = max([*lost.gains.values(), 1e-9])
    rows = "".join(
        f"<tr><td>{kind}</td><td class='text soft'>{meaning}</td>"
        f"<td>{sum(e.kind == kind for e in lost.errors)}</td>"
        f"<td>{lost.gains[kind]:+.3f}</td><td class='wide'><div class='bar' "
        f"style='width: {max(0, 100 * lost.gains[kind] / most):.1f}%'></div></td></tr>"
        for kind, meaning in KINDS.items()
    )
    head = "<tr><th>kind<th class='text'><th>tracks<th>AP<th></tr>"
    return f"<table>{head}{rows}</table>"


def _categories(scores: Scores, lost: Breakdown) -> str:
    head = "".join(
        f"<th>{x}" for x in ("category", "AP", "AP50", "tracks", "found", *KINDS)
    )
    ids = {name: i for i, name in scores.names.items()}
    rows = []
    for row in scores.categories:
        gains = lost.by_category.get(ids.get(row.name), {})
        figures = [row.ap, row.ap50, row.tracks, row.found]
        cells = [_figure(x) for x in figures]
        cells += [f"{gains[kind]:+.3f}" if kind in gains else "–" for kind in KINDS]
        rows.append(
            f"<tr><td>{html.escape(row.name)}"
            + "".join(f"<td>{cell}" for cell in cells)
            + "</tr>"
        )
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _error(error: Error, names: Mapping, pictures: Sequence[bytes]) -> str:
    name = html.escape(str(names.get(error.category_id, error.category_id)))
    first, last = error.frames
    text = f"video {html.escape(str(error.video_id))}, frames {first}–{last}, {name}"
    if error.row >= 0:
        text += f", results[{error.row}], score {error.score:.2f}"
    if error.true_id is not None:
        text += f", annotation {error.true_id}, overlap {error.overlap:.2f}"
    images = "".join(
        f"<img alt='' src='data:image/jpeg;base64,{base64.b64encode(x).decode()}'> "
        for x in pictures
    )
    return f"<figure>{images}<figcaption>{text}</figcaption></figure>"


def pictures(
    lost: Breakdown,
    instances_path: str | Path,
    results_path: str | Path,
    frames: str | Path,
) -> dict[Error, list[bytes]]:
    """JPEGs of the worst tracks of each kind, object and found track drawn in.

    Raises: InputError for a frame that cannot be read or has another size.
    """
    chosen = [
        error
        for kind in KINDS
        for error in [e for e in lost.errors if e.kind == kind][:WORST]
    ]
    by_video = defaultdict(list)
    for error in chosen:
        by_video[error.video_id].append(error)
    truth, found = youtube_vis_ap.read_both(instances_path, results_path)
    drawn = {}
    for video_id, errors in by_video.items():
        true = {track.id: track.masks for track in truth.tracks.get(video_id, [])}
        seen = {track.row: track.masks for track in found.get(video_id, [])}
        names = truth.videos[video_id].get("file_names", [])
        for error in errors:
            first, last = error.frames
            times = np.unique(np.linspace(first, last, PICTURES).round().astype(int))
            drawn[error] = [
                _picture(
                    Path(frames) / names[t],
                    _bitmap(true.get(error.true_id), t),
                    _bitmap(seen.get(error.row), t),
                )
                for t in times.tolist()
                if 0 <= t < len(names)
            ]
    return drawn


def _bitmap(masks: Masks | None, t: int) -> np.ndarray | None:
    if masks is None or t >= len(masks.texts) or masks.texts[t] is None:
        return None
    size = masks.sizes[t].tolist()
    return segmentations.decode({"size": size, "counts": masks.texts[t]})


def _picture(path: Path, true: np.ndarray | None, found: np.ndarray | None) -> bytes:
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(path, "", f"must be a whole image: {error}") from None
    for mask, colour in ((true, TRUE), (found, FOUND)):
        if mask is not None:
            if mask.shape != pixels.shape[:2]:
                rule = f"must be {mask.shape} (height, width) as its masks"
                raise InputError(path, "", f"{rule}, is {pixels.shape[:2]}")
            pixels = _tinted(pixels, mask, colour)
    image = Image.fromarray(pixels)
    image.thumbnail((WIDTH, 4 * WIDTH))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=75)
    return stream.getvalue()


def _tinted(
    pixels: UInt8[np.ndarray, "h w 3"], mask: np.ndarray, colour: tuple[int, int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    out = pixels.astype(np.float32)
    out[mask] = 0.55 * out[mask] + 0.45 * np.array(colour)
    return out.astype(np.uint8)
