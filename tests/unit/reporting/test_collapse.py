"""Signs of a collapse, in words and from closed figures."""

from typing import Any

from topocell.reporting.collapse import signs
from topocell.reporting.epochs import search_epochs


def search_row(epoch: int, skips: int, **changes: Any) -> dict[str, Any]:
    own = {
        "operations": {"normal": {"skip_connect": skips, "sep_conv_3x3": 8 - skips}},
        "depth": {"normal": 2},
        "width": {"normal": 3},
    }
    figures = {"gap": {"soft": 0.5, "derived": 0.45}, "alpha_entropy": {"normal": 2.0 - epoch}, "beta_entropy": None}
    return {"phase": "search", "stage": "s", "stage_index": 0, "epoch": epoch, **own, **figures, **changes}


def test_signs_of_a_collapse_are_told_in_words() -> None:
    sound = {sign.name: sign for sign in signs(search_epochs([search_row(0, 3), search_row(1, 2)]))}
    assert not any(sign.bad for sign in sound.values())
    assert (
        sound["Skip connections, normal"].value == "2 of 8"
        and "38 % at most" in sound["Skip connections, normal"].sentence
    )
    assert sound["Discretisation gap"].value == "5.0 points" and sound["Entropy of α, normal"].value == "1.00 nats"
    bad = signs(search_epochs([search_row(0, 4, gap={"soft": 0.6, "derived": 0.1}, depth={"normal": 1})]))
    assert {sign.name for sign in bad if sign.bad} == {
        "Skip connections, normal",
        "Depth, normal",
        "Discretisation gap",
    }
    assert signs([]) == []
