"""Files that nobody would write, given to every command that reads files.

    python tests/fuzz.py --examples=10000

Each example breaks a sound pair of annotations and results in a few random places, or
one file of a tool's export. Every command must end by itself, with one line about what
is wrong, and within seconds.
"""

import argparse
import contextlib
import copy
import io
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import hypothesis
import tool_exports
from hypothesis import strategies as st

from stan_jax import json_stream
from stan_jax.annotations import check
from stan_jax.annotations.formats import table
from stan_jax.commands import main

LIMIT = 20  # seconds that one command may take

MARK = "\xef\xbb\xbf"  # of UTF-8, as bytes

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


# What happens to the text of a file afterwards: where, and how.
DAMAGE = st.none() | st.tuples(
    st.sampled_from(["instances", "results"]),
    st.floats(0, 1),
    st.sampled_from(
        ["cut", *'{}[],:"0-\\x', "NaN", "1e999", "\0", "\xef\xbb\xbf", "\xe9"]
    ),
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
                inner[path[-1]] = copy.deepcopy(value)
        except (KeyError, IndexError, TypeError):
            continue
    return root


def commands(folder: Path) -> dict[str, list]:
    """Every command that reads such files, by name."""
    instances, results = folder / "instances.json", folder / "results.json"
    return {
        "score": ["score", instances, results, "--json", folder / "scores.json"],
        "class agnostic": ["score", instances, results, "--class-agnostic"],
        "report": ["score", instances, results, "--report", folder / "page.html"],
        "check": ["check", instances, "--json", folder / "check.json"],
        "submit": ["submit", results, "--out", folder / "a.zip"],
        "submit to": [
            *("submit", results, "--out", folder / "b.zip"),
            *("--annotations", instances),
        ],
        "split": ["split", instances, folder / "split"],
        "cocovid": ["convert", "cocovid", instances, folder / "converted.json"],
        "auto": ["convert", "auto", instances, folder / "converted.json"],
        "merge": ["merge", instances, folder / "merged.json"],
        **{
            target: ["convert", target, instances, folder / "back" / target]
            for target in table.TARGETS
        },
        "results back": [
            *("convert", "to-cvat", instances, folder / "back" / "results"),
            f"--results={results}",
        ],
    }


def repeatable(examples: int, database=None) -> hypothesis.settings:
    """So many examples, the same ones each time."""
    return hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=database,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


def run_command(line: list) -> None:
    """As from the shell; ends where the command says what is wrong, or is done."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main.main([str(word) for word in line])


def judge(root, folder: Path, damage=None) -> None:
    """Raise what no command may raise, and where one takes too long."""
    for name in ("instances", "results"):
        text = json.dumps(root.get(name))
        if damage is not None and damage[0] == name:
            place = round(damage[1] * len(text))
            rest = "" if damage[2] == "cut" else damage[2] + text[place:]
            text = text[:place] + rest
        (folder / f"{name}.json").write_text(text, encoding="latin-1")
    shutil.rmtree(folder / "back", ignore_errors=True)
    (folder / "back").mkdir()
    for name, line in commands(folder).items():
        start = time.monotonic()
        run_command(line)
        assert time.monotonic() - start < LIMIT, name


# How a file of a tool is damaged: where, and by what; json also entry by entry.
PIECES = [
    b"",
    b"0",
    b"-1",
    b"9" * 12,
    b"\0",
    b"\xff\xfe",
    b"<",
    b"&x;",
    b"]",
    b" ",
    b"1.5",
]
SPLICE = st.tuples(st.floats(0, 1), st.integers(0, 40), st.sampled_from(PIECES))
ENTRY = st.tuples(st.floats(0, 1), st.sampled_from(["set", "drop", "double"]), ODD)


def damaged(data: bytes, splices, entries) -> bytes:
    """The bytes of a file after some edits."""
    if entries:
        root = [json.loads(data)]
        for place, how, value in entries:
            paths = [path for path in places(root) if path]
            *path, last = paths[int(place * (len(paths) - 1))]
            inner = root
            for key in path:
                inner = inner[key]
            if how == "drop" and path:
                del inner[last]
            elif how == "double" and isinstance(inner, list):
                inner.append(copy.deepcopy(inner[last]))
            else:
                inner[last] = copy.deepcopy(value)
        data = json.dumps(root[0]).encode()
    for place, length, piece in splices:
        at = int(place * len(data))
        data = data[:at] + piece + data[at + length :]
    return data


def exports(folder: Path) -> dict[str, list[Path]]:
    """Write an export of every tool; the files of each that hold what it says."""
    found = {}
    for name, make in tool_exports.SOURCES.items():
        place = folder / f"{len(found)}"
        place.mkdir()
        with contextlib.chdir(place):
            make()
        pictures = "JPEGImages", "images", "xml"
        found[name] = [
            path
            for path in sorted(place.rglob("*"))
            if path.is_file()
            and path.suffix != ".jpg"
            and not set(pictures) & set(path.relative_to(place).parts)
        ]
    return found


def judge_source(name: str, place: Path, out: Path) -> bool:
    """Raise what no command may raise, and for a file that check refuses.

    Returns: whether the source was read.
    """
    kind, source = name.split()
    line = [kind, place / source, out]
    line += [f"--palette={place / 'colours.txt'}"] * (kind == "colours")
    clips = [f"--images={place / 'train'}", f"--frames={out.parent / 'clips'}"]
    line += [*clips, "--length=2"] * (kind == "coco")
    read = []
    for words in (line, ["auto", *line[1:3]]):
        out.unlink(missing_ok=True)
        start = time.monotonic()
        run_command(["convert", *words])
        assert time.monotonic() - start < LIMIT, name
        read.append(out.exists())
        assert not read[-1] or not check.check(out).errors, name
    return read[0]


def run_sources(examples: int, *, database=None) -> None:
    """So many damaged exports of tools, the same ones each time."""
    with tempfile.TemporaryDirectory() as root:
        every = exports(Path(root))

        @repeatable(examples, database)
        @hypothesis.given(
            st.sampled_from(
                [(n, file) for n, files in every.items() for file in files]
            ),
            st.lists(SPLICE, max_size=3),
            st.lists(ENTRY, max_size=3),
        )
        def every_source_says_what_is_wrong(which, splices, entries):
            name, file = which
            sound = file.read_bytes()
            place = Path(root) / file.relative_to(root).parts[0]
            try:
                entries = entries if file.suffix == ".json" else []
                file.write_bytes(damaged(sound, splices, entries))
                judge_source(name, place, Path(root) / "o.json")
            finally:
                file.write_bytes(sound)

        every_source_says_what_is_wrong()


def run(examples: int, *, database=None) -> None:
    """So many examples, the same ones each time."""

    @repeatable(examples, database)
    @hypothesis.given(EDITS, DAMAGE, st.sampled_from([7, 300, 2**21]))
    def every_command_says_what_is_wrong(edits, damage, piece):
        with mock.patch.object(json_stream, "PIECE", piece):
            judge(broken(edits), folder, damage)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        every_command_says_what_is_wrong()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=10_000)
    arguments = parser.parse_args()
    begun = time.monotonic()
    run(arguments.examples)
    run_sources(arguments.examples)
    print(f"{arguments.examples} examples, {time.monotonic() - begun:.0f} s: all named")
    sys.exit(0)
