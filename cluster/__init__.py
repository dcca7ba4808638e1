"""Run Pond: launch a cluster, simulate one, break it with faults and liars, check what it promised, measure it."""
