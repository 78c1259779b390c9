"""Measuring against the truth: protocol, rows, measures, tables, built-in clips."""

from metadeblur.exports import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    builtin="make_builtin",
    comparison="across_seeds compare",
    guard_trials="guard_trial trial_table verdict",
    measures="Measure measure_for",
    methods="AdaptationMethod find_method",
    protocol="evaluate read_records read_summary",
    records="ClipRecord GuardRecord Summary",
    report="write_table write_tables",
    settings="EvaluateSettings",
    summary="interval summarize",
)
