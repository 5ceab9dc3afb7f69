"""The operations by what they have: a bank of their own, a map without weights."""

from topocell.nn.primitives import PRIMITIVES

BANKS = {name: row.bank for name, row in PRIMITIVES.items() if row.bank is not None and row.weightless is None}
SHARED = {name: row.weightless for name, row in PRIMITIVES.items() if row.weightless is not None and name != "none"}
