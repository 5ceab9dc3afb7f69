"""Files are fetched once, whoever asks for them, and read where they are."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from topocell.data.downloads import fetched


def test_of_several_one_fetches_and_the_others_find_it(tmp_path: Path) -> None:
    file, begin, fetches = tmp_path / "sets" / "images", Barrier(4), list[int]()

    def read(number: int) -> str:
        def build(fetch: bool) -> str:
            if not fetch:
                begin.wait(60)  # all have seen that there is nothing
                raise RuntimeError("not found")
            if not file.exists():
                fetches.append(number)
                file.write_text("")  # as libraries write: in place
                for _ in range(100):
                    with file.open("a") as out:
                        out.write("image ")
            return file.read_text()

        return fetched(file.parent, build, download=True)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(read, range(4))) == {"image " * 100}
    assert len(fetches) == 1


def test_what_is_there_is_read_and_nothing_is_fetched_unasked(tmp_path: Path) -> None:
    assert fetched(tmp_path / "none", lambda fetch: fetch, download=True) is False
    assert not (tmp_path / "none").exists()

    def missing(fetch: bool) -> None:
        raise RuntimeError(f"not found, {fetch}")

    with pytest.raises(RuntimeError, match="not found, False"):
        fetched(tmp_path, missing, download=False)
    with pytest.raises(RuntimeError, match="not found, True"):
        fetched(tmp_path, missing, download=True)
