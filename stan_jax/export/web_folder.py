"""Write a tracker as a folder that any static server serves: it tracks in a browser.

What computes there is onnxruntime-web, a package of npm under the MIT licence. Its
files are fetched once by npm and kept; the page itself asks nobody for anything.
"""

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from stan_jax.errors import InputError
from stan_jax.export import onnx_file
from stan_jax.export.flat import FlatTracker
from stan_jax.files import replacing
from stan_jax.video import draw

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
RUNTIME = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
)
OURS = Path(__file__).with_name("web")
COLOURS = 252  # of tracks, before they begin anew: a multiple of six lightnesses
LICENCE = f"""{PACKAGE} {VERSION}: {", ".join(RUNTIME)}
Copyright (c) Microsoft Corporation. Licensed under the MIT License:

Permission is hereby granted, free of charge, to any person obtaining a copy of this
software and associated documentation files (the "Software"), to deal in the Software
without restriction, including without limitation the rights to use, copy, modify,
merge, publish, distribute, sublicense, and/or sell copies of the Software, and to
permit persons to whom the Software is furnished to do so, subject to the following
conditions:

The above copyright notice and this permission notice shall be included in all copies
or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED,
INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A
PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT
HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF
CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE
OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def write(
    tracker: FlatTracker,
    folder: str | Path,
    package: str | Path | None = None,
    **options: Any,
) -> None:
    """Write page, tracker and runtime into a folder.

    Args:
      package: folder of onnxruntime-web; default: kept from before, or by npm.
      options: of `onnx_file.write`.
    Raises: InputError for a tracker of clips, and where there is neither.
    """
    if tracker.length is not None:
        raise InputError("--clip", "", "is not for the page, which takes single frames")
    folder = Path(folder)
    runtime = _runtime(package)
    folder.mkdir(exist_ok=True)
    onnx_file.write(tracker, folder / "tracker.onnx", **options)
    size = (folder / "tracker.onnx").stat().st_size
    for path in [*sorted(OURS.iterdir()), *(runtime / name for name in RUNTIME)]:
        with replacing(folder / path.name) as temporary:
            shutil.copyfile(path, temporary)
    texts = {
        "about.json": json.dumps(_about(tracker, size)),
        "LICENSE-onnxruntime.txt": LICENCE,
    }
    for name, text in texts.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _about(tracker: FlatTracker, size: int) -> dict:
    """What the page must know of the tracker."""
    how = tracker.record.settings
    return {
        "canvas": tracker.canvas_hw,
        "scale_hw": how.scale_hw,
        "classes": tracker.record.categories,
        "score": how.thresholds.score_threshold,
        "legacy_paste": how.legacy_paste,
        "memory": {
            name: {"shape": x.shape, "type": x.dtype.name}
            for name, x in tracker.inputs.items()
            if name.startswith("memory_")
        },
        "colours": [draw.colour(n) for n in range(COLOURS)],
        "bytes": size,
        "runtime": VERSION,
        **{
            name: json.loads(text)
            for name, text in tracker.metadata().items()
            if name.startswith("clock_")
        },
        "stan_jax": tracker.metadata()["stan_jax"],
    }


def _runtime(package: str | Path | None) -> Path:
    """The folder that holds the files of the runtime."""
    if package is not None:
        places = [Path(package), Path(package) / "dist"]
        for place in places:
            if all((place / name).is_file() for name in RUNTIME):
                return place
        rule = f"must be a folder of {PACKAGE} with {', '.join(RUNTIME)}"
        raise InputError(package, "", rule)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = cache / "stan_jax" / f"{PACKAGE}-{VERSION}"
    if not all((place / name).is_file() for name in RUNTIME):
        _fetch(place)
    return place


def _fetch(place: Path) -> None:
    """Have npm fetch the package, which it checks, and keep what is used of it."""
    wanted = f"{PACKAGE}@{VERSION}"
    cure = f"npm pack {wanted} elsewhere, unpack it, and name it with --package"
    if (npm := shutil.which("npm")) is None:
        raise InputError(PACKAGE, "", "is not here, and npm is not installed", cure)
    with tempfile.TemporaryDirectory() as folder:
        line = [npm, "pack", "--silent", wanted]
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True)
        packed = list(Path(folder).glob("*.tgz"))
        if done.returncode or not packed:
            said = (done.stderr.strip().splitlines() or ["no word of why"])[-1]
            raise InputError(PACKAGE, "", f"npm cannot fetch it: {said:.200}", cure)
        place.mkdir(parents=True, exist_ok=True)
        with tarfile.open(packed[0]) as archive:
            for name in RUNTIME:
                content = archive.extractfile(f"package/dist/{name}")
                if content is None:
                    raise InputError(PACKAGE, "", f"holds no {name}", cure)
                with replacing(place / name) as temporary:
                    temporary.write_bytes(content.read())
