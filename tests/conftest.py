"""One thread per test process: the networks of the tests are too small to gain from more.

Compiled kernels are taken without measuring: which way is the fastest differs from one moment to the next.
"""

import gc
import os
from collections.abc import Iterator

import hypothesis
import pytest
import torch
from tests.helpers.forked import Forked

from topocell.registry import HOMES, Registry, known
from topocell.spaces import KNOWN_OPERATIONS

# A busy machine is no fault of what is tested.
hypothesis.settings.register_profile("topocell", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("topocell")
torch.set_num_threads(1)
os.environ.setdefault("TOPOCELL_NATIVE", "1")


def pytest_collection_finish() -> None:
    """What the tests are made of stays: looking through it for garbage, again and again, took a tenth of their time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 50, 100)


@pytest.fixture(autouse=True)
def own_tables() -> Iterator[None]:
    """What a test registers, such as a user's own space, is gone after it."""
    tables = [table for kind in HOMES if isinstance(table := known(kind), Registry)]
    before = [(table, dict(table)) for table in (*tables, KNOWN_OPERATIONS)]
    yield
    for table, rows in before:
        table.clear()
        table.update(rows)


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forked]:
    """A server of commands in forked processes, one for all tests: starting it takes longer than most of them."""
    server = Forked(tmp_path_factory.mktemp("forked"))
    yield server
    server.close()
