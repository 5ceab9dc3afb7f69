"""What notebooks show of an object: a small card of plain HTML, in which every string is escaped and nothing runs."""

import base64
from collections.abc import Sequence

from markupsafe import Markup


def card(
    title: str, rows: Sequence[tuple[str, str]], *, picture: str = "", source: tuple[str, str] | None = None
) -> str:
    """Return a card as HTML.

    Args:
        title: its heading.
        rows: labels and values; those without a value are left out.
        picture: an SVG, which is shown as an image: scripts in images do not run.
        source: name and text of a file, folded up.
    """
    cells = Markup("<tr><th style='text-align: left'>{}</th><td style='text-align: left'>{}</td></tr>")
    parts = [Markup("<strong>{}</strong><table>").format(title)]
    parts += [cells.format(label, value) for label, value in rows if value]
    parts.append(Markup("</table>"))
    if picture:
        encoded = base64.b64encode(picture.encode()).decode("ascii")
        image = "<img alt='Cells as graphs' style='max-width: 100%' src='data:image/svg+xml;base64,{}'>"
        parts.append(Markup(image).format(encoded))
    if source is not None:
        parts.append(Markup("<details><summary>{}</summary><pre>{}</pre></details>").format(*source))
    return str(Markup("<div>{}</div>").format(Markup("").join(parts)))
