"""Measuring against the truth, on clips that have one."""
