"""What a run looks like: cell drawings, curves, tables, and the one-file HTML report."""
