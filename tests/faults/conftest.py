"""The short form of the suite runs with all other tests; TOPOCELL_FAULTS=full runs all of it (`make faults`)."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.faults.pipelines import Workshop
from tests.faults.record import Tally
from tests.helpers.forked import Forked

FULL = os.environ.get("TOPOCELL_FAULTS") == "full"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: only in the full form of the fault suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("full") and not FULL:
            item.add_marker(pytest.mark.skip(reason="only in the full form: make faults"))


@pytest.fixture(scope="session")
def full() -> bool:
    return FULL


@pytest.fixture(scope="session")
def workshop(forked: Forked, tmp_path_factory: Any) -> Workshop:
    return Workshop(forked, tmp_path_factory.mktemp("unbroken"))


@pytest.fixture
def tally() -> Iterator[Callable[[str], Tally]]:
    """Makes tallies that are kept when the test ends, however it ends."""
    made: list[Tally] = []

    def begin(name: str) -> Tally:
        made.append(Tally(name))
        return made[-1]

    yield begin
    for one in made:
        one.keep()
