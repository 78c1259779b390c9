"""Measuring against the truth: protocol, rows, measures, tables, built-in clips."""
