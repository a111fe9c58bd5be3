"""Classes of one set that are those of another, by their names."""

from collections import Counter
from collections.abc import Mapping, Sequence

from stan_jax.annotations.youtube_vis import Category, Dataset, Track
from stan_jax.errors import InputError


def matched(
    dataset: Dataset, ours: Sequence[Category], class_map: Mapping[str, str]
) -> tuple[Dataset, str]:
    """Return a set with our classes, and a line on what it leaves out, or "".

    Classes are the same if their names are, see `plain`.
    Objects of classes that are none of ours are dropped.

    Args:
      ours: the classes that a model is trained on, in the order of its labels.
      class_map: which of ours a name in the set means; "" drops a class whose name is
        also one of ours, but means another thing. Names of other sets may stand in it.
    Raises: InputError if the set has none of our classes, or the map names none.
    """
    label_of = {plain(c.name): i for i, c in reversed([*enumerate(ours)])}
    for theirs, name in class_map.items():
        if name and plain(name) not in label_of:
            rule = f"'{name}' must be a class that is trained on: {_names(ours)}"
            raise InputError("data.class_map", theirs, rule)
    named = {plain(theirs): name for theirs, name in class_map.items()}
    labels = [
        label_of.get(plain(named.get(plain(c.name), c.name)))
        for c in dataset.categories
    ]
    if all(label is None for label in labels):
        rule = f"must share a class with those trained on: {_names(ours)}"
        cure = f"set data.class_map for its own: {_names(dataset.categories)}"
        raise InputError(dataset.path, "categories", rule, cure)
    return _relabelled(dataset, ours, labels)


def _relabelled(
    dataset: Dataset, ours: Sequence[Category], labels: list[int | None]
) -> tuple[Dataset, str]:
    left: Counter[int] = Counter()
    videos = []
    for video in dataset.videos:
        tracks: list[Track] = []
        for track in video.tracks:
            label = labels[track.label]
            if label is None:
                left[track.label] += 1
            else:
                tracks.append(track._replace(label=label))
        videos.append(video._replace(tracks=tuple(tracks)))
    made = dataset._replace(categories=tuple(ours), videos=tuple(videos))
    if not left:
        return made, ""
    often = [dataset.categories[i] for i, _ in left.most_common()]
    number, kinds = sum(left.values()), len(often)
    kept = sum(len(video.tracks) for video in videos)
    word = "class" if kinds == 1 else "classes"
    return made, (
        f"{dataset.path}: {kept:,} objects of our classes; left out are {number:,} of"
        f" {kinds} other {word}: {_names(often)}"
    )


def plain(name: str) -> str:
    """Return the name of a class as it is compared: without case, _ and -."""
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def _names(categories: Sequence[Category]) -> str:
    """Return the first few names, and how many there are besides."""
    names = [c.name for c in categories[:8]]
    more = len(categories) - len(names)
    return ", ".join(names) + f" and {more} more" * (more > 0)
