import importlib

import pytest
import tiny_model

from stan_jax import presets
from stan_jax.errors import InputError
from stan_jax.model.stan import Conventions

YTVIS = importlib.import_module("stan_jax.configs.ytvis19_r50")


@pytest.mark.parametrize("name", presets.PRESETS)
def test_preset_sets_all_that_belongs_to_it_in_a_config(name):
    c = YTVIS.get_config(name)
    preset = presets.get(name)
    parts = {
        "conventions": c.model.conventions,
        "thresholds": c.thresholds,
        "sampling": c.loss.sampling,
        "kinds": c.loss.kinds,
        "association": c.tracking.association,
    }
    for part, section in parts.items():
        record = getattr(preset, part)
        # Each says all there is: nothing is left to the default of another family.
        assert set(section) == set(record._fields), part
        for key, value in record._asdict().items():
            value = value._asdict() if isinstance(value, tuple) else value
            assert section.to_dict()[key] == value, (part, key)
    assert c.model.background_columns == preset.background_columns
    assert c.tracking.slots == preset.slots
    assert c.tracking.legacy_paste == preset.legacy_paste
    assert presets.name_of(Conventions(**c.model.conventions)) == name


def test_default_conventions_are_of_no_preset():
    assert presets.name_of(Conventions()) == "none"
    assert presets.name_of(Conventions(aligned=False)) == "no known preset"


def test_difference_names_each_setting_with_both_values():
    assert presets.difference(Conventions(), Conventions()) == []
    theirs, ours = Conventions(sampling=0), Conventions(embed_relu=True)
    assert presets.difference(theirs, ours) == [
        "conventions.sampling was 0, is 2",
        "conventions.embed_relu was False, is True",
    ]


def test_unknown_preset_names_the_known():
    with pytest.raises(InputError, match="must be one of original, .* is 'mmdet'"):
        presets.get("mmdet")
    with pytest.raises(ValueError, match="'scratch' or one of original"):
        YTVIS.get_config("mmdet")


@pytest.mark.parametrize("name", presets.PRESETS)
def test_tracker_takes_what_a_preset_says(name):
    preset = presets.get(name)
    model = tiny_model.build(conventions=preset.conventions._asdict())
    settings = tiny_model.TRACKING._replace(
        association=preset.association, legacy_paste=preset.legacy_paste
    )
    assert tiny_model.tracker(model, settings).program.traces == 1
