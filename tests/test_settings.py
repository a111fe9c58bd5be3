"""What train.py refuses before it trains, and how an evaluation is left early."""

from typing import Any

import pytest
import tiny_model
from flax import nnx

import train
from stan_jax import errors
from stan_jax.annotations import youtube_vis
from stan_jax.configs import shapes_sta
from stan_jax.errors import InputError
from stan_jax.loading import sources
from stan_jax.model import parameters
from stan_jax.model.build import build
from stan_jax.pretrained import record
from stan_jax.shapes import generate


@pytest.fixture(scope="module")
def val(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    sizes: dict[str, Any] = dict(height=64, width=96)
    generate.generate(folder, seed=1, train_videos=1, val_videos=1, frames=3, **sizes)
    return youtube_vis.load(folder / "val/instances.json", folder / "val/JPEGImages")


@pytest.mark.parametrize(
    ("setting", "value", "rule"),
    [
        ("run.log_every", 0, "at least 1, is 0"),
        ("run.save_every", 0, "at least 1, is 0"),
        ("run.eval_every", -1, "at least 0.*is -1"),
        ("run.cpu_devices", 0, "at least 1, is 0"),
        ("run.keep_checkpoints", 0, "at least 1, is 0"),
        ("data.frames", 1, "more than model.sta.frames = 1, is 1"),
        ("data.class_map", {"mouse": None}, "'' for none, for 'mouse', names None"),
    ],
)
def test_setting_that_would_fail_late_is_refused_by_name(setting, value, rule):
    config = shapes_sta.get_config()
    train.check_settings(config)
    section, key = setting.split(".")
    config[section][key] = value
    with pytest.raises(InputError, match=f"^{setting}: must .*{rule}"):
        train.check_settings(config)


@pytest.mark.parametrize("name", ["backbone", "norm"])
def test_unknown_part_of_the_model_is_refused_with_those_there_are(name):
    settings = shapes_sta.get_config().model.to_dict() | {name: "resnet5"}
    with pytest.raises(InputError, match=f"^{name}: must be one of .*resnet5"):
        build(num_classes=2, **settings, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        (dict(sta=dict(key_channels=4, strides=(8, 128))), "sta.strides: .*128"),
        (dict(backbone_args=dict(width=12)), "12 channels do not divide by 8"),
        (dict(backbone_args=dict(frozen_stages=5)), "frozen_stages: must be in -1..4"),
        (
            dict(backbone="mobilenet_v2", backbone_args=dict(frozen_blocks=99)),
            "frozen_blocks: must be in -1..17, is 99",
        ),
    ],
)
def test_part_of_the_model_that_does_not_fit_is_refused_by_name(changes, rule):
    settings = shapes_sta.get_config().model.to_dict() | changes
    with pytest.raises(InputError, match=rule):
        build(num_classes=2, **settings, rngs=nnx.Rngs(0))


def test_computing_in_an_unknown_type_is_refused():
    structure, values = parameters.split(tiny_model.build())
    with pytest.raises(InputError, match="dtype: must be one of .*float8"):
        parameters.merge(structure, values, "float8")


def test_val_of_other_classes_or_without_objects_is_refused(val):
    names = [c.name for c in val.categories]
    train.require_scorable(val, names)
    with pytest.raises(InputError, match="categories: must be those trained on"):
        train.require_scorable(val, names[::-1])
    with pytest.raises(InputError, match="'annotations' to be scored"):
        train.require_scorable(val._replace(annotated=False), names)


def test_signal_ends_an_evaluation_and_leaves_no_results(val, tmp_path):
    tracker = tiny_model.tracker(tiny_model.build(num_classes=6))
    signals = train.Signals()
    signals.received = "SIGTERM"
    examples = train.Examples(val, 0.5)
    assert train.validate(tracker, val, tmp_path, signals, examples) is None
    assert not list(tmp_path.iterdir())
    signals.received = ""
    assert train.validate(tracker, val, tmp_path, signals, examples)


def test_resumed_run_says_which_settings_are_others(tmp_path, capsys):
    config, path = shapes_sta.get_config(), tmp_path / "config.json"
    train.note_config(path, config)
    train.note_config(path, config)
    assert capsys.readouterr().out == ""
    before = config.copy_and_resolve_references()
    for section, name in (("run", "shard_state"), ("data", "class_map")):
        del before[section][name]  # which are not settings that a run had changed
    path.write_text(before.to_json_best_effort())
    train.note_config(path, config)
    assert capsys.readouterr().out == ""
    config.seed, config.data.train.frames = 3, "elsewhere"
    train.note_config(path, config)
    assert capsys.readouterr().out.splitlines() == [
        "changed since: config.data.train.frames from data/shapes/train/JPEGImages"
        " to elsewhere",
        "changed since: config.seed from 0 to 3",
    ]
    train.note_config(path, config)
    assert capsys.readouterr().out == ""


def test_run_that_goes_on_keeps_where_it_had_begun(tmp_path):
    """Also where the command that goes on does not name it, and then names it again."""
    config = shapes_sta.get_config().to_dict()
    begun, silent, other = (
        record.from_config(config, ["cat"], origin) for origin in ("a.pth", "", "b.pth")
    )
    saved = record.to_json(begun)
    for ours in (silent, begun):
        saved = train.require_same_run(tmp_path, ours, saved)
        assert saved["origin"] == "a.pth"
    with pytest.raises(InputError, match="has begun from a.pth, not from b.pth: name"):
        train.require_same_run(tmp_path, other, saved)


def test_folder_in_place_of_a_json_is_named(tmp_path):
    with pytest.raises(InputError, match="is a folder: name the json in it"):
        sources.load(tmp_path, "JPEGImages")
    with pytest.raises(InputError):
        sources.load("", "JPEGImages")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InputError("a.json", "video 3", "must be"), "error: a.json: video 3: must be"),
        (OSError(28, "No space left", "b.json"), "error: b.json: No space left"),
        (OSError("odd"), "error: disk: odd"),
    ],
)
def test_script_ends_with_one_line(error, message):
    with pytest.raises(SystemExit) as ended, errors.as_messages():
        raise error
    assert ended.value.code == message


@pytest.mark.parametrize(
    ("file_name", "name"),
    [("clip/0.jpg", "clip"), ("a/clip/0.jpg", "a-clip"), ("0.jpg", "video-7")],
)
def test_name_of_a_video_fits_a_file_and_tells_folders_apart(file_name, name):
    assert youtube_vis.Video(7, (file_name,), 2, 2, ()).name == name
