"""One page of a tracked video: a player with the masks on it, and all of its tracks.

The page is one file that asks nothing of any network: the video lies in it, and so do
the masks, as compressed run lengths, deflated. It is written piece by piece, so that
memory does not grow with the video.
"""

import base64
import html
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from stan_jax.errors import InputError
from stan_jax.files import replacing
from stan_jax.results.frame_lines import read_lines
from stan_jax.video import draw

TEMPLATE = Path(__file__).with_name("page.html")
PIECE = 3 << 18  # bytes at once; divides by 3, so that base64 has no gaps


def write(
    path: str | Path,
    *,
    title: str,
    video: str | Path,
    lines: str | Path,
    rate: Fraction,
    facts: Mapping[str, str],
    notes: Sequence[str] = (),
) -> None:
    """Write the page.

    Args:
      title: of the page.
      video: mp4 of constant rate with one picture for each line.
      lines: tracks.jsonl of the video.
      rate: frames a second of the mp4.
      facts: what was read, by name.
      notes: what a person should know of it.
    Raises: InputError if the page cannot be written or a line cannot be read.
    """
    path = Path(path)
    head = {"rate": float(rate), "facts": dict(facts), "notes": list(notes)}
    parts = {
        "TITLE": lambda: iter([html.escape(title)]),
        "HEAD": lambda: iter([_script_json(head)]),
        "VIDEO": lambda: _base64(_read(Path(video))),
        "TRACKS": lambda: _base64(_deflated(_rows(lines))),
    }
    template = TEMPLATE.read_text(encoding="utf-8")
    try:
        with replacing(path) as partial, open(partial, "w", encoding="utf-8") as out:
            begin, *pieces = template.split("{{")
            out.write(begin)
            for piece in pieces:
                name, rest = piece.split("}}", 1)
                out.writelines(parts[name]())
                out.write(rest)
    except OSError as error:
        rule = f"cannot be written: {error.strerror or error}"
        raise InputError(path, "", rule) from error


def _rows(lines: str | Path) -> Iterator[bytes]:
    """A short json line for each frame, then one for all the tracks."""
    tracks: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(read_lines(lines)):
        row = [line["seconds"], *line["size"]]
        for track in line["tracks"]:
            counts = track["segmentation"]["counts"]
            box = [round(x) for x in track["box"]]
            row.append([track["id"], round(track["score"], 2), *box, counts])
            entry = tracks.setdefault(
                track["id"], {"classes": {}, "scores": [0, 0], "spans": []}
            )
            entry["classes"].setdefault(track["class"], [0, track["class_id"]])[0] += 1
            entry["scores"][0] += 1
            entry["scores"][1] += track["score"]
            spans = entry["spans"]
            if spans and spans[-1][1] == number - 1:
                spans[-1][1] = number
            else:
                spans.append([number, number])
        yield json.dumps(row, separators=(",", ":")).encode() + b"\n"
    summary = []
    for number, entry in sorted(tracks.items()):
        name = max(entry["classes"], key=lambda k: entry["classes"][k][0])
        count, total = entry["scores"]
        summary.append(
            {
                "id": number,
                "class": name,
                "rgb": draw.colour(number),
                "score": round(total / count, 3),
                "frames": count,
                "spans": entry["spans"],
            }
        )
    yield json.dumps(summary, separators=(",", ":"), ensure_ascii=False).encode()


def _read(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            yield piece


def _deflated(pieces: Iterator[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(9)
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()


def _base64(pieces: Iterator[bytes]) -> Iterator[str]:
    kept = b""
    for piece in pieces:
        kept += piece
        whole = len(kept) // 3 * 3
        if whole >= 3 << 10:
            yield base64.b64encode(kept[:whole]).decode()
            kept = kept[whole:]
    yield base64.b64encode(kept).decode()


def _script_json(value: Any) -> str:
    """Json that cannot end the script that it stands in."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")
