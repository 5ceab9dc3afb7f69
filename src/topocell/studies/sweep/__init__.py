"""Sweeps: a grid of recipes × settings × seeds, each run a run directory, and one comparison of them all at the end.

`plan` reads what is asked, `protocols` says which jobs that takes, `crew` and `ray_crew` carry them out in processes
here and in a Ray cluster, `schedule` brings both together, `comparison` and `report` say what came of it.
"""
