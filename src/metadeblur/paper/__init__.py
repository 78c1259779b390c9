"""Reproduce the paper's tables and figures, with its numbers beside this program's."""

from typing import TYPE_CHECKING

from metadeblur.system.lazy import lazy_names

if TYPE_CHECKING:
    from metadeblur.paper.experiments import EXPERIMENTS as EXPERIMENTS
    from metadeblur.paper.experiments import Experiment as Experiment
    from metadeblur.paper.experiments import reproduce as reproduce
    from metadeblur.paper.numbers import TABLE_1 as TABLE_1
    from metadeblur.paper.numbers import TABLE_2 as TABLE_2
    from metadeblur.paper.runs import ReproduceSettings as ReproduceSettings

__getattr__ = lazy_names(
    __name__,
    {
        "experiments": ["EXPERIMENTS", "Experiment", "reproduce"],
        "numbers": ["TABLE_1", "TABLE_2"],
        "runs": ["ReproduceSettings"],
    },
)
