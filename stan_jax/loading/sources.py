"""Sources of a dataset: YouTube-VIS or COCO json, or tensorflow-datasets."""

from pathlib import Path

from stan_jax.annotations import coco_images, youtube_vis
from stan_jax.annotations.youtube_vis import Dataset
from stan_jax.errors import InputError


def load(
    annotations: str | Path, frames: str | Path, *, upright: bool = True
) -> Dataset:
    """Return a dataset; its frames open with `youtube_vis.read_frame` either way.

    annotations, frames: a json and the folder of its frames, or a folder prepared by
    `tfds_youtube_vis` and the name of a split in it. The images of COCO instances are
    videos of one frame.
    upright: frames are turned as their EXIF orientation says; else taken as stored.
    Raises: InputError as the `load` of either; also where the second needs the extra
    `tfds` to be installed.
    """
    is_folder = str(annotations) != "" and Path(annotations).is_dir()
    if not is_folder:
        read = coco_images.load if coco_images.are_in(annotations) else youtube_vis.load
        return read(annotations, frames, upright=upright)
    if not (Path(annotations) / "youtube_vis_frames").is_dir():
        rule = "is a folder: name the json in it, or a folder prepared as TFDS"
        raise InputError(annotations, "", rule)
    try:
        from stan_jax.loading import tfds_youtube_vis
    except ImportError as error:
        rule = f"a folder needs `pip install -e '.[tfds]'`: {error}"
        raise InputError(annotations, "", rule) from None
    prepared = tfds_youtube_vis.load(annotations, str(frames))
    return prepared._replace(upright=upright)
