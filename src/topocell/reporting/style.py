"""Shared style of all drawings: operation labels, colour-blind-safe colours, fonts, reproducible files."""

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from topocell.io import files
from topocell.spaces.operations import KNOWN_OPERATIONS

if TYPE_CHECKING:  # matplotlib takes a second to import: it is, where something is drawn
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator


class Family(NamedTuple):
    """A family of operations.

    `label` is its name in legends, `colour` and `dashes` (points of ink and gap; none for a solid line) are those of
    its lines, which differ in both, `tint` is a light colour for fills.
    """

    key: str
    label: str
    colour: str
    tint: str
    dashes: tuple[float, ...] = ()


INK = "#1f2933"  # text and outlines
MUTED = "#7b8794"  # secondary text
FAINT = "#b8c1cc"  # structure that carries no operation
# Okabe and Ito's palette, which readers with any common colour blindness tell apart.
BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE = "#0072b2", "#d55e00", "#009e73", "#b5548d", "#3a9bd9", "#e69f00"
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, INK, MUTED)

FAMILIES: dict[str, Family] = {
    row.key: row
    for row in (
        Family("sep_conv", "separable conv", BLUE, "#e3f0f9"),
        Family("dil_conv", "dilated conv", VERMILION, "#fcebdf", (6, 2)),
        Family("conv", "convolution", "#8a6d00", "#faf3d4"),
        Family("pool", "pooling", GREEN, "#e0f4ee", (1.5, 1.5)),
        Family("skip", "skip", PURPLE, "#f7e6f0", (6, 2, 1.5, 2)),
        Family("other", "other", "#5f6b7a", "#eef1f4", (3, 3)),
    )
}

_RC: dict[Any, Any] = {
    "font.size": 9.0,
    "text.color": INK,
    "text.parse_math": False,  # names come from files: a dollar sign is a dollar sign
    "mathtext.default": "regular",
    "pdf.fonttype": 42,  # TrueType, which journals ask for
    "svg.fonttype": "none",
    "svg.hashsalt": "topocell",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.formatter.useoffset": False,
    "grid.color": "#e6eaee",
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
}


def short(operation: str) -> str:
    """A short readable label: `sep_conv_3x3` → "sep 3×3", `skip_connect` → "skip"; of others the name itself."""
    known = KNOWN_OPERATIONS.get(operation)
    return known.label if known else clipped(operation.replace("_", " "))


def family(operation: str) -> Family:
    """The family of an operation; names that are not known belong to "other"."""
    known = KNOWN_OPERATIONS.get(operation)
    return FAMILIES[known.family if known else "other"]


def printable(text: str) -> str:
    """The text with every character that XML cannot carry (control characters, surrogates) shown as U+FFFD."""
    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", text)


def clipped(text: str, length: int = 24) -> str:
    """A printable text that fits a label: at most `length` characters, the last one an ellipsis if it was cut."""
    text = printable(text)
    return text if len(text) <= length else text[: length - 1] + "…"


def labels(texts: Iterable[str], length: int = 24) -> list[str]:
    """Texts as `clipped`; of those that would be cut to the same, beginning and end, which tells settings apart."""
    texts, found = list(texts), []
    for text in texts:
        alike = [other for other in texts if other != text and clipped(other, length) == clipped(text, length)]
        if all(other.startswith(text) for other in alike):
            found.append(clipped(text, length))
        else:
            found.append(f"{printable(text)[: length // 3]}…{_end(printable(text), length)}")
    return found


def _end(text: str, length: int) -> str:
    """The last characters, from where a word or a part of a key begins."""
    end = text[1 - length :]
    return re.split(r"[. ]", end, maxsplit=1)[-1] or end


def blank(width: float, height: float, **options: Any) -> "Figure":
    """A white figure of that size in inches. It never passes through pyplot, so nothing global is left behind."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor="white", **options)


def whole() -> "MaxNLocator":
    """Ticks at whole numbers, also where the axis has room for one alone."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(integer=True, min_n_ticks=1)


@contextmanager
def styled() -> Iterator[None]:
    """matplotlib's defaults plus our style, whatever the user's own settings; both are restored afterwards."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)
        yield


def save(figure: "Figure", path: Path) -> None:
    """Write the figure as SVG, PDF or PNG by suffix. Equal figures give equal bytes: no date, no version, fixed ids.

    Call inside `styled()`; the folder is made if it is missing, and the file is replaced as a whole. Raises OSError.
    """
    drawn = io.BytesIO()
    if path.suffix.lower() == ".svg":
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    elif path.suffix.lower() == ".pdf":
        figure.savefig(drawn, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    else:
        figure.savefig(drawn, format="png", dpi=200, metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_out(path, drawn.getvalue())
