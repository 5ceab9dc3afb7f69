"""Colours as recipes name them."""

import pytest
from PIL import Image, ImageColor

from topocell.io.colours import colour_name, rgb


@pytest.mark.parametrize(
    ("text", "colour", "name"),
    [
        ("white", (255, 255, 255), "white"),
        ("Black", (0, 0, 0), "black"),
        ("#ff0000", (255, 0, 0), "red"),
        ("#0A0b0C", (10, 11, 12), "[10, 11, 12]"),
        ([1, 2, 3], (1, 2, 3), "[1, 2, 3]"),
        ((128, 128, 128), (128, 128, 128), "gray"),
    ],
)
def test_colours(text, colour, name):
    assert rgb(text) == colour and colour_name(colour) == name


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("wite", "but got 'wite' (did you mean 'white'?)"),
        ("#fff", "but got '#fff'"),
        ("rgb(1,2,3)", "but got 'rgb(1,2,3)'"),
        ([1, 2], "but got [1, 2]"),
        ([0, 0, 256], "but got [0, 0, 256]"),
        ([0, -1, 0], "but got [0, -1, 0]"),
        ([0.5, 0, 0], "but got [0.5, 0, 0]"),
        ([True, 0, 0], "but got [True, 0, 0]"),
        (255, "but got 255"),
        (None, "but got nothing; write it in quotes, # begins a comment"),
    ],
)
def test_what_is_no_colour(value, words):
    with pytest.raises(ValueError, match="a colour is a name such as white") as caught:
        rgb(value)
    assert str(caught.value).endswith(words)


def test_pillow_may_know_a_colour_already():
    """It puts three numbers in the place of the text of its table when it is asked."""
    ImageColor.getrgb("white"), Image.new("RGB", (1, 1), "teal")
    assert rgb("white") == (255, 255, 255) and rgb("Teal") == (0, 128, 128)
    assert colour_name((255, 255, 255)) == "white" and colour_name((0, 128, 128)) == "teal"
