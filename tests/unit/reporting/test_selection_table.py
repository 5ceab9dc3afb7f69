"""The table of trials in the report: the best first, finalists before them, whatever a damaged line holds."""

from topocell.reporting.selection_table import SHOWN, selection_table


def trial(number: int, score: float | None, final: bool = False) -> dict[str, object]:
    return {"phase": "trial", "trial": number, "final": final, "key": f"k{number}", "score": score}


def test_the_best_trials_come_first() -> None:
    rows = [trial(0, 0.25), trial(1, None), trial(2, 0.5), {"phase": "retrain", "score": 9.0}]
    assert selection_table(rows, str) == [
        ["best of 3 trials", "score", "judged", "cell"],
        ["3", "0.5", "as trial", "k2"],
        ["1", "0.25", "as trial", "k0"],
        ["2", "—", "as trial", "k1"],
    ]
    finals = selection_table([*rows, trial(0, 0.1, final=True)], str)
    assert finals[1] == ["1", "0.1", "as finalist", "k0"] and len(finals) == 5
    assert len(selection_table([trial(n, n / 100) for n in range(50)], str)) == SHOWN + 1


def test_decisions_have_all_their_fields_and_nothing_gives_nothing() -> None:
    rows = [{"phase": "select", "cell": "normal", "kept": "a"}, {"phase": "select", "cell": "reduce", "race": 3}]
    assert selection_table(rows, str) == [["cell", "kept", "race"], ["normal", "a", ""], ["reduce", "", "3"]]
    assert selection_table([{"phase": "search"}], str) == []
