"""The words of rooms: captions, parsing and drawing."""

import itertools

import pytest

from gap_jax.small_worlds import rooms

EVERY_STYLE = [rooms.Style(*words) for words in itertools.product(*rooms.AXES.values())]
PLAIN = rooms.Style()


def test_captions_say_the_words_and_parse_reads_them():
    assert rooms.caption(rooms.Style("red", "dark", "foggy", "blurry")) == "a red room, dark, foggy, blurry"
    assert rooms.caption(PLAIN, (False,) * 4) == "a room"
    for style in EVERY_STYLE:
        assert rooms.parse(rooms.caption(style)) == style._asdict()


def test_styles_are_drawn_from_the_allowed_words():
    drawn = {rooms.draw_style(0, i, rooms.NARROW) for i in range(100)}
    assert drawn == {rooms.Style("grey"), rooms.Style("beige")}
    assert len({rooms.draw_style(0, i) for i in range(2000)}) == len(EVERY_STYLE)


def test_unknown_words_name_the_known_ones():
    unknown = r"'pink' in 'a pink room' is not a word of the rooms; its words are colour: grey, beige"
    with pytest.raises(ValueError, match=unknown):
        rooms.parse("a pink room")
    with pytest.raises(
        ValueError, match="'weather' is not an axis of the rooms; its axes are colour, light, "
    ):
        rooms.draw_style(0, 0, {"weather": ("fog",)})
    with pytest.raises(ValueError, match="on the axis 'air' must be some of clear, foggy, found misty"):
        rooms.draw_style(0, 0, {"air": ("misty",)})
    with pytest.raises(ValueError, match="on the axis 'air' must be some of clear, foggy, found none"):
        rooms.draw_style(0, 0, {"air": ()})
