import colorsys

import numpy as np
import pytest
from PIL import Image

from stan_jax.masks import codec
from stan_jax.video import draw, fonts

GREY = 90


def draw_tracks(masks, boxes=None, ids=None, texts=None, hw=(360, 480)):
    n = len(masks)
    image = np.full((*hw, 3), GREY, np.uint8)
    boxes = np.zeros((n, 4)) if boxes is None else np.array(boxes)
    ids = np.arange(n) if ids is None else np.array(ids)
    texts = [""] * n if texts is None else texts
    masks = np.array(masks, bool).reshape(n, *hw)
    parts = [codec.decode_part(codec.encode(mask)) for mask in masks]
    return draw.overlay(image, parts, boxes.astype(np.float32), ids, texts)


def disc(x=200, y=150, r=60, hw=(360, 480)):
    yy, xx = np.mgrid[: hw[0], : hw[1]]
    return (yy - y) ** 2 + (xx - x) ** 2 < r**2


def test_colours_of_neighbouring_ids_lie_far_apart():
    colours = np.array([draw.colour(i) for i in range(40)], float)
    gaps = np.linalg.norm(colours[:, None] - colours, axis=-1)
    assert gaps[np.arange(39), np.arange(1, 40)].min() > 120
    np.fill_diagonal(gaps, np.inf)
    assert gaps[:8, :8].min() > 50
    assert gaps[:24, :24].min() > 25
    assert gaps.min() > 8  # no two ids look the same


def test_colours_are_vivid_and_never_change():
    for i in range(40):
        _, saturation, value = colorsys.rgb_to_hsv(*(x / 255 for x in draw.colour(i)))
        assert saturation > 0.3
        assert value > 0.5
    # Pinned: a track has this colour in every picture ever made.
    assert draw.colour(0) == (237, 101, 182)


def test_a_mask_is_tinted_outlined_and_nothing_else_is_touched():
    mask = disc()
    got = draw_tracks([mask], ids=[3], boxes=[[0, 0, 0, 0]]).astype(int)
    rgb = np.array(draw.colour(3))
    tint = GREY + draw.FILL * (rgb - GREY)
    np.testing.assert_allclose(got[150, 200], tint, atol=1)
    edge = mask & ~disc(r=59)
    assert (got[edge] == rgb).all(axis=-1).mean() > 0.9
    far = ~disc(r=62)
    far[:40] = False  # the plate of the text
    assert (got[far] == GREY).all()
    ring = disc(r=61) & ~mask
    assert np.median(got[ring]) < GREY  # a shade, so that the outline stands out


def test_a_mask_looks_the_same_from_all_sides():
    got = draw_tracks([disc()])[80:221, 130:271]
    for turned in (got[::-1], got[:, ::-1], got.swapaxes(0, 1)):
        np.testing.assert_array_equal(turned, got)


def test_an_object_keeps_its_colour_wherever_and_with_whomever_it_is():
    alone = draw_tracks([disc()], ids=[5])
    beside = draw_tracks([disc(), disc(400, 300, 30)], ids=[5, 2])
    np.testing.assert_array_equal(alone[60:210], beside[60:210])


def test_a_small_object_lies_on_top_of_a_large_one():
    large, small = disc(r=100), disc(r=20)
    for order in (np.array([0, 1]), np.array([1, 0])):
        got = draw_tracks(np.array([large, small])[order], ids=order)
        edge = small & ~disc(r=19)
        assert (got[edge] == draw.colour(1)).all(axis=-1).mean() > 0.9


@pytest.mark.parametrize("text", ["dog 1  0.98", "a very long name " * 9])
@pytest.mark.parametrize(
    "box",
    [
        [100, 100, 200, 200],
        [-50, -50, 30, 20],
        [470, 350, 480, 360],
        [460, 0, 700, 20],
        [0, 0, 480, 360],
        [0, 358, 480, 500],
    ],
)
def test_plates_stay_whole_inside_the_picture(text, box):
    rgb = np.array(draw.colour(0))
    got = draw_tracks([np.zeros((360, 480))], boxes=[box], texts=[text]).astype(int)
    plain = draw_tracks([np.zeros((360, 480))], boxes=[box], texts=[""]).astype(int)
    plate = (np.abs(got - (rgb * 225 + GREY * 30) / 255) < 3).all(axis=-1)
    plate &= (got != plain).any(axis=-1)
    ys, xs = np.flatnonzero(plate.any(axis=1)), np.flatnonzero(plate.any(axis=0))
    font = fonts.font(text, 14)
    size = ys[-1] - ys[0] + 1
    assert 9 <= size <= 24
    assert xs[-1] - xs[0] > min(font.getlength(text), 400) - 10
    # Its lower corners are rounded off, so it does not run out of the picture.
    assert not plate[ys[-1], xs[0]]
    assert not plate[ys[-1], xs[-1]]


def test_plates_of_objects_at_one_place_do_not_cover_each_other(monkeypatch):
    places, plate = [], draw._plate
    monkeypatch.setattr(
        draw, "_plate", lambda *a: places.append(plate(*a)) or places[-1]
    )
    for box, number in (([200, 150, 260, 200], 3), ([200, 2, 260, 358], 2)):
        places.clear()
        none = np.zeros((number, 360, 480))
        draw_tracks(none, boxes=[box] * number, texts=["dog 1  0.5"] * number)
        assert len(places) == number
        assert not any(draw._meet(a, b) for a in places for b in places if a is not b)
        assert all(a[1] >= 0 and a[3] <= 360 for a in places)


