"""Scores and errors as one html page that needs nothing beside it."""

import base64
import html
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stan_jax.errors import InputError
from stan_jax.evaluation.score import Scores, which
from stan_jax.masks import codec
from stan_jax.masks.run_lengths import Masks
from stan_jax.metrics.error_kinds import KINDS, Breakdown, Error, describe
from stan_jax.results import readers
from stan_jax.video import draw

TRACKING = ("HOTA", "DetA", "AssA", "IDF1", "MOTA", "IDSW", "Frag")
WORST = 4  # tracks of each kind that are shown
PICTURES = 3  # frames of each
WIDTH = 320  # pixels of a picture
TRUE, FOUND = (0, 158, 115), (230, 97, 0)  # told apart by all eyes

STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --soft: #667; --line: #dde; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); margin: 2rem auto;
  max-width: 64rem; padding: 0 1rem; background: #fff; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem }
h3 { font-size: 1rem; margin: 1.5rem 0 0 }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: .2em }
.scroll { overflow-x: auto }
p.soft, td.soft { color: var(--soft) }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1rem 0 }
.tile { border: 1px solid var(--line); border-radius: .5rem; padding: .5rem 1rem }
.tile b { display: block; font-size: 1.4rem; font-variant-numeric: tabular-nums }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .25rem .6rem;
  border-bottom: 1px solid var(--line) }
