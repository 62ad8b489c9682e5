"""The words of animal pictures: captions, parsing, drawing, hours."""

import itertools

import pytest

from gap_jax.data.masked import iwildcam
from gap_jax.small_worlds import wildlife
from gap_jax.small_worlds.wildlife import Words

EVERY_WORDS = [Words(*words) for words in itertools.product(*wildlife.AXES.values())]


def test_captions_say_the_words_and_parse_reads_them():
    assert wildlife.caption(Words("waterbird", "forest", "night")) == "a photo of a waterbird, forest, night"
    assert wildlife.caption(Words("elephant"), (True, False, False)) == "a photo of an elephant"
    assert wildlife.caption(Words("cattle"), (True, True, False)) == "a photo of cattle, grass"
    assert wildlife.caption(Words(), (False, True, True)) == "a photo, grass, day"
    for words in EVERY_WORDS:
        assert wildlife.parse(wildlife.caption(words)) == words._asdict()


def test_words_are_drawn_from_those_allowed():
    allowed = {"animal": ("zebra",), "light": ("day", "dusk")}
    drawn = {wildlife.draw_words(0, i, allowed) for i in range(200)}
    assert drawn == {words for words in EVERY_WORDS if words.animal == "zebra" and words.light != "night"}
    assert len({wildlife.draw_words(0, i) for i in range(2000)}) == len(EVERY_WORDS)


def test_unknown_words_name_the_known_ones():
    unknown = "'lion' in 'a lion' is not a word of the wildlife; its words are animal: nothing, landbird"
    with pytest.raises(ValueError, match=unknown):
        wildlife.parse("a lion")
    with pytest.raises(ValueError, match="'weather' is not an axis of the wildlife"):
        wildlife.draw_words(0, 0, {"weather": ("fog",)})


def test_hours_go_with_the_light():
    for light, time in (("day", "day"), ("dusk", None), ("night", "night")):
        hours = {wildlife.hour(0, i, light) for i in range(200)}
        assert {iwildcam.time_of_day(hour) for hour in hours} == {time} and len(hours) > 1
