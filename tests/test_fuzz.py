import copy

import fuzz
import pytest

NEED_IMAGES = {"cocovid", "auto"}  # of which there are none in it


@pytest.mark.parametrize("name", fuzz.commands(fuzz.Path()))
def test_sound_files_are_read_by_all(tmp_path, monkeypatch, name):
    ended = []
    monkeypatch.setattr(fuzz, "commands", lambda folder: {})
    fuzz.judge(fuzz.sound(), tmp_path)  # writes them
    monkeypatch.undo()
    try:
        fuzz.main.main([str(word) for word in fuzz.commands(tmp_path)[name]])
    except SystemExit as end:
        ended.append(end.code)
    assert bool(ended and ended[0]) == (name in NEED_IMAGES), ended


def test_broken_files_end_in_our_own_errors():
    fuzz.run(60)


def test_broken_exports_of_tools_end_in_our_own_errors():
    fuzz.run_sources(150)


def test_sound_exports_of_tools_are_read(tmp_path):
    for name, files in fuzz.exports(tmp_path).items():
        assert files, name
        place = tmp_path / files[0].relative_to(tmp_path).parts[0]
        assert fuzz.judge_source(name, place, tmp_path / "o.json"), name


def test_what_no_command_may_raise_is_told(tmp_path, monkeypatch):
    def trip(line):
        return {}["no"]

    monkeypatch.setattr(fuzz, "run_command", trip)
    with pytest.raises(KeyError):
        fuzz.judge(copy.deepcopy(fuzz.sound()), tmp_path)
