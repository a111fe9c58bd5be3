"""Names of the classes of the datasets that published weights were trained on.

Source: the category lists of YouTube-VIS 2019 and 2021, OVIS and COCO 2017.
"""

YTVIS2019 = """
    person, giant_panda, lizard, parrot, skateboard, sedan, ape, dog, snake, monkey,
    hand, rabbit, duck, cat, cow, fish, train, horse, turtle, bear, motorbike,
    giraffe, leopard, fox, deer, owl, surfboard, airplane, truck, zebra, tiger,
    elephant, snowboard, boat, shark, mouse, frog, eagle, earless_seal,
    tennis_racket
"""
YTVIS2021 = """
    airplane, bear, bird, boat, car, cat, cow, deer, dog, duck, earless_seal,
    elephant, fish, flying_disc, fox, frog, giant_panda, giraffe, horse, leopard,
    lizard, monkey, motorbike, mouse, parrot, person, rabbit, shark, skateboard,
    snake, snowboard, squirrel, surfboard, tennis_racket, tiger, train, truck,
    turtle, whale, zebra
"""
OVIS = """
    Person, Bird, Cat, Dog, Horse, Sheep, Cow, Elephant, Bear, Zebra, Giraffe,
    Poultry, Giant_panda, Lizard, Parrot, Monkey, Rabbit, Tiger, Fish, Turtle,
    Bicycle, Motorcycle, Airplane, Boat, Vehical
"""
COCO = """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic
    light, fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse,
    sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie,
    suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball
    glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork,
    knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog,
    pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv,
    laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink,
    refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush
"""
# The ids of COCO end at 90 and leave these out; torchvision has a column for each id.
UNUSED_COCO_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


def _words(text: str) -> tuple[str, ...]:
    return tuple(" ".join(text.split()).split(", "))


def _with_gaps(names: tuple[str, ...]) -> tuple[str, ...]:
    rest = iter(names)
    return tuple(
        f"unused {i}" if i in UNUSED_COCO_IDS else next(rest) for i in range(1, 91)
    )


# A list of 40 is taken for that of 2019 unless another one is named.
LISTS = {
    "ytvis2019": _words(YTVIS2019),
    "ytvis2021": _words(YTVIS2021),
    "ovis": _words(OVIS),
    "coco": _words(COCO),
    "coco91": _with_gaps(_words(COCO)),
}
