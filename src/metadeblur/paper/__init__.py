"""Reproduce the paper's tables and figures, with its numbers beside this program's."""

from metadeblur.exports import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    experiments="EXPERIMENTS Experiment reproduce",
    numbers="TABLE_1 TABLE_2",
    runs="ReproduceSettings",
)
