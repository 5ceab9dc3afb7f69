"""Where the cache folder is."""

from pathlib import Path

import pytest

from topocell.io.cache import cache_folder


@pytest.mark.parametrize(
    ("named", "wanted"),
    [
        ("~/images", "HOME/images"),
        ("~", "HOME"),
        ("", "HOME/.cache/topocell"),
        ("images", "images"),
        ("~nobody-of-that-name/images", "~nobody-of-that-name/images"),
    ],
)
def test_the_home_directory_may_be_meant(
    named: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container or a service gets `~` as it is, and a folder of that name would lie in every current directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TOPOCELL_CACHE", named)
    assert cache_folder() == Path(wanted.replace("HOME", str(tmp_path)))
