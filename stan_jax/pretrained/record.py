"""The record of a trained model: all that its arrays mean, in one place beside them.

Training and `stan import` write it into every checkpoint. Folders from before it have
their parts in three files, which are read as well.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stan_jax import presets
from stan_jax.errors import InputError
from stan_jax.model.build import architecture
from stan_jax.model.stan import Conventions, Thresholds
from stan_jax.tracking.memory import Association, MatchWeights
from stan_jax.tracking.program import Settings

FORMAT = 1
# Of the frames that published weights were trained on, YouTube-VIS's 360 x 640.
CANVAS, SCALE_HW, CLIP_LENGTH = (384, 640), (360, 640), 4


class Record(NamedTuple):
    """Meaning of the arrays of a trained model.

    Args:
      model: arguments of `build` in full but for the number of classes.
      categories: names of the classes by label; empty for a backbone alone.
      settings: how the model tracks.
      step: updates it has seen.
      origin: where its training started, "" for a seed.
    """

    model: dict[str, Any]
    categories: tuple[str, ...]
    settings: Settings
    step: int = 0
    origin: str = ""

    @property
    def conventions(self) -> Conventions:
        """Conventions that its parameters are read by."""
        return Conventions(**self.model["conventions"])


def from_config(
    config: Mapping[str, Any], categories: Sequence[str], origin: str = ""
) -> Record:
    """Return the record of a run with the settings of a config, as nested dicts."""
    return Record(
        model=_plain(architecture(config["model"])),
        categories=tuple(categories),
        settings=settings(
            config["tracking"],
            config["thresholds"],
            canvas=config["data"]["canvas"],
            scale_hw=config["data"]["scale_hw"],
            dtype=config["run"]["dtype"],
        ),
        origin=origin,
    )


def from_preset(
    model: Mapping[str, Any], preset: str, categories: Sequence[str], origin: str
) -> Record:
    """Return the record of published weights; preset: key of `PRESETS`, or "none"."""
    chosen = presets.PRESETS.get(preset, presets.PRESETS["original"])
    tracking = Settings(
        canvas=CANVAS,
        scale_hw=SCALE_HW,
        clip_length=CLIP_LENGTH,
        slots=chosen.slots,
        first_frame="self",
        legacy_paste=chosen.legacy_paste,
        dtype="float32",
        association=chosen.association,
        thresholds=chosen.thresholds,
    )
    model = _plain(architecture(model))
    return Record(model, tuple(categories), tracking, 0, origin)


def settings(
    tracking: Mapping[str, Any],
    thresholds: Mapping[str, Any],
    *,
    canvas: Sequence[int],
    scale_hw: Sequence[int],
    dtype: str,
) -> Settings:
    """Return how a model tracks from the sections of a config."""
    rest = dict(tracking)
    association = dict(rest.pop("association"))
    association["weights"] = MatchWeights(**association["weights"])
    return Settings(
        canvas=(canvas[0], canvas[1]),
        scale_hw=(scale_hw[0], scale_hw[1]),
        dtype=dtype,
        association=Association(**association),
        thresholds=Thresholds(**thresholds),
        **rest,
    )


def to_json(record: Record) -> dict[str, Any]:
    """Return the record as json holds it."""
    how = record.settings
    association = how.association._asdict()
    association["weights"] = how.association.weights._asdict()
    return _plain(
        {
            "format": FORMAT,
            "model": record.model,
            "categories": record.categories,
            "tracking": {
                "clip_length": how.clip_length,
                "slots": how.slots,
                "first_frame": how.first_frame,
                "legacy_paste": how.legacy_paste,
                "association": association,
            },
            "thresholds": how.thresholds._asdict(),
            "canvas": how.canvas,
            "scale_hw": how.scale_hw,
            "dtype": how.dtype,
            "step": record.step,
            "origin": record.origin,
        }
    )


def read(folder: str | Path, content: Mapping[str, Any]) -> Record:
    """Return the record from what a checkpoint of a folder holds, however old.

    content: as `checkpoint.read` returns it.
    """
    if "fingerprint" in content:
        return from_fingerprint(Path(folder), content)
    return from_json(folder, content)


def from_json(folder: str | Path, content: Mapping[str, Any]) -> Record:
    """Return the record that a checkpoint of `folder` holds.

    Raises: InputError for one of a later version, and one that lacks a part.
    """
    if content.get("format", 0) > FORMAT:
        rule = f"is of format {content['format']}, this version reads up to {FORMAT}"
        raise InputError(folder, "record", f"{rule}: update stan_jax")
    try:
        return Record(
            model=_plain(architecture(content["model"])),
            categories=tuple(content["categories"]),
            settings=settings(
                content["tracking"],
                content["thresholds"],
                canvas=content["canvas"],
                scale_hw=content["scale_hw"],
                dtype=content["dtype"],
            ),
            step=content["step"],
            origin=content["origin"],
        )
    except (KeyError, TypeError) as error:
        raise InputError(folder, "record", f"is damaged: {error}") from error


def from_fingerprint(folder: Path, content: Mapping[str, Any]) -> Record:
    """Return the record of a folder from before November 2026.

    The model stands in the fingerprint of its checkpoint, the rest in `config.json` of
    a training run or `import.json` of an import.
    Raises: InputError where neither file is there.
    """
    step, fingerprint = content["step"], dict(content["fingerprint"])
    categories = tuple(fingerprint.pop("categories", ()))
    config, imported = (
        json.loads(path.read_text()) if path.is_file() else None
        for path in (folder / "config.json", folder / "import.json")
    )
    if config is not None:
        config = modern(config)
        config["model"] = fingerprint
        return from_config(config, categories, config["init_from"])._replace(step=step)
    if imported is not None:
        origin = f"{imported['source']}, {imported['family']}"
        return from_preset(fingerprint, imported["preset"], categories, origin)
    rule = "is from before November 2026, and has neither config.json nor import.json"
    raise InputError(folder, "", rule)


def modern(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run with the names of today.

    Until November 2026 thresholds stood among the arguments of the model, kinds of
    losses in `loss.sampling`, association directly in `tracking`, and a backbone alone
    had a setting of its own; batch and state were never cut, no mean was kept, stills
    stood still.
    """
    config = json.loads(json.dumps(config))
    model, tracking = config["model"], config["tracking"]
    if "thresholds" not in config:
        config["thresholds"] = {
            name: model.pop(name) for name in Thresholds._fields if name in model
        }
        # Earlier still, this was no setting.
        config["thresholds"].setdefault("nms_candidates", 1000)
    if "kinds" not in (loss := config["loss"]):
        defaults = dict(
            rpn_beta=1 / 9,
            box_beta=1.0,
            mask_cells="sampled",
            rpn_class=None,
            match_known=False,
        )
        sampling = loss["sampling"]
        loss["kinds"] = {k: sampling.pop(k, v) for k, v in defaults.items()}
        loss["sampling"] = {"border": -1, "padded": False} | sampling
    if "association" not in tracking:
        defaults = dict(
            weights=presets.MATCH_COEFF._asdict(),
            update_labels=False,
            expire_after=None,
            share_ids=False,
        )
        tracking["association"] = {k: tracking.pop(k, v) for k, v in defaults.items()}
        given = {"first_frame": "self", "legacy_paste": False} | tracking
        config["tracking"] = given
    for section, name, value in (
        ("optim", "accumulate", 1),
        ("run", "average", 0.0),
        ("run", "shard_state", False),
        ("data", "class_map", {}),
        ("data", "still_motion", 0.0),
    ):
        config.get(section, {}).setdefault(name, value)
    if "backbone_from" in config:
        backbone = config.pop("backbone_from")
        config["init_only"] = "backbone" if backbone and not config["init_from"] else ""
        config["init_from"] = config["init_from"] or backbone
    return config


