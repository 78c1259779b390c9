"""Measuring against the truth: protocol, rows, measures, tables, built-in clips."""

from typing import TYPE_CHECKING

from metadeblur.system.lazy import lazy_names

if TYPE_CHECKING:
    from metadeblur.evaluation.builtin import make_builtin as make_builtin
    from metadeblur.evaluation.comparison import across_seeds as across_seeds
    from metadeblur.evaluation.comparison import compare as compare
    from metadeblur.evaluation.guard_trials import guard_trial as guard_trial
    from metadeblur.evaluation.guard_trials import trial_table as trial_table
    from metadeblur.evaluation.guard_trials import verdict as verdict
    from metadeblur.evaluation.measures import Measure as Measure
    from metadeblur.evaluation.measures import measure_for as measure_for
    from metadeblur.evaluation.methods import AdaptationMethod as AdaptationMethod
    from metadeblur.evaluation.methods import find_method as find_method
    from metadeblur.evaluation.protocol import evaluate as evaluate
    from metadeblur.evaluation.protocol import read_records as read_records
    from metadeblur.evaluation.protocol import read_summary as read_summary
    from metadeblur.evaluation.records import ClipRecord as ClipRecord
    from metadeblur.evaluation.records import GuardRecord as GuardRecord
    from metadeblur.evaluation.records import Summary as Summary
    from metadeblur.evaluation.report import write_table as write_table
    from metadeblur.evaluation.report import write_tables as write_tables
    from metadeblur.evaluation.settings import EvaluateSettings as EvaluateSettings
    from metadeblur.evaluation.summary import interval as interval
    from metadeblur.evaluation.summary import summarize as summarize

__getattr__ = lazy_names(
    __name__,
    {
        "builtin": ["make_builtin"],
        "comparison": ["across_seeds", "compare"],
        "guard_trials": ["guard_trial", "trial_table", "verdict"],
        "measures": ["Measure", "measure_for"],
        "methods": ["AdaptationMethod", "find_method"],
        "protocol": ["evaluate", "read_records", "read_summary"],
        "records": ["ClipRecord", "GuardRecord", "Summary"],
        "report": ["write_table", "write_tables"],
        "settings": ["EvaluateSettings"],
        "summary": ["interval", "summarize"],
    },
)
