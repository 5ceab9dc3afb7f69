"""The documentation site: every page is in its navigation, links stay within it, and nothing comes from a network."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import site

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]


def pages_of(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for entry in nav if isinstance(nav, list) else nav.values() if isinstance(nav, dict) else ():
        yield from pages_of(entry)


def test_every_page_is_once_in_the_navigation() -> None:
    assert sorted(pages_of(PROJECT["nav"])) == sorted(name for name in site.sources() if name.endswith(".md"))


def test_links_of_the_pages_are_links_of_the_site(tmp_path: Path) -> None:
    pytest.importorskip("nbconvert", reason="turns the tutorial into a page; make test installs it")
    site.gather(tmp_path)
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    pictures = {name for name in written if name.startswith("tutorial_")}
    assert pictures and written - pictures == set(site.sources())
    checked = 0
    for page in tmp_path.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        for target, heading in re.findall(r"\]\(([^)\s#]*)(#[^)\s]*)?\)", text):
            if target.startswith("http"):
                continue
            other = (page.parent / target).resolve() if target else page
            assert other.is_file() and other.is_relative_to(tmp_path), (page.name, target)
            if heading:
                titles = re.findall(r"^#+ (.+)$", other.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
                assert heading[1:] in slugs, (page.name, target, heading)
            checked += 1
    assert checked > 100


def test_a_page_loads_from_the_site_alone(tmp_path: Path) -> None:
    page = tmp_path / "how-to" / "page.html"
    page.parent.mkdir()
    link = '<a href="https://example.org">elsewhere</a>'
    page.write_text(f'{link}<script src="https://unpkg.com/iframe-worker/shim"></script>')
    site.detach(tmp_path)
    assert page.read_text() == f'{link}<script src="../vendor/iframe-worker.js"></script>'
    assert all((ROOT / "docs" / file).is_file() for file in site.VENDORED.values())


@pytest.mark.parametrize("tag", ['<script async src="{}">', "<link rel=stylesheet href={}>", "<img alt='' src='{}'>"])
def test_a_page_that_loads_from_a_network_is_refused(tag: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(tag.format("https://example.org/x.js"))
    with pytest.raises(SystemExit, match=r"loads https://example\.org/x\.js; put the file into docs/vendor"):
        site.detach(tmp_path)
