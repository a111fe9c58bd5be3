import copy

import fuzz
import pytest

from stan_jax.errors import InputError


def test_sound_files_are_read_by_all(tmp_path):
    fuzz.judge(fuzz.sound(), tmp_path)
    for name, reader in fuzz.readers(tmp_path).items():
        if name != "cocovid":  # there are no images in it
            if name == "stills":
                with pytest.raises(InputError):
                    reader()
            else:
                reader()


def test_broken_files_end_in_our_own_errors():
    fuzz.run(60)


def test_what_is_found_is_told(tmp_path, monkeypatch):
    def trip(folder):
        return {"bad": lambda: {}["no"]}

    monkeypatch.setattr(fuzz, "readers", trip)
    with pytest.raises(KeyError):
        fuzz.judge(copy.deepcopy(fuzz.sound()), tmp_path)
