r"""YouTube-VIS sets in tensorflow-datasets, without TensorFlow.

    python -m stan_jax.loading.tfds_youtube_vis --out=FOLDER \
        --split=train:train.json:train/JPEGImages --split=val:val.json:val/JPEGImages

    dataset = load(FOLDER, "train")  # as youtube_vis.load, for every use of it

One array_record example holds one frame: the JPEG bytes as they were, and a row for
each track of its video with the mask as compressed run lengths, empty out of sight.
The builder that tensorflow-datasets ships needs TensorFlow and Beam, turns whole
videos into PNG and cannot be read as a data source, hence this one.
"""

import argparse
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from stan_jax import errors
from stan_jax.annotations import youtube_vis
from stan_jax.annotations.youtube_vis import Dataset, Track, Video
from stan_jax.errors import InputError
from stan_jax.masks import codec

RAW = {"image": tfds.decode.SkipDecoding()}  # leave the JPEG to youtube_vis


def prepare(folder: str | Path, sources: Mapping[str, Dataset]) -> Path:
    """Write the sets, one split each, below `folder` and return where they lie.

    Does nothing where they were written before. Splits keep the order of the file.
    Raises: InputError for a frame that youtube_vis.check_frames refuses or that is no
    JPEG, and where other sets were written into this folder before.
    """
    builder = YoutubeVisFrames(sources=sources, data_dir=Path(folder))
    path = Path(builder.data_path)
    if path.exists():
        found = _reader(path).info.metadata["splits"]
        if found != _about(sources):
            rule = f"holds other sets than asked for: {sorted(found)}"
            raise InputError(path, "", rule)
        return path
    for dataset in sources.values():
        youtube_vis.check_frames(dataset)
        _check_jpeg(dataset)
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder.download_and_prepare(download_config=config, file_format="array_record")
    return path


def load(folder: str | Path, split: str) -> Dataset:
    """Return what youtube_vis.load returned for this split; its frames are `stored`.

    Reads every example once, since labels lie beside frames: as long as it takes to
    read the files.
    Raises: InputError if nothing was prepared there, or not this split.
    """
    path = Path(YoutubeVisFrames(data_dir=Path(folder)).data_path)
    if not path.exists():
        raise InputError(path, "", "must hold a prepared set, does not exist")
    builder = _reader(path)
    if split not in builder.info.splits:
        rule = f"split '{split}' must be one of {sorted(builder.info.splits)}"
        raise InputError(path, "", rule)
    examples = builder.as_data_source(split, decoders=RAW)
    videos, starts, frames = [], {}, []
    for place, example in enumerate(examples):
        frames.append({k: v for k, v in example.items() if k != "image"})
        if len(frames) == example["length"]:
            videos.append(_video(frames))
            starts[videos[-1].id] = place + 1 - len(frames)
            frames = []
    about = builder.info.metadata["splits"][split]
    return Dataset(
        path=path,
        frames_dir=path,
        categories=tuple(youtube_vis.Category(*c) for c in about["categories"]),
        videos=tuple(videos),
        annotated=about["annotated"],
        stored=lambda video, t: examples[starts[video.id] + t]["image"],
    )


class YoutubeVisFrames(tfds.core.GeneratorBasedBuilder):
    """The builder; `sources` is needed to prepare, not to read."""

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded; looking for checksums would import an undeclared package.
    url_infos = None

    def __init__(self, *, sources: Mapping[str, Dataset] | None = None, **kwargs: Any):
        self._sources = dict(sources or {})
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        row = {
            "id": np.int64,
            "label": np.int64,  # 0..k-1
            "crowd": np.bool_,
            "box": tfds.features.Tensor(shape=(4,), dtype=np.float32),  # xyxy pixels
            "counts": tfds.features.Text(),
        }
        frame = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "file_name": tfds.features.Text(),
            "video_id": np.int64,
            "frame": np.int64,
            "length": np.int64,  # frames of the video; they follow one another
            "height": np.int64,
            "width": np.int64,
            "tracks": tfds.features.Sequence(row),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="YouTube-VIS sets, one example per frame.",
            features=tfds.features.FeaturesDict(frame),
            metadata=tfds.core.MetadataDict(splits=_about(self._sources)),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        return {name: _examples(dataset) for name, dataset in self._sources.items()}

    def _generate_examples(self) -> Iterator:
        raise NotImplementedError("each split brings its own")


def _reader(path: Path) -> Any:  # Any: the package's own types do not hold
    return tfds.builder_from_directory(path)


def _about(sources: Mapping[str, Dataset]) -> dict[str, dict]:
    """Return what belongs to a split, not to a frame, as json would return it."""
    return {
        name: dict(
            annotations=hashlib.sha256(dataset.path.read_bytes()).hexdigest(),
            annotated=dataset.annotated,
            categories=[list(c) for c in dataset.categories],
        )
        for name, dataset in sources.items()
    }


def _frames(dataset: Dataset) -> Iterator[tuple[Video, int, Path]]:
    for video in dataset.videos:
        for t, name in enumerate(video.file_names):
            yield video, t, dataset.frames_dir / name


def _check_jpeg(dataset: Dataset) -> None:
    for video, t, path in _frames(dataset):
        with path.open("rb") as file:
            if file.read(2) != b"\xff\xd8":
                raise InputError(path, f"video {video.id}, frame {t}", "must be a JPEG")


def _examples(dataset: Dataset) -> Iterator[tuple[int, dict]]:
    for key, (video, t, path) in enumerate(_frames(dataset)):
        yield (
            key,
            dict(
                image=path.read_bytes(),
                file_name=video.file_names[t],
                video_id=video.id,
                frame=t,
                length=len(video.file_names),
                height=video.height,
                width=video.width,
                tracks=[_row(track, t) for track in video.tracks],
            ),
        )


def _row(track: Track, t: int) -> dict:
    segmentation = track.segmentations[t]
    return dict(
        id=track.id,
        label=track.label,
        crowd=track.crowd,
        box=track.boxes[t],
        counts=b"" if segmentation is None else segmentation["counts"],
    )


def _video(frames: list[dict]) -> Video:
    """Put the examples of one video together again."""
    first = frames[0]
    height, width = int(first["height"]), int(first["width"])
    rows = [frame["tracks"] for frame in frames]
    ids = rows[0]["id"]
    tracks = tuple(
        Track(
            id=int(ids[m]),
            label=int(rows[0]["label"][m]),
            crowd=bool(rows[0]["crowd"][m]),
            segmentations=tuple(
                codec.pack((height, width), r["counts"][m]) if r["counts"][m] else None
                for r in rows
            ),
            boxes=np.stack([r["box"][m] for r in rows]),
        )
        for m in range(len(ids))
    )
    names = tuple(f["file_name"].decode() for f in frames)
    return Video(int(first["video_id"]), names, height, width, tracks)


def main() -> None:
    """Prepare the splits named on the command line."""
    parser = argparse.ArgumentParser(description="Write YouTube-VIS sets as TFDS.")
    parser.add_argument("--out", required=True, help="folder to write below")
    parser.add_argument(
        "--split",
        required=True,
        action="append",
        metavar="NAME:ANNOTATIONS:FRAMES",
        help="a split, its json and the folder of its frames; may be repeated",
    )
    options = parser.parse_args()
    sources = {}
    for text in options.split:
        name, *files = text.split(":")
        if len(files) != 2:
            parser.error(f"--split must be NAME:ANNOTATIONS:FRAMES, is {text}")
        sources[name] = youtube_vis.load(*files)
    print(prepare(options.out, sources))


if __name__ == "__main__":
    with errors.as_messages():
        main()
