"""The record of a trained model: written whole, compared in full, read later."""

import json

import pytest

from stan_jax.configs import davis_mnv2_sta, shapes_sta
from stan_jax.errors import InputError
from stan_jax.model.build import architecture
from stan_jax.model.stan import Thresholds
from stan_jax.pretrained import record


def _config(**model):
    config = shapes_sta.get_config().to_dict()
    config["model"] |= model
    return config


def _record(names=("cat", "dog"), **model):
    return record.from_config(_config(**model), names, "start.pth")


def test_record_survives_json():
    want = _record()._replace(step=7)
    text = json.dumps(record.to_json(want))
    assert record.from_json("x", json.loads(text)) == want


def test_default_written_or_not_is_the_same_model():
    config = _config()
    spelled = dict(config["model"])
    spelled["sta"] = architecture(spelled)["sta"]
    spelled["conventions"] = architecture(spelled)["conventions"]
    spelled["background_columns"] = False
    spelled["backbone_args"] = spelled["backbone_args"] | dict(groups=1, caffe=False)
    bare = dict(config["model"])
    bare["sta"] = {k: bare["sta"][k] for k in ("key_channels", "strides")}
    bare["conventions"] = None
    bare.pop("background_columns", None)
    records = [_record(**model) for model in (spelled, config["model"])]
    other = record.from_config(config | {"model": bare}, ("cat", "dog"), "start.pth")
    assert spelled != bare
    for ours in (*records, other):
        record.require_same("x", records[0], ours)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2"])
def test_what_is_frozen_may_change(backbone):
    """Of MobileNetV2 it was compared, so that a run could not be thawed."""
    name = {"resnet18": "frozen_stages", "mobilenet_v2": "frozen_blocks"}[backbone]
    free, frozen = (
        _record(backbone=backbone, backbone_args={name: number}) for number in (-1, 3)
    )
    assert free == frozen


def test_tracking_may_change_and_the_model_may_not():
    theirs = _record()._replace(step=40)
    settings = theirs.settings._replace(slots=99, dtype="bfloat16")
    record.require_same("x", theirs, theirs._replace(settings=settings))
    rule = "step 40: model.channels was 32, is 24: name another --workdir"
    with pytest.raises(InputError, match=rule):
        record.require_same("x", theirs, _record(channels=24))
    sta = dict(key_channels=8, strides=(16,), scale=0.5)
    with pytest.raises(InputError, match="model.sta.scale was 1.0, is 0.5.*more: name"):
        record.require_same("x", theirs, _record(sta=sta, anchor_scale=1.0, channels=2))


def test_other_classes_are_told_first_with_the_cure():
    ours = _record(("cat", "dog", "cow"), channels=24)
    with pytest.raises(InputError) as caught:
        record.require_same("runs/a", _record(), ours)
    error = caught.value
    assert (error.file, error.record) == ("runs/a", "categories")
    assert error.rule == (
        "was trained on 2 (cat, dog), these annotations have 3 (cat, dog, cow): name"
        " annotations with its classes, or train in a new --workdir with"
        " --config.init_from=runs/a, which keeps what both name"
    )
    with pytest.raises(InputError, match=r"2 \(cat, dog\), in this order, these"):
        record.require_same("runs/a", _record(), _record(("dog", "cat")))


def test_record_of_a_later_version_or_without_a_part_is_refused():
    content = record.to_json(_record())
    with pytest.raises(InputError, match="x: record: is of format 2, .*update stan_j"):
        record.from_json("x", content | {"format": 2})
    del content["thresholds"]
    with pytest.raises(InputError, match="x: record: is damaged: 'thresholds'"):
        record.from_json("x", content)


def test_settings_of_a_config_are_those_of_the_record():
    config = davis_mnv2_sta.get_config().to_dict()
    made = record.from_config(config, ["object"])
    assert made.settings.canvas == tuple(config["data"]["canvas"])
    assert made.settings.thresholds == Thresholds(**config["thresholds"])
    assert made.settings.association.weights._asdict() == dict(
        config["tracking"]["association"]["weights"]
    )
    assert made.model["backbone"] == "mobilenet_v2"
