"""Reproduce the paper's tables and figures, with its numbers beside this program's."""
