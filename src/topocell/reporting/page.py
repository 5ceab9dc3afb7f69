"""Self-contained HTML pages: templates in which every string is escaped, one style sheet, figures as inline SVG."""

import re
from pathlib import Path
from typing import Any

from markupsafe import Markup


def template(name: str) -> Any:
    """Return the template of that name beside this file."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(name)


def inlined(path: Path, prefix: str, label: str) -> Markup:
    """One of our own SVG files as an element of the page: ids made unique, size left to the style sheet."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    head, body = text.split(">", 1)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', head)
    size = [float(x) for x in box.groups()] if box else [600.0, 400.0]
    opening = Markup('<svg viewBox="0 0 {} {}" style="--w: {}px" role="img" aria-label="{}"').format(
        f"{size[0]:g}", f"{size[1]:g}", round(size[0] * 4 / 3), label
    )
    # The file is ours and matplotlib escapes every text in it.
    return (
        opening
        + Markup(' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">')
        + Markup(body)  # nosec B704: see above
    )
