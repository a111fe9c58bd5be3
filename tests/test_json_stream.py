import gzip
import json
import math
import zipfile

import orjson
import pytest

from stan_jax import json_stream
from stan_jax.errors import InputError

TRICKY = {
    "plain": [{"id": i, "name": "x" * i} for i in range(40)],
    "the key in a text": [{"id": i, "t": '}, {"id": 7}, {"id"'} for i in range(9)],
    "a text that ends with a brace": [{"id": i, "t": "}, {"} for i in range(9)],
    "the key deeper": [{"id": i, "of": [{"id": 1}, {"id": 2}]} for i in range(9)],
    "rows that begin otherwise": [{"id": 1}, {"b": 2}, {"id": 3}, {}, {"id": 4}],
    "numbers beyond 64 bits": [{"id": 10**30 + i} for i in range(9)],
    "not finite": [{"id": i, "score": s} for i, s in enumerate([0.5, math.inf, 1.5])],
    "no ascii": [{"id": i, "name": "\N{SNOWMAN}\U0001f989\xe9"} for i in range(9)],
    "an empty key": [{"": i} for i in range(9)],
    "an escaped key": [{'"\\': i} for i in range(9)],
    "exact floats": [{"id": 0.1 + i / 3} for i in range(9)],
}


@pytest.mark.parametrize("piece", [1, 30, 1 << 20])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("name", TRICKY)
def test_rows_are_those_of_the_standard_reader(
    tmp_path, monkeypatch, name, indent, piece
):
    monkeypatch.setattr(json_stream, "PIECE", piece)
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(TRICKY[name], indent=indent))
    assert list(json_stream.rows(path)) == TRICKY[name]


@pytest.mark.parametrize("piece", [1, 50, 1 << 20])
def test_members_are_those_of_the_standard_reader(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(json_stream, "PIECE", piece)
    root = {"info": {"a": [1]}, **TRICKY, "none": [], "last": 3, "\xfc": None}
    path = tmp_path / "root.json"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + json.dumps(root).encode()))
    read: dict = {}
    for key, i, value in json_stream.members(path):
        if i is None:
            read[key] = value
        elif i == json_stream.START:
            read[key] = []
        else:
            assert i == len(read[key])
            read[key].append(value)
    assert read == root


def test_rows_are_read_in_bulk_but_for_the_last_of_a_file(tmp_path, monkeypatch):
    one_by_one = []
    value = json_stream._Text.value
    monkeypatch.setattr(
        json_stream._Text, "value", lambda text: one_by_one.append(0) or value(text)
    )
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"id": i} for i in range(500)]))
    monkeypatch.setattr(json_stream, "PIECE", 1000)
    assert len(list(json_stream.rows(path))) == 500
    assert len(one_by_one) < 5


def test_the_rest_of_a_file_is_not_read_for_the_end_of_a_list(tmp_path, monkeypatch):
    # Objects of the second list begin otherwise: the window must not grow over them.
    path = tmp_path / "root.json"
    second = [{"b": "x" * 90} for _ in range(2000)]
    path.write_text(json.dumps({"first": [{"a": 1}, {"a": 2}], "second": second}))
    monkeypatch.setattr(json_stream, "PIECE", 500)
    longest = 0
    loads = orjson.loads

    def watched(text):
        nonlocal longest
        longest = max(longest, len(text))
        return loads(text)

    monkeypatch.setattr(json_stream.orjson, "loads", watched)
    assert sum(1 for _ in json_stream.members(path)) == 2004
    assert longest < 3000


@pytest.mark.parametrize("piece", [1, 1 << 20])
@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ('[{"a": 1} {"a": 2}, {"a": 3}]', "',' must stand here, not '{'"),
        ('[{"a": 1},, {"a": 2}, {"a": 3}]', r"results\[1\]: is not valid json"),
        ('[{"a": 1}, {"a": }, {"a": 3}]', r"results\[1\]: is not valid json"),
        ('[{"a": 1}, {"a": 2}', "',' must stand here, not the end"),
        ('[{"a": 1}, {"a": 2},', r"results\[2\]: is not valid json"),
        ('[{"a": 1}, 7, {"a": 2}, {"a": 3}]', r"results\[1\]: must be an object"),
        ('[{"a": 1}, {"a": 2}]]', "must end where its list ends"),
        ("[[1], [2]]", r"results\[0\]: must be an object"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path, monkeypatch, text, rule, piece):
    monkeypatch.setattr(json_stream, "PIECE", piece)
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(InputError, match=rule):
        list(json_stream.rows(path))


def test_a_zip_of_one_json_is_read_and_any_other_named(tmp_path):
    path = tmp_path / "results.zip"

    def write(**files):
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in files.items():
                archive.writestr(
                    name.replace("__", "/").replace("_json", ".json"), text
                )

    write(results_json="[{}, {}]", notes="hello")
    assert list(json_stream.rows(path)) == [{}, {}]
    write(a_json="[]", b_json="[]")
    with pytest.raises(InputError, match="must hold one json, holds a.json, b.json"):
        list(json_stream.rows(path))
    write(results_json='[{"x": "0123456789"}]')
    path.write_bytes(path.read_bytes().replace(b"0123456789", b"0123456780"))
    with pytest.raises(InputError, match="cannot be read: Bad CRC-32"):
        list(json_stream.rows(path))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match="is a zip that cannot be read"):
        list(json_stream.rows(path))
