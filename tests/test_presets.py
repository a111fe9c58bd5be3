import importlib

import pytest
import tiny_model

from stan_jax import inference, presets
from stan_jax.errors import InputError
from stan_jax.model.stan import Conventions
from stan_jax.training.losses import Sampling

YTVIS = importlib.import_module("configs.ytvis19_r50")


@pytest.mark.parametrize("name", presets.PRESETS)
def test_preset_sets_all_that_belongs_to_it_in_a_config(name):
    c = YTVIS.get_config(name)
    preset = presets.PRESETS[name]
    parts = (
        ("model", c.model),
        ("sampling", c.loss.sampling),
        ("tracking", c.tracking),
    )
    for part, section in parts:
        for key, value in preset[part].items():
            assert section.to_dict()[key] == value, (part, key)
    # Each says all there is: nothing is left to the default of another family.
    assert set(preset["model"]["conventions"]) == set(Conventions._fields)
    assert set(preset["sampling"]) | {"rpn_class", "anchors", "positive_anchors"} | {
        "rois",
        "positive_rois",
    } == set(Sampling._fields)
    assert presets.name_of(c.model.conventions.to_dict()) == name


def test_presets_have_the_same_keys():
    first, *others = presets.PRESETS.values()
    for part in first:
        assert all(set(preset[part]) == set(first[part]) for preset in others)


def test_default_conventions_are_of_no_preset():
    assert presets.name_of(None) == presets.name_of({}) == "none"
    assert presets.name_of(dict(aligned=False)) == "no known preset"


def test_difference_names_each_setting_with_both_values():
    assert presets.difference(None, {}) == []
    assert presets.difference(dict(sampling=0), dict(embed_relu=True)) == [
        "conventions.sampling was 0, is 2",
        "conventions.embed_relu was False, is True",
    ]


def test_unknown_preset_names_the_known():
    with pytest.raises(InputError, match="must be one of original, .* is 'mmdet'"):
        presets.apply(YTVIS.get_config(), "mmdet")
    with pytest.raises(ValueError, match="'scratch' or one of original"):
        YTVIS.get_config("mmdet")


@pytest.mark.parametrize("name", presets.PRESETS)
def test_tracker_takes_what_a_preset_says(name):
    preset = presets.PRESETS[name]
    conventions = preset["model"]["conventions"]
    model = tiny_model.build(conventions=conventions)
    options = {k: v for k, v in preset["tracking"].items() if k != "slots"}
    tracker = inference.Tracker(model, **tiny_model.TRACKING, **options)
    assert tracker.programs == 1
