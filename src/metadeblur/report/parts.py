"""Everything that the report shows of one shot, each part empty without material: viewer, guard, pairs, map, plots."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from metadeblur.imaging.pictures import Mark, line_plot
from metadeblur.report.html import (
    as_number,
    as_table,
    as_tables,
    fact_list,
    figure_text,
    flat,
    percent,
    plot_key,
    section,
    sentence,
    text,
    title_of,
)
from metadeblur.report.look import Look, ShotStory, share_of, shot_outcome
from metadeblur.report.places import map_part, pairs_part
from metadeblur.report.viewer import viewer_part
from metadeblur.system.names import counted


def shot_parts(shot: Mapping[str, Any], story: ShotStory, video: Mapping[str, Any], look: Look, number: int) -> str:
    """Everything that there is to show of one shot, as HTML; ``number`` sets it apart from the page's other shots."""
    return "".join(
        (
            viewer_part(shot, story, look, number),
            _guard(shot),
            pairs_part(shot, story, look),
            map_part(shot, story, video, look),
            _scores(shot, story),
            _losses(shot, story),
            _reblurrer(shot),
        )
    )


def _guard(shot: Mapping[str, Any]) -> str:
    """The guard's decision: the share on a scale, and a row for each reason."""
    reasons, outcome = as_tables(shot.get("reasons")), shot_outcome(shot)
    if outcome == "unchecked":
        said = "The guard was off: the adaptation was used as it came, and nothing was checked."
        return section("The guard\u2019s decision", said, _scale(share_of(shot)))
    if not reasons:
        return ""
    rows = "".join(_reason(reason) for reason in reasons)
    table = (
        '<table class="reasons"><caption class="unseen">Reasons</caption><thead><tr>'
        '<th scope="col">Reason</th><th scope="col" class="number">Measured</th>'
        '<th scope="col" class="number">Limit</th><th scope="col">Result</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )
    if outcome in ("unchanged", "base"):
        return section("The decision", "What was measured before anything was adapted.", table)
    said = "Before the adaptation is used it has to prove itself on pairs it never saw and on restored frames."
    return section("The guard\u2019s decision", said, _scale(share_of(shot)) + table)


def _scale(share: float) -> str:
    """How much of the adaptation is used, between the base model and the fully adapted one."""
    return (
        f'<div class="scale" role="img" aria-label="{percent(share)} of the adaptation is used"><div class="scale-bar">'
        f'<i style="width:{100 * share:.1f}%"></i><b style="left:{100 * share:.1f}%"></b></div>'
        f'<div class="scale-ends"><span>Base model</span><span>{percent(share)} used</span><span>Fully adapted</span>'
        "</div></div>"
    )


def _reason(reason: Mapping[str, Any]) -> str:
    """One row of the guard's table."""
    passed, excused = bool(reason.get("passed")), bool(reason.get("excused"))
    figure, limit = as_number(reason.get("figure")), as_number(reason.get("limit"))
    side = ""
    if math.isfinite(figure) and math.isfinite(limit) and figure != limit:
        side = "at least " if (figure > limit) == (passed and not excused) else "at most "
    tick = '<path d="M3 8.5l3.2 3.2L13 4.5"/>' if passed else '<path d="M4 4l8 8M12 4l-8 8"/>'
    result = (
        f'<span class="result{"" if passed else " no"}"><svg viewBox="0 0 16 16" aria-hidden="true">{tick}</svg>'
        f"{'Let pass' if excused else 'Passed' if passed else 'Failed'}</span>"
    )
    said = f"<small>{text(sentence(reason['text']))}</small>" if reason.get("text") else ""
    return (
        f'<tr><th scope="row">{text(title_of(reason.get("name") or "Reason"))}{said}</th>'
        f'<td class="number" data-name="Measured">{figure_text(figure)}</td>'
        f'<td class="number" data-name="Limit">{side}{figure_text(limit)}</td><td>{result}</td></tr>'
    )


def _scores(shot: Mapping[str, Any], story: ShotStory) -> str:
    """Sharpness over time, with the frames that gave pseudo-sharp patches marked."""
    scores = list(story.frame_scores or shot.get("scores") or [])
    if len(scores) < 2:
        return ""
    places = as_tables(shot.get("pairs"))
    marks: list[Mark] = []
    for key, what, ring in (("blurred_frame", "real blurred", True), ("frame", "pseudo-sharp", False)):
        for frame, count in sorted(
            Counter(int(p[key]) for p in places if math.isfinite(as_number(p.get(key)))).items()
        ):
            position = frame - story.first_frame
            if 0 <= position < len(scores):
                noun = "patch" if count == 1 else "patches"
                marks.append(Mark(frame, as_number(scores[position]), f"Frame {frame}: {count} {what} {noun}", ring))
    known = [(value, n) for n, value in enumerate(map(as_number, scores)) if math.isfinite(value)]
    if not known:
        return ""
    (best, best_at), (worst, worst_at) = min(known), max(known)
    summary = (
        f"Self-shift score of {counted(len(scores), 'frame')}: "
        f"sharpest {best:.1f} dB at frame {best_at + story.first_frame}, "
        f"most blurred {worst:.1f} dB at frame {worst_at + story.first_frame}."
    )
    plot = line_plot(
        scores,
        summary=summary,
        x_title="Frame",
        y_title="Self-shift score in dB, sharper is higher",
        start=story.first_frame,
        marks=marks,
        low_is_up=True,
        least_span=2.0,
    )
    key = plot_key([("mark", "gave pseudo-sharp patches"), ("hole", "gave real blurred patches")]) if marks else ""
    said = "The blur of a shaky clip comes and goes."
    if marks:
        said += " The sharper moments teach the network what the others should look like."
    return section("Sharpness over time", said, key + plot)


def _losses(shot: Mapping[str, Any], story: ShotStory) -> str:
    """The loss by step of the adaptation, with a running mean."""
    history: Sequence[Any] = story.history or shot.get("losses") or []
    losses = [as_number(entry.get("loss") if isinstance(entry, Mapping) else entry) for entry in history]
    if sum(map(math.isfinite, losses)) < 2:
        return ""
    first = history[0].get("step", 0) if isinstance(history[0], Mapping) else 0
    reach = max(2, len(losses) // 8)
    trend = [_mean_of_finite(losses[max(0, n - reach) : n + reach + 1]) for n in range(len(losses))]
    known = [loss for loss in trend if math.isfinite(loss)]
    ends = f"from {figure_text(known[0])} to {figure_text(known[-1])}"
    summary = f"Training loss over {counted(len(losses), 'step')}: running mean {ends}."
    plot = line_plot(
        losses,
        summary=summary,
        x_title="Step",
        y_title="Loss",
        start=int(first) if math.isfinite(as_number(first)) else 0,
        trend=trend if len(losses) >= 8 else (),
    )
    key = plot_key([("faint", "each step"), ("line", "running mean")]) if len(losses) >= 8 else ""
    said = "The error on the pairs while the network adapts. One pair is harder than another, so it moves up and down."
    return section("Loss by step", said, key + plot)


def _reblurrer(shot: Mapping[str, Any]) -> str:
    """What the reblurrer says about itself."""
    facts = flat(as_table(shot.get("reblurrer")))
    said = "How the blur of this clip was measured and copied onto its sharp patches."
    return section("How the blur was modelled", said, fact_list(facts)) if facts else ""


def _mean_of_finite(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan
