"""Self-contained HTML pages: templates in which every string is escaped, with style, data and scripts in the file.

The policy of a page admits the scripts that it holds, by their hashes, and nothing from anywhere else.
"""

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from topocell.io import files
from topocell.reporting.cell_shapes import COLOURS
from topocell.reporting.style import printable

_HERE = Path(__file__).parent
#: In the order in which they need each other; the first two are libraries, see vendor/LICENSE.
SCRIPTS = ("vendor/d3.min.js", "vendor/plot.umd.min.js", "charts.js", "report.js")


class Script(NamedTuple):
    """A script of a page, and its hash as a policy names it."""

    text: Markup
    hash: str


def rendered(page: str, data: Any, **values: Any) -> str:
    """Return a page.

    Args:
        page: the template beside this file.
        data: what its charts are drawn from, as JSON.
        values: of the template.
    """
    scripts = [_script(name) for name in SCRIPTS]
    return str(
        printable(
            _template(page).render(
                scripts=[script.text for script in scripts],
                policy=_policy([script.hash for script in scripts]),
                data=_json(data),
                roles=list(COLOURS),
                **values,
            )
        )
    )


def _policy(hashes: list[str]) -> str:
    allowed = " ".join(f"'sha256-{found}'" for found in hashes)
    own = f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}"
    return f"{own}; base-uri 'none'; form-action 'none'"


def _json(data: Any) -> Markup:
    """Data for a script element, which no text in it can end."""
    text = files.to_json(data)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)  # nosec B704: see above


@cache
def _script(name: str) -> Script:
    text = printable((_HERE / name).read_text(encoding="utf-8"))
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return Script(Markup(text), base64.b64encode(digest).decode("ascii"))  # nosec B704: a file of ours


@cache
def _template(name: str) -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(name)
