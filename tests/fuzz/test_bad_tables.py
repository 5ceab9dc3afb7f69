"""Tables of NAS-Bench-201 that are none."""

import gzip
import io
from functools import cache
from pathlib import Path

import pytest
from hypothesis import strategies as st
from tests.fuzz.bad import NASTY, garbled, scalars, suite
from tests.helpers.made_up import made_up_table

from topocell.data.nasbench201 import Table
from topocell.errors import DataError


@cache
def lines() -> list[str]:
    """A sound table."""
    table = made_up_table()
    rows = zip(table.archs, *(table.values(column).tolist() for column in table.columns))
    header = ",".join(["index", "arch", *table.columns])
    return [header, *(",".join(map(str, (number, *row))) for number, row in enumerate(rows))]


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """The sound table with a few fields or rows that are wrong, or cut short, or packed badly."""
    rows = list(lines())
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.one_of(st.just(0), st.integers(0, len(rows) - 1)))
        fields = rows[at].split(",")
        kind = draw(st.sampled_from(("field", "field", "field", "remove", "double", "line", "more", "fewer")))
        if kind == "field":
            fields[draw(st.integers(0, len(fields) - 1))] = str(draw(scalars))
        elif kind == "more":
            fields.append("1.0")
        elif kind == "fewer":
            fields.pop()
        new = {"remove": [], "double": [rows[at]] * 2, "line": [draw(st.sampled_from(NASTY))]}.get(kind)
        rows[at : at + 1] = [",".join(fields)] if new is None else new
        rows = rows or [""]
    data = "\n".join(rows).encode(errors="surrogatepass")
    packed = draw(st.sampled_from(("plain", "plain", "plain", "gzip", "torn")))
    if packed == "plain":
        return data
    data = gzip.compress(data, 1)
    return data if packed == "gzip" else draw(garbled(data))


def test_tables(tmp_path: Path) -> None:
    def attempt(data: bytes) -> bool:
        path = tmp_path / "table.csv.gz"
        path.write_bytes(data)
        Table.load(path)
        return False

    suite("tables", 0.06, st.one_of(tables(), garbled("\n".join(lines()[:50]))), attempt)


@pytest.mark.parametrize(
    "path", ["missing.csv", "x" * 300, "a\0b", "~nobody-here/x.csv", "", "/dev/zero/x", "/proc/self/mem"]
)
def test_places_without_a_table(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"; |cannot read"):
        Table.load(path)


def test_what_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topocell.data.accuracy_table.MAX_BYTES", 100_000)
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as file:
        file.write(bytes(10_000_000))
    (tmp_path / "bomb.csv.gz").write_bytes(packed.getvalue())
    with pytest.raises(DataError, match="more than 100000 bytes"):
        Table.load(tmp_path / "bomb.csv.gz")
