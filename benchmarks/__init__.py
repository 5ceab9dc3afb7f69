"""Repeatable measurements. `make bench` runs them all and writes benchmarks/RESULTS.md; see the README beside this."""
