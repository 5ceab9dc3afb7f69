"""The documentation site (zensical.toml, make docs): its pages before it is built, and what it loads from elsewhere.

python -m tests.helpers.site gather    writes build/docs
python -m tests.helpers.site detach    lets build/site load nothing from a network
"""

import os
import posixpath
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

#: Page of the site → file of the repository, of those that are not in docs/ or have another name there.
PLACES = {
    "index.md": "README.md",
    "all-pages.md": "docs/README.md",
    "methods/index.md": "docs/methods/README.md",
    "benchmarks.md": "benchmarks/RESULTS.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "tutorial.md": "docs/tutorial.ipynb",
}
#: What the theme loads from a network → the same file in docs/.
VENDORED = {"https://unpkg.com/iframe-worker/shim": "vendor/iframe-worker.js"}
_LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
_LOADED = re.compile(r"""<(?:script|img|iframe|link(?=[^>]*stylesheet))\b[^>]*?(?:src|href)=["']?(https?:[^"'\s>]*)""")


def sources() -> dict[str, Path]:
    """Every page or other file of the site, and the file of the repository that it is made from."""
    docs = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "docs").rglob("*")) if path.is_file()}
    found = {page: ROOT / source for page, source in PLACES.items()}
    named = set(PLACES.values())
    return found | {name.removeprefix("docs/"): path for name, path in docs.items() if name not in named}


def relinked(markdown: str, page: str, found: dict[str, Path]) -> str:
    """A page whose links to files of the repository are links within the site; of others the build complains."""
    names = {path: name for name, path in found.items()}

    def link(match: re.Match[str]) -> str:
        target = names.get((found[page].parent / match[2]).resolve())
        return (
            f"{match[1]}{posixpath.relpath(target, posixpath.dirname(page) or '.')}{match[3]}" if target else match[0]
        )

    return _LINK.sub(link, markdown)


def gather(folder: Path) -> None:
    """Write the pages of the site, and their pictures, into a folder of their own."""
    shutil.rmtree(folder, ignore_errors=True)
    found = sources()
    for name, source in found.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if not name.endswith(".md"):
            shutil.copy(source, folder / name)
            continue
        text, pictures = _notebook(source) if source.suffix == ".ipynb" else (source.read_text(encoding="utf-8"), {})
        (folder / name).write_text(relinked(text, name, found), encoding="utf-8")
        for picture, data in pictures.items():
            (folder / name).with_name(picture).write_bytes(data)


def _notebook(source: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook with its outputs as Markdown, and the pictures there."""
    from nbconvert import MarkdownExporter

    text, resources = MarkdownExporter().from_filename(str(source), resources={"unique_key": source.stem})
    return text, resources["outputs"]


def detach(site: Path) -> None:
    """Let the pages of a built site load what they need from the site.

    Raises:
        SystemExit: a page would load something else from a network.
    """
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for place, file in VENDORED.items():
            text = text.replace(place, Path(os.path.relpath(site / file, page.parent)).as_posix())
        if loaded := _LOADED.findall(text):
            sys.exit(f"{page} loads {', '.join(loaded)}; put the file into docs/vendor, and a row into VENDORED")
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1] == "gather":
        gather(ROOT / "build" / "docs")
    else:
        detach(ROOT / "build" / "site")
