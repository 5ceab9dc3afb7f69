import os

import pytest

from topocell.io import plain_yaml


@pytest.mark.parametrize("text", ["plain", "6e-3", "Müll", "a: b\n# c", os.fsdecode(b"Windows\xfc"), "\0\x07", "😀"])
def test_what_is_written_is_read_again(text: str) -> None:
    value = {"root": text, "list": [text, 1, 0.5, None, True], text: {}}
    assert plain_yaml.load(plain_yaml.dump(value)) == value
    assert plain_yaml.dump(value).encode()