def test_text_is_legible_on_every_colour():
    for i in range(24):
        rgb = draw.colour(i)
        got = draw_tracks(
            [np.zeros((360, 480))],
            boxes=[[100, 100, 300, 300]],
            ids=[i],
            texts=["MMMMMMMM"],
        )
        patch = got[75:99, 100:240].reshape(-1, 3).astype(float) @ [0.3, 0.59, 0.11]
        luminance = np.dot(rgb, [0.3, 0.59, 0.11])
        assert np.abs(patch - luminance).max() > 75, i


@pytest.mark.parametrize("hw", [(1, 1), (3, 200), (200, 3), (90, 160), (361, 641)])
def test_any_size_of_picture_works_and_small_ones_are_enlarged(hw):
    mask = np.ones(hw, bool)
    got = draw_tracks([mask], boxes=[[0, 0, hw[1], hw[0]]], texts=["x"], hw=hw)
    zoom = got.shape[0] // hw[0]
    assert got.shape == (hw[0] * zoom, hw[1] * zoom, 3)
    assert zoom == 1 or max(got.shape) <= 2.5 * draw.READABLE
    assert zoom > 1 or max(hw) > draw.READABLE


def test_the_image_given_is_not_changed_and_no_tracks_leave_it_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (360, 500, 3), np.uint8)
    before = image.copy()
    got = draw.overlay(image, [], np.zeros((0, 4), np.float32), np.zeros(0, int), [])
    np.testing.assert_array_equal(got, before)
    draw.overlay(
        image,
        [(0, 0, np.ones((360, 500), bool))],
        np.array([[1, 1, 400, 300]], np.float32),
        np.array([1]),
        ["dog"],
    )
    draw.caption(image, "frame 1")
    np.testing.assert_array_equal(image, before)


def test_an_empty_mask_draws_no_pixel_of_itself():
    got = draw_tracks(np.zeros((1, 360, 480)), boxes=[[200, 200, 200, 200]])
    assert (got[230:] == GREY).all()


def test_caption_stands_in_the_lower_left_corner():
    image = np.full((180, 320, 3), 200, np.uint8)
    got = draw.caption(image, "blackswan  frame 3")
    changed = np.argwhere((got != image).any(axis=-1))
    assert got.max() > 240  # white on dark
    assert got.min() < 60
    assert changed[:, 0].min() > 150
    assert changed[:, 0].max() == 179
    assert changed[:, 1].min() == 0
    assert 80 < changed[:, 1].max() < 250


# ---- styles, trails, fonts


def test_only_pixels_near_the_boxes_are_touched():
    image = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)
    mask = np.zeros((720, 1280), bool)
    mask[300:400, 500:650] = True
    part = codec.decode_part(codec.encode(mask))
    boxes = np.array([[500, 300, 650, 400]], np.float32)
    got = draw.overlay(image, [part], boxes, np.array([3]), ["dog 3"])
    changed = np.argwhere((got != image).any(axis=-1))
    assert changed.min(axis=0)[0] >= 300 - 60
    assert changed.max(axis=0)[0] <= 400 + 60
    assert changed.min(axis=0)[1] >= 500 - 10
    assert changed.max(axis=0)[1] <= 650 + 120


def test_a_mask_looks_the_same_in_its_part_as_in_the_whole_frame():
    image = np.full((360, 480, 3), GREY, np.uint8)
    whole, parts = Image.fromarray(image), Image.fromarray(image)
    mask = disc()
    draw.paint(whole, mask, (9, 99, 200), 2)
    top, left, part = codec.decode_part(codec.encode(mask))
    draw.paint(parts, part, (9, 99, 200), 2, (top, left))
    np.testing.assert_array_equal(np.asarray(whole), np.asarray(parts))


def test_a_trail_is_the_way_of_the_last_second():
    trails = draw.Trails(1.0)
    for t in range(40):
        boxes = np.array([[10 * t, 50, 10 * t + 20, 70]], np.float32)
        (way,) = trails.see(t / 10, np.array([5]), boxes)
    assert way == [(10.0 * t + 10, 60.0) for t in range(29, 40)]
    assert trails.see(9.0, np.array([6]), boxes) == [[(400.0, 60.0)]]
    assert list(trails._ways) == [6]  # what is gone takes no memory


def test_hidden_parts_are_not_drawn():
    mask = disc()
    image = np.full((360, 480, 3), GREY, np.uint8)
    part = codec.decode_part(codec.encode(mask))
    boxes = np.array([[140, 90, 261, 211]], np.float32)

    def look(*hide):
        style = draw.Style(hide=frozenset(hide))
        return draw.overlay(image, [part], boxes, np.array([3]), ["dog"], style=style)

    assert (look("masks", "boxes", "labels") == image).all()
    inside = np.s_[120:180, 180:220]
    assert (look("masks")[inside] == image[inside]).all()
    assert (look("labels")[inside] != image[inside]).any()
    assert (look("labels")[:85] == image[:85]).all()


@pytest.mark.parametrize("text", ["dog 1", "собака", "Straße", "naïve"])
def test_letters_are_drawn_and_not_boxes_where_a_font_has_them(text):
    if not fonts.has_letters(text):
        pytest.skip(f"no font here has {text}")
    font = fonts.font(text, 20)
    absent = fonts._look(font, "\U0010ffff")
    assert all(fonts._look(font, letter) != absent for letter in text if letter != " ")


def test_a_name_without_a_font_becomes_its_number(monkeypatch):
    monkeypatch.setattr(fonts, "has_letters", str.isascii)
    assert fonts.shown(["dog", "汽车"], [7, 9]) == (["dog", "9"], ["汽车"])


def test_fonts_are_kept_by_size_and_not_by_text():
    before = fonts._opened.cache_info().currsize
    for n in range(300):
        fonts.font(f"dog {n}  0.{n}", 17)
    assert fonts._opened.cache_info().currsize <= before + 1
