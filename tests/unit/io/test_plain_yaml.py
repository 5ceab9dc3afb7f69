import os

import pytest

from topocell.io import plain_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("010", 10), ("-010", -10), ("0x10", 16), ("0b11", 3), ("1_000", 1000)),
        *(("1:30", "1:30"), ("1:30.5", "1:30.5"), ("1_0.5", 10.5), (".5", 0.5), ("6e-3", 0.006)),
    ],
)
def test_numbers_are_those_that_people_read(text: str, value: object) -> None:
    """`seq -w` counts to 010, and a time is no number of seconds."""
    found = plain_yaml.load(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("text", ["[" * 18_000, "a: " + "{b: " * 40 + "1" + "}" * 40, "[ " * 31 + "]" * 31])
def test_deep_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="it nests more than 30 levels"):
        plain_yaml.load(text)


@pytest.mark.parametrize("text", ["plain", "6e-3", "Müll", "a: b\n# c", os.fsdecode(b"Windows\xfc"), "\0\x07", "😀"])
def test_what_is_written_is_read_again(text: str) -> None:
    value = {"root": text, "list": [text, 1, 0.5, None, True], text: {}}
    assert plain_yaml.load(plain_yaml.dump(value)) == value
    assert plain_yaml.dump(value).encode()
