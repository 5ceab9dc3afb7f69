"""Presentation of a run: cell drawings, curves, tables, and the one-file HTML report."""
