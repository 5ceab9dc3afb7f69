"""`python -m topocell`."""

from topocell.cli import entry

entry()
