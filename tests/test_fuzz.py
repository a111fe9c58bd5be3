import copy

import fuzz
import pytest

NEED_IMAGES = {"cocovid"}  # of which there are none in it


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


def test_what_no_command_may_raise_is_told(tmp_path, monkeypatch):
    def trip(line):
        return {}["no"]

    monkeypatch.setattr(fuzz, "run_command", trip)
    with pytest.raises(KeyError):
        fuzz.judge(copy.deepcopy(fuzz.sound()), tmp_path)
