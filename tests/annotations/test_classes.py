"""Classes of further sets, by name; and the tables of published systems."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from stan_jax.annotations import classes
from stan_jax.annotations.youtube_vis import Category, Dataset, Track, Video
from stan_jax.errors import InputError

OURS = (Category(3, "dog"), Category(5, "Tennis_racket"), Category(9, "mouse"))


def named(*names):
    return tuple(Category(10 + 7 * i, name) for i, name in enumerate(names))


def a_set(*names, labels=()):
    """One video with a track of each label; its id is 100 + its rank."""
    boxes = np.zeros((1, 4), np.float32)
    tracks = [Track(100 + i, x, False, (None,), boxes) for i, x in enumerate(labels)]
    video = Video(1, ("0.jpg",), 4, 6, tuple(tracks))
    return Dataset(Path("other.json"), Path(), named(*names), (video,), True)


def labels_of(dataset):
    return [(track.id, track.label) for track in dataset.videos[0].tracks]


def test_names_decide_and_neither_order_nor_case_nor_underscores():
    theirs = a_set("tennis - racket", "DOG", labels=(0, 1, 1))
    got, line = classes.matched(theirs, OURS, {})
    assert got.categories == OURS
    assert labels_of(got) == [(100, 1), (101, 0), (102, 0)]
    assert line == ""
    assert got._replace(categories=(), videos=()) == theirs._replace(
        categories=(), videos=()
    )


def test_classes_that_are_none_of_ours_are_dropped_and_counted():
    theirs = a_set("cup", "dog", "fork", labels=(0, 1, 2, 2))
    got, line = classes.matched(theirs, OURS, {})
    assert labels_of(got) == [(101, 0)]
    assert line == (
        "other.json: 1 objects of our classes; left out are 3 of 2 other classes:"
        " fork, cup"
    )


def test_map_renames_joins_and_drops():
    theirs = a_set("puppy", "Old dog", "mouse", labels=(0, 1, 2))
    class_map = {"puppy": "dog", "old_dog": "dog", "mouse": "", "of another set": "dog"}
    got, line = classes.matched(theirs, OURS, class_map)
    assert labels_of(got) == [(100, 0), (101, 0)]
    assert "left out are 1 of 1 other class: mouse" in line


def test_long_lists_of_names_are_cut():
    theirs = a_set("dog", *(f"c{i}" for i in range(12)), labels=tuple(range(13)))
    assert classes.matched(theirs, OURS, {})[1].endswith("c6, c7 and 4 more")


def test_set_without_any_of_our_classes_is_refused():
    rule = r"other.json: categories: must share a class with .*dog.*data.class_map.*cup"
    with pytest.raises(InputError, match=rule):
        classes.matched(a_set("cup"), OURS, {})
    with pytest.raises(InputError, match="must share a class"):
        classes.matched(a_set("mouse"), OURS, {"mouse": ""})


def test_map_to_no_class_of_ours_is_refused():
    with pytest.raises(InputError, match="^data.class_map: cup: 'dgo' must be a class"):
        classes.matched(a_set("dog"), OURS, {"cup": "dgo"})


# Ids and names of the categories as the sets have them.
COCO = dict(
    zip(
        [*range(1, 12), *range(13, 26), 27, 28, *range(31, 45), *range(46, 66), 67, 70]
        + [*range(72, 83), *range(84, 91)],
        """person/bicycle/car/motorcycle/airplane/bus/train/truck/boat/
        traffic light/fire hydrant/stop sign/parking meter/bench/bird/cat/dog/
        horse/sheep/cow/elephant/bear/zebra/giraffe/backpack/umbrella/handbag/
        tie/suitcase/frisbee/skis/snowboard/sports ball/kite/baseball bat/
        baseball glove/skateboard/surfboard/tennis racket/bottle/wine glass/cup/
        fork/knife/spoon/bowl/banana/apple/sandwich/orange/broccoli/carrot/
        hot dog/pizza/donut/cake/chair/couch/potted plant/bed/dining table/
        toilet/tv/laptop/mouse/remote/keyboard/cell phone/microwave/oven/
        toaster/sink/refrigerator/book/clock/vase/scissors/teddy bear/
        hair drier/
        toothbrush""".split("/"),
        strict=True,
    )
)
SETS = {
    "ytvis19": """person giant_panda lizard parrot skateboard sedan ape dog snake monkey
        hand rabbit duck cat cow fish train horse turtle bear motorbike giraffe leopard
        fox deer owl surfboard airplane truck zebra tiger elephant snowboard boat shark
        mouse frog eagle earless_seal tennis_racket""",
    "ytvis21": """airplane bear bird boat car cat cow deer dog duck earless_seal
        elephant fish flying_disc fox frog giant_panda giraffe horse leopard lizard
        monkey motorbike mouse parrot person rabbit shark skateboard snake snowboard
        squirrel surfboard tennis_racket tiger train truck turtle whale zebra""",
    "ovis": """Person Bird Cat Dog Horse Sheep Cow Elephant Bear Zebra Giraffe Poultry
        Giant_panda Lizard Parrot Monkey Rabbit Tiger Fish Turtle Bicycle Motorcycle
        Airplane Boat Vehical""",
}
# Which of their ids each id of COCO means: sukjunhwang/VITA, data/datasets, the same in
# the code of others.
PUBLISHED = {
    "ytvis19": {1: 1, 2: 21, 3: 6, 4: 21, 5: 28, 7: 17, 8: 29, 9: 34, 17: 14, 18: 8}
    | {19: 18, 21: 15, 22: 32, 23: 20, 24: 30, 25: 22, 35: 33, 36: 33, 41: 5, 42: 27}
    | {43: 40},
    "ytvis21": {1: 26, 2: 23, 3: 5, 4: 23, 5: 1, 7: 36, 8: 37, 9: 4, 16: 3, 17: 6}
    | {18: 9, 19: 19, 21: 7, 22: 12, 23: 2, 24: 40, 25: 18, 34: 14, 35: 31, 36: 31}
    | {41: 29, 42: 33, 43: 34},
    "ovis": {1: 1, 2: 21, 3: 25, 4: 22, 5: 23, 6: 25, 8: 25, 9: 24, 17: 3, 18: 4, 19: 5}
    | {20: 6, 21: 7, 22: 8, 23: 9, 24: 10, 25: 11},
}


@pytest.mark.parametrize("name", SETS)
def test_configs_take_the_classes_of_coco_that_published_systems_take(name):
    config = importlib.import_module(f"stan_jax.configs.{name}_coco_r50_sta")
    ours = tuple(Category(i, n) for i, n in enumerate(SETS[name].split(), start=1))
    names = [" ".join(n.split()) for n in COCO.values()]
    theirs = a_set(*names, labels=tuple(range(80)))
    class_map = config.get_config("scratch").data.class_map.to_dict()
    got, _ = classes.matched(theirs, ours, class_map)
    ids = list(COCO)
    assert {
        ids[track - 100]: label + 1 for track, label in labels_of(got)
    } == PUBLISHED[name]
