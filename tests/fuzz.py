"""Files that nobody would write, given to every reader of files.

    python tests/fuzz.py --examples=10000

Each example breaks a sound pair of annotations and results in a few random places. Only
errors of our own may come out, and always within seconds.
"""

import argparse
import contextlib
import copy
import json
import sys
import tempfile
import time
from pathlib import Path

import hypothesis
from hypothesis import strategies as st

from stan_jax.data import check, convert, split, youtube_vis
from stan_jax.errors import InputError
from stan_jax.evaluation import (
    breakdown,
    score,
    submission,
    youtube_vis_ap,
)

LIMIT = 20  # seconds that one reader may take

HW = (6, 8)
MASK = {"size": [*HW], "counts": [7, 3, 3, 3, 32]}
TEXT = {"size": [*HW], "counts": "7330m0"}


def sound():
    """Annotations and results without a fault, in all the kinds of masks."""
    kinds = [MASK, TEXT, [[1, 1, 4, 1, 4, 5]]]
    return {
        "instances": {
            "videos": [
                {"id": v, "height": 6, "width": 8, "length": 3}
                | {"file_names": [f"{v}/{t}.jpg" for t in range(3)]}
                for v in (1, 2)
            ],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dög"}],
            "annotations": [
                {"id": i + 1, "video_id": 1 + i % 2, "category_id": 1 + i // 2}
                | {"iscrowd": 0, "areas": [6, 6, None], "bboxes": [[1, 1, 2, 3]] * 3}
                | {"segmentations": [kinds[i], kinds[i], None]}
                for i in range(3)
            ],
            "images": [],
        },
        "results": [
            {"video_id": v, "category_id": c, "score": 0.5 + 0.1 * c}
            | {"segmentations": [TEXT, None, TEXT]}
            for v in (1, 2)
            for c in (1, 2)
        ],
    }


def places(value, path=()):
    """Every path into a json value."""
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        yield from places(inner, (*path, key))


PLACES = [path for path in places(sound()) if path]
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 4),
    st.sampled_from([2**31, 2**53 + 1, 2**64, -(2**63), 10**30, 1e308, -0.0]),
    st.floats(),
    st.text(max_size=4),
    st.sampled_from(["1", "nan", "\0", "é", "00", "7330m0", "PP", "o" * 30, "0" * 90]),
    st.lists(st.integers(-2, 50), max_size=6),
    st.lists(st.floats(width=16), max_size=8),
    st.sampled_from(
        [[], {}, [[]], [{}], [None], {"size": [6, 8]}, [[1, 1, 4, 1, 4, 5]]]
    ),
    st.sampled_from([TEXT, MASK, {"size": [8, 6], "counts": TEXT["counts"]}]),
    st.sampled_from([{"size": [2**24, 2**24], "counts": "0" * 9}]),
    st.sampled_from([{"size": [6, 8], "counts": [0, 0, 7, 0, 41]}]),
)
EDITS = st.lists(
    st.tuples(st.sampled_from(PLACES), st.sampled_from(["set", "drop", "double"]), ODD),
    min_size=1,
    max_size=4,
)


def broken(edits):
    """The sound pair after some edits; those that no longer fit are passed over."""
    root = copy.deepcopy(sound())
    for path, how, value in edits:
        inner = root
        try:
            for key in path[:-1]:
                inner = inner[key]
            if how == "drop":
                del inner[path[-1]]
            elif how == "double" and isinstance(inner, list):
                inner.append(copy.deepcopy(inner[path[-1]]))
            else:
                inner[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue
    return root


def readers(folder: Path):
    """Everything that reads such files, by name."""
    files = folder / "instances.json", folder / "results.json"

    def loaded():
        dataset = youtube_vis.load(files[0], folder)
        split.parts(
            {v.id: {t.label for t in v.tracks} for v in dataset.videos}, [0.5, 0.5]
        )

    def converted(make):
        return lambda: make(youtube_vis.read_json(files[0]), files[0])

    return {
        "score": lambda: score.text(score.score_files(*files)),
        "class agnostic": lambda: youtube_vis_ap.evaluate_files(*files, True),
        "errors": lambda: breakdown.text(breakdown.evaluate_files(*files), {}),
        "check": lambda: check.text(check.check(files[0])),
        "submit": lambda: submission.check(files[1], files[0]),
        "load": loaded,
        "cocovid": converted(convert.from_cocovid),
        "stills": converted(convert.from_stills),
    }


def judge(root, folder: Path) -> None:
    """Raise what is none of our own errors, and where a reader takes too long."""
    for name in ("instances", "results"):
        text = json.dumps(root.get(name))
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    for name, reader in readers(folder).items():
        start = time.monotonic()
        with contextlib.suppress(InputError):
            reader()
        assert time.monotonic() - start < LIMIT, name


def run(examples: int, *, database=None) -> None:
    """So many examples, the same ones each time."""

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=database,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(EDITS)
    def every_reader_says_what_is_wrong(edits):
        judge(broken(edits), folder)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        every_reader_says_what_is_wrong()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=10_000)
    arguments = parser.parse_args()
    begun = time.monotonic()
    run(arguments.examples)
    print(f"{arguments.examples} examples, {time.monotonic() - begun:.0f} s: all named")
    sys.exit(0)
