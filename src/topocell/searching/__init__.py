"""The search: `loop.py` first, then `levels.py`; `plan.py` says what a search can be told, `selection.py` ends it."""
