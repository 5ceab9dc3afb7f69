"""The search: read `loop.py` first, then `supernet/levels.py`; `config/search.py` has its settings."""