th:first-child, td:first-child { text-align: left } th { font-weight: 600 }
.bar { background: #d9542b; height: .7rem; border-radius: .2rem }
@media (max-width: 40rem) { td.text, th.text { display: none } }
td.wide { width: 30%; min-width: 5rem } td.text, th.text { text-align: left }
figure { margin: .75rem 0 } figcaption { color: var(--soft); font-size: .85rem }
figure img { max-width: 32%; border-radius: .25rem }
"""


def page(
    scores: Scores,
    title: str,
    pictures: Mapping[Error, Sequence[bytes]] | None = None,
) -> str:
    """The whole page, of scores with errors; `pictures` are JPEGs of some of them."""
    lost, pictures = scores.lost, pictures or {}
    assert lost is not None
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>",
        f"<h1>{html.escape(title)}</h1>",
        "<p class='soft'>YouTube-VIS numbers as the official evaluator gives them; "
        "tracking metrics with every category taken for one, "
        f"{which(scores.options)}.</p>",
        _tiles(scores.official, ("AP", "AP50", "AP75", "AR1", "AR10")),
        _tiles(scores.tracking, TRACKING) if scores.tracking else "",
        *(f"<p>Warning: {html.escape(text)}</p>" for text in scores.warnings),
        "<h2>Where the AP goes</h2><p class='soft'>What AP would gain if every error "
        "of one kind were corrected, the others left.</p>",
        _gains(lost),
        "<h2>By category</h2>",
        _categories(scores, lost),
    ]
    if any(pictures.values()):
        parts.append(
            f"<h2>The worst tracks</h2><p class='soft'>{_swatch(TRUE)} the object as "
            f"annotated, {_swatch(FOUND)} as found; three frames of each.</p>"
        )
    for kind, meaning in KINDS.items():
        errors = [error for error in lost.errors if error.kind == kind]
        if errors:
            shown = f", the first {WORST}" if len(errors) > WORST else ""
            parts.append(f"<h3>{kind}: {meaning} ({len(errors)}{shown})</h3>")
            parts += [
                _error(error, scores.names, pictures.get(error, ()))
                for error in errors[:WORST]
            ]
    return "\n".join(parts) + "\n</html>\n"


def _swatch(rgb: tuple[int, int, int]) -> str:
    return f"<span class='swatch' style='background: rgb{rgb}'></span>"


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
    return f"<div class='scroll'><table>{head}{rows}</table></div>"


def _categories(scores: Scores, lost: Breakdown) -> str:
    head = "".join(
        f"<th>{x}" for x in ("category", "AP", "AP50", "tracks", "found", *KINDS)
    )
    rows = []
    shown = [row for row in scores.categories if row.tracks or row.found]
    for row in shown:
        gains = lost.by_category.get(row.id, {})
        figures = [row.ap, row.ap50, row.tracks, row.found]
        cells = [_figure(x) for x in figures]
        cells += [f"{gains[kind]:+.3f}" if kind in gains else "–" for kind in KINDS]
        rows.append(
            f"<tr><td>{html.escape(row.name)}"
            + "".join(f"<td>{cell}" for cell in cells)
            + "</tr>"
        )
    table = f"<table><tr>{head}</tr>{''.join(rows)}</table>"
    if rest := len(scores.categories) - len(shown):
        table += f"<p class='soft'>{rest} categories have no tracks on either side.</p>"
    return f"<div class='scroll'>{table}</div>"


def _error(error: Error, names: dict, pictures: Sequence[bytes]) -> str:
    first, last = error.frames
    frames = f"frames {first}–{last}" if first >= 0 else "no frame"
    text = f"video {error.video_id}, {frames}: {describe(error, names)}"
    images = "".join(
        f"<img alt='' src='data:image/jpeg;base64,{base64.b64encode(x).decode()}'> "
        for x in pictures
    )
    return f"<figure>{images}<figcaption>{html.escape(text)}</figcaption></figure>"


def pictures(
    scores: Scores,
    instances_path: str | Path,
    results_path: str | Path,
    frames: str | Path,
) -> dict[Error, list[bytes]]:
    """JPEGs of the worst tracks of each kind, object and found track drawn in.

    Raises: InputError for a frame that cannot be read or has another size.
    """
    assert scores.lost is not None
    by_video = defaultdict(list)
    for kind in KINDS:
        for error in [e for e in scores.lost.errors if e.kind == kind][:WORST]:
            by_video[error.video_id].append(error)
    truth = readers.true_tracks(instances_path)
    found = readers.predicted_in(results_path, by_video, truth.videos)
    drawn = {}
    for video_id, errors in by_video.items():
        true = {track.id: track.masks for track in truth.tracks.get(video_id, [])}
        seen = {track.row: track.masks for track in found.get(video_id, [])}
        names = truth.videos[video_id].get("file_names", [])
        for error in errors:
            sides = true.get(error.true_id), seen.get(error.row)
            drawn[error] = [
                _picture(Path(frames) / names[t], *(_bitmap(side, t) for side in sides))
                for t in _times(error, len(names))
            ]
    return drawn


def _times(error: Error, length: int) -> list[int]:
    first, last = error.frames
    times = np.unique(np.linspace(first, last, PICTURES).round().astype(int))
    return [t for t in times.tolist() if 0 <= t < length]


def _bitmap(masks: Masks | None, t: int) -> np.ndarray | None:
    rle = None if masks is None else masks.rle(t)
    return None if rle is None else codec.decode(rle)


def _picture(path: Path, true: np.ndarray | None, found: np.ndarray | None) -> bytes:
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise InputError(path, "", "file must exist") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(path, "", f"must be a whole image: {error}") from None
    zoom = WIDTH / pixels.shape[1]
    size = WIDTH, max(1, round(zoom * pixels.shape[0]))
    small = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
    for mask, colour in ((true, TRUE), (found, FOUND)):
        if mask is not None:
            if mask.shape != pixels.shape[:2]:
                rule = f"must be {mask.shape} (height, width) as its masks"
                raise InputError(path, "", f"{rule}, is {pixels.shape[:2]}")
            # Drawn on the small picture: so the outlines stay sharp.
            grey = Image.fromarray(mask.view(np.uint8) * np.uint8(255))
            grey = grey.resize(size, Image.Resampling.BILINEAR)
            draw.paint(small, np.asarray(grey) > 127, colour, line=1)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    return stream.getvalue()