def require_same(folder: str | Path, theirs: Record, ours: Record) -> None:
    """Raise InputError where a model is not the one whose arrays lie in `folder`.

    Settings of tracking may differ. Classes are told first, since everything else of
    such a model differs with them.
    """
    if theirs.categories != ours.categories:
        raise InputError(folder, "categories", _other_classes(theirs, ours, folder))
    wrong = list(differences(theirs.model, ours.model, "model"))
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        rule = f"{'; '.join(wrong[:3])}{more}: name another --workdir, or set it so"
        raise InputError(folder, f"step {theirs.step}", rule)


def _other_classes(theirs: Record, ours: Record, folder: str | Path) -> str:
    def shown(names: Sequence[str]) -> str:
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        return f"{len(names)} ({', '.join(names[:4])}{more})"

    same = sorted(theirs.categories) == sorted(ours.categories)
    order = ", in this order" if same else ""
    return (
        f"was trained on {shown(theirs.categories)}{order}, these annotations have"
        f" {shown(ours.categories)}: name annotations with its classes, or train in a"
        f" new --workdir with --config.init_from={folder}, which keeps what both name"
    )


def differences(theirs: Any, ours: Any, name: str) -> Iterator[str]:
    """Yield a sentence for each setting of nested dicts that is not the same."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        for key in sorted(theirs.keys() | ours.keys()):
            sides = (side.get(key, "absent") for side in (theirs, ours))
            yield from differences(*sides, f"{name}.{key}")
    elif theirs != ours:
        yield f"{name} was {theirs!r}, is {ours!r}"


def _plain(value: Any) -> Any:
    """Return the value as json gives it back: tuples are lists."""
    return json.loads(json.dumps(value))
