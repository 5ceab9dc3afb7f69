"""What the processes of a run say about each other; tests/runs/test_processes.py has them at work."""

import pytest

from topocell.runtime.distributed import apart


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ("2.9.0", "2.10.0", ("2.9.0", "2.10.0")),
        ("name: dots\nseed: 0\nlr: 1", "name: dots\nseed: 1\nlr: 2", ("seed: 0", "seed: 1")),
        ("name: dots", "name: dots\nseed: 1", ("nothing", "seed: 1")),
        (f"root: {'far/' * 30}a", f"root: {'far/' * 30}b", (f"...{'r/' + 'far/' * 7}a", f"...{'r/' + 'far/' * 7}b")),
        ("x" * 90, "y" * 90, (f"{'x' * 57}...", f"{'y' * 57}...")),
        ("a\n", "a", ("a", "a")),
    ],
)
def test_two_texts_are_shown_where_they_differ(one: str, other: str, words: tuple[str, str]) -> None:
    assert apart(one, other) == words
