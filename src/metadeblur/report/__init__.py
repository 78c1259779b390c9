"""The page about a run: what was done, with pictures, plots and reasons."""
